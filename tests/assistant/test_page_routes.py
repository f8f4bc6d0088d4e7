"""The player's requests: pixels and frames arrive exactly, sessions are separate, and what is unsafe is refused."""

import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pretrain.assistant.artefacts import Sessions
from pretrain.assistant.assistant import Assistant
from pretrain.assistant.export import Scene, export
from pretrain.assistant.film_choice import FilmChoice, offered, safe_name
from pretrain.assistant.flow_tracker import FlowTracker
from pretrain.assistant.visitors import Visitors
from pretrain.generation.film_file import write_film
from tests.helpers.videos import make, make_bad, number

fastapi = pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from fastapi.testclient import TestClient  # noqa: E402 after the check that it is there

from pretrain.assistant.page_guard import add_guard  # noqa: E402
from pretrain.assistant.page_routes import add_routes  # noqa: E402

HEIGHT, WIDTH, FRAMES = 64, 96, 12


def square(frame: int) -> tuple[int, int, int, int]:
    """left, top, right, bottom of the red square."""
    return 10 + 4 * frame, 20, 30 + 4 * frame, 40


def _frame(index: int) -> np.ndarray:
    picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    left, top, right, bottom = square(index)
    picture[top:bottom, left:right] = (220, 40, 40)
    return picture


class Page:
    """A server without gradio, and browsers of it."""

    def __init__(self, folder: Path) -> None:
        self.films_folder, uploads = folder / "films", folder / "uploads"
        self.films_folder.mkdir()
        write_film(self.films_folder / "square.mp4", map(_frame, range(FRAMES)), (HEIGHT, WIDTH), 12.0, crf=5)
        make(self.films_folder / "numbers.mp4")
        make_bad(folder)
        (folder / "secret.mp4").write_bytes((self.films_folder / "numbers.mp4").read_bytes())
        (self.films_folder / "out.mp4").symlink_to(folder / "secret.mp4")
        self.choice = FilmChoice(offered([self.films_folder]), uploads, upload_bytes=2**20)
        folders = (self.films_folder, uploads)
        self.visitors = Visitors(
            Sessions(folder / "sessions"), lambda session: Assistant(session, FlowTracker(), folders)
        )
        app = fastapi.FastAPI()
        add_guard(app)
        add_routes(app, self.visitors, self.choice)

        @app.get("/gradio_api/upload")
        def gradio() -> str:
            return "reached"

        self.client = TestClient(app, base_url="http://127.0.0.1:7860")

    def browser(self, page: str) -> "Browser":
        return Browser(self, self.visitors.enter(page, ""))


class Browser:
    """One session's requests."""

    def __init__(self, page: Page, name: str) -> None:
        self.page, self.name, self.base = page, name, f"/session/{name}"

    def get(self, path: str) -> Any:
        return self.page.client.get(self.base + path)

    def state(self) -> dict[str, Any]:
        return self.get("/state").json()

    def wish(self, path: str, /, **wish: Any) -> dict[str, Any]:
        answer = self.page.client.post(f"{self.base}/{path}", json=wish)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, path: str, /, **wish: Any) -> str:
        answer = self.page.client.post(f"{self.base}/{path}", json=wish)
        assert answer.status_code == 400, answer.text
        return answer.json()["error"]

    def until(self, ready: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        for _ in range(600):
            if ready(state := self.state()):
                return state
            time.sleep(0.05)
        raise AssertionError(f"the state stays {state}")

    def click(self, x: float, y: float, frame: int = 0, kind: str = "plus", to: str | None = None) -> dict[str, Any]:
        return self.wish("point", kind=kind, frame=frame, path=[[x, y]], object=to)

    def mask(self, object_id: str, frame: int) -> np.ndarray:
        runs = self.get(f"/masks?first={frame}&stop={frame + 1}").json()[str(frame)][object_id]
        return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape((HEIGHT, WIDTH), order="F")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    made = Page(tmp_path_factory.mktemp("page"))
    yield made
    made.visitors.close()


@pytest.fixture
def browser(page: Page, request: pytest.FixtureRequest) -> Iterator[Browser]:
    yield page.browser(request.node.name)
    page.visitors.leave(request.node.name)


def _iou(mask: np.ndarray, frame: int) -> float:
    left, top, right, bottom = square(frame)
    truth = np.zeros_like(mask)
    truth[top:bottom, left:right] = True
    return (mask & truth).sum() / (mask | truth).sum()


def test_a_click_is_a_mask_that_is_tracked_and_corrected(browser: Browser) -> None:
    state = browser.wish("open", film="films/square.mp4")
    assert (state["film"]["frames"], state["film"]["width"], state["film"]["height"]) == (FRAMES, WIDTH, HEIGHT)
    made = browser.click(20.4, 30.6)["made"]
    assert _iou(browser.mask(made, 0), 0) > 0.9
    (each,) = browser.state()["objects"]
    assert each["ranges"] == [[0, 1]] and each["locked"] == [0]
    assert each["marks"] == [{"kind": "plus", "frame": 0, "path": [[20.4, 30.6]]}]
    browser.wish("track")
    state = browser.until(lambda state: state["job"] is None)
    assert state["objects"][0]["ranges"] == [[0, FRAMES]] and not state["news"]["wrong"], state
    assert min(_iou(browser.mask(made, frame), frame) for frame in range(FRAMES)) > 0.8
    browser.click(*square(6)[:2], frame=6, to=made)
    state = browser.until(lambda state: state["job"] is None)
    assert state["objects"][0]["locked"] == [0, 6]


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("box", [[8, 18], [32, 42]]),
        ("scribble", [[14, 24], [20, 30], [26, 36]]),
        ("lasso", [[6, 16], [34, 16], [34, 44], [6, 44]]),
    ],
)
def test_boxes_scribbles_and_lassos_point_too(kind: str, path: list, browser: Browser) -> None:
    browser.wish("open", film="films/square.mp4")
    made = browser.wish("point", kind=kind, frame=0, path=path, object=None)["made"]
    assert _iou(browser.mask(made, 0), 0) > 0.8


def test_objects_are_renamed_hidden_and_deleted(browser: Browser) -> None:
    browser.wish("open", film="films/square.mp4")
    made = browser.click(20, 30)["made"]
    assert browser.wish("rename", object=made, name="car")["objects"][0]["name"] == "car"
    assert browser.wish("hide", object=made, hidden=True)["objects"][0]["visible"] is False
    assert browser.wish("hide", object=made, hidden=False)["objects"][0]["visible"] is True
    assert browser.wish("delete", object=made)["objects"] == []


def test_frames_are_those_of_the_source_and_the_copy_is_streamed_in_parts(browser: Browser) -> None:
    browser.wish("open", film="films/numbers.mp4")
    for index in (0, 13, 39):
        picture = np.array(Image.open(io.BytesIO(browser.get(f"/frame/{index}.jpg").content)))
        assert number(picture) == index
    assert browser.get("/frame/40.jpg").status_code == 400
    browser.until(lambda state: state["film"]["playable"] == 1)
    part = browser.page.client.get(f"{browser.base}/film.mp4", headers={"Range": "bytes=100-199"})
    assert (part.status_code, len(part.content), part.headers["content-type"]) == (206, 100, "video/mp4")


def test_a_session_is_found_by_its_name_only_and_again_after_a_reload(page: Page) -> None:
    one, two = page.browser("first"), page.browser("second")
    one.wish("open", film="films/square.mp4")
    one.click(20, 30)
    scene = Scene(page.visitors.get(one.name).session, page.visitors.get(one.name).assistant.film, [])
    assert two.state()["film"] is None and two.state()["objects"] == []
    artefact = export(
        "csv", Scene(scene.session, scene.film, list(page.visitors.get(one.name).assistant.objects.values()))
    )
    assert one.get(f"/artefact/{artefact.id}?save=true").status_code == 200
    assert two.get(f"/artefact/{artefact.id}").status_code == 400
    for name in ("", "x" * 32, "..", one.name[:-1], "../" + one.name):
        answer = page.client.get(f"/session/{name}/state")
        assert answer.status_code in (400, 404) and "film" not in answer.json(), name
    page.visitors.leave("first")
    assert page.visitors.enter("first again", one.name) == one.name
    assert [each["id"] for each in one.state()["objects"]] == ["obj1"]
    page.visitors.leave("second")
    assert page.visitors.enter("second again", two.name) != two.name, "an empty session is not kept"
    page.visitors.leave("first again")
    page.visitors.leave("second again")


def test_files_outside_the_folders_are_not_offered_loaded_or_sent(page: Page, browser: Browser) -> None:
    assert browser.get("/films").json() == ["films/numbers.mp4", "films/square.mp4"]
    secret = page.films_folder.parent / "secret.mp4"
    for name in (str(secret), "../secret.mp4", "films/../../secret.mp4", "films/out.mp4", "http://127.0.0.1/a.mp4", ""):
        assert "no such film" in browser.refused("open", film=name)
    state = browser.wish("open", film="films/square.mp4")
    assert "not for download" in browser.get(f"/artefact/{state['film']['id']}").json()["error"]


def test_what_cannot_be_done_is_a_sentence(page: Page, browser: Browser) -> None:
    assert "choose one first" in browser.refused("point", kind="plus", frame=0, path=[[1, 1]], object=None)
    browser.wish("open", film="films/square.mp4")
    assert "point at something first" in browser.refused("track")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"path": [[WIDTH, 5]]}, "outside the picture"),
        ({"path": [[-1, 5]]}, "outside the picture"),
        ({"frame": FRAMES}, "no frame 12"),
        ({"frame": 1.5}, "frame is a whole number"),
        ({"frame": True}, "frame is a whole number"),
        ({"path": [[1, 2, 3]]}, "two finite numbers"),
        ({"path": [["1", 2]]}, "two finite numbers"),
        ({"path": []}, "1 to 4096 points"),
        ({"path": [[1, 1]] * 5000}, "1 to 4096 points"),
        ({"kind": "wand"}, "kind is plus"),
        ({"kind": "lasso"}, "encloses nothing"),
        ({"object": "obj9"}, "no such object"),
        ({"object": ["obj1"]}, "no such object"),
    ]
    for change, words in cases:
        found = browser.refused("point", **({"kind": "plus", "frame": 0, "path": [[20, 30]], "object": None} | change))
        assert words in found, (change, found)
    assert browser.state()["objects"] == []
    assert "a JSON object" in page.client.post(f"{browser.base}/track", json=[]).json()["error"]
    nan = '{"kind": "plus", "frame": 0, "path": [[NaN, 1]], "object": null}'
    answer = page.client.post(f"{browser.base}/point", content=nan, headers={"Content-Type": "application/json"})
    assert "two finite numbers" in answer.json()["error"]


def test_uploads_are_limited_checked_and_leave_nothing_behind(page: Page, browser: Browser) -> None:
    def upload(name: str, content: bytes) -> Any:
        return page.client.post(f"{browser.base}/upload", params={"file": name}, content=content)

    film = (page.films_folder / "square.mp4").read_bytes()
    state = upload("../../my film.mp4", film).json()
    assert state["film"]["name"] == "my film.mp4" and state["film"]["frames"] == FRAMES
    assert "at most 1 MiB" in upload("large.mp4", bytes(2**20 + 1)).json()["error"]
    assert "empty" in upload("none.mp4", b"").json()["error"]
    assert "cannot be decoded" in upload("text.mp4", b"this is no video\n" * 40).json()["error"]
    assert browser.state()["film"]["name"] == "my film.mp4", "the film before stays"
    assert not list(page.choice.uploads.iterdir())


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("../../etc/passwd.mp4", "passwd.mp4"),
        ("C:\\films\\a b.mp4", "a b.mp4"),
        ("a;rm -rf $(x).mp4", "a_rm -rf __x_.mp4"),
        ("…", "upload"),
        ("", "upload"),
        (".hidden", "hidden"),
        ("n" * 300 + ".mp4", "n" * 60 + ".mp4"),
        ("a\0b.mp4", "a_b.mp4"),
    ],
)
def test_names_of_uploads_are_plain(given: str, kept: str) -> None:
    assert safe_name(given) == kept


def test_other_names_other_sites_and_other_contents_are_refused(page: Page, browser: Browser) -> None:
    client, state = page.client, f"{browser.base}/state"
    assert client.get(state, headers={"Host": "evil.example"}).status_code == 403
    assert client.get(state, headers={"Host": "localhost:7860"}).status_code == 200
    wish = f"{browser.base}/cancel"
    json = {"Content-Type": "application/json"}
    assert client.post(wish, content="{}", headers=json | {"Origin": "http://evil.example"}).status_code == 403
    assert client.post(wish, content="{}", headers=json | {"Origin": "http://127.0.0.1:9"}).status_code == 403
    assert client.post(wish, content="{}", headers=json | {"Origin": "http://127.0.0.1:7860"}).status_code == 200
    assert client.post(wish, content="{}", headers={"Content-Type": "text/plain"}).status_code == 415
    assert client.post(wish, content=b" " * (2**20 + 1), headers=json).status_code == 413
    assert client.post(wish, content=iter([b"{}"]), headers=json).status_code == 413, "a length is needed"
    closed = client.get("/gradio_api/upload")
    assert closed.status_code == 404 and "default-src 'self'" in closed.headers["content-security-policy"]


def test_a_cancelled_tracking_keeps_the_masks_from_before(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    browser.wish("open", film="films/square.mp4")
    browser.click(20, 30)
    visitor = browser.page.visitors.get(browser.name)
    real = visitor.assistant.track

    def slowly(objects: Any, progress: Any, cancelled: Any) -> Any:
        def slow(done: int, total: int) -> None:
            progress(done, total)
            time.sleep(0.2)

        return real(objects, slow, cancelled)

    monkeypatch.setattr(visitor.assistant, "track", slowly)
    assert browser.wish("track")["job"]["what"] == "tracking"
    browser.until(lambda state: state["job"] is None or state["job"]["done"] > 0)
    assert "still running" in browser.refused("point", kind="plus", frame=0, path=[[20, 30]], object=None)
    browser.wish("cancel")
    state = browser.until(lambda state: state["job"] is None)
    assert state["objects"][0]["ranges"] == [[0, 1]] and state["news"]["text"] == "tracking was cancelled"
