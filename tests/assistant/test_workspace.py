"""Pointing, tracking and correcting in a session: locked frames, cancelling, bad input, resuming, and two sessions."""

import threading
from pathlib import Path

import numpy as np
import pytest

from datamodules.sources.shape_scenes import MovingShape, Scene
from pretrain.assistant.artefacts import Limits, Session
from pretrain.assistant.assistant import Assistant
from pretrain.assistant.flow_tracker import FlowTracker
from pretrain.assistant.prompts import Box, Points
from pretrain.assistant.tracker import Cancelled
from tests.helpers.scenes import click, crossing, iou, leaving, write_scene
from tests.helpers.videos import make_bad

LENGTH = 12


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scene(tmp_path_factory.mktemp("films") / "crossing.mp4", crossing(LENGTH))


@pytest.fixture
def assistant(tmp_path: Path, film: Path):
    made = Assistant(Session(tmp_path / "session"), FlowTracker(), [film.parent])
    made.load(film)
    yield made
    made.close()


def all_masks(assistant: Assistant, name: str) -> dict[int, np.ndarray]:
    return dict(assistant.mask_frames(name))


def test_pointing_gives_a_mask_and_tracking_all_masks(assistant: Assistant) -> None:
    scene = crossing(LENGTH)
    circle, square = assistant.point(click(scene, 0, 5)), assistant.point(click(scene, 1, 0))
    assert (circle.id, square.id) == ("obj1", "obj2") and circle.locked == (5,)
    assert iou(assistant.masks(5)["obj1"], scene.masks(5)[0]) > 0.9 and assistant.mask("obj1", 4) is None
    told: list[tuple[int, int]] = []
    call = assistant.track(progress=lambda done, total: told.append((done, total)))
    assert call.made == ("track1", "track2") and told == [(n, 22) for n in range(23)]
    for number, name in enumerate(("obj1", "obj2")):
        found = all_masks(assistant, name)
        assert list(found) == list(range(LENGTH))
        assert np.mean([iou(mask, scene.masks(index)[number]) for index, mask in found.items()]) > 0.85
    assert [each.id for each in assistant.session.lineage("track1")] == ["film1", "track1"]


def test_a_correction_locks_its_frame_and_tracks_to_the_next_locked_one(assistant: Assistant) -> None:
    scene = crossing(LENGTH)
    assistant.point(click(scene, 0, 0))
    assistant.point(click(scene, 0, 8), "obj1")
    assistant.track()
    before = all_masks(assistant, "obj1")
    call = assistant.refine(click(scene, 1, 3), "obj1")  # the square too, from frame 3 on
    assert "4 more frames" in call.said and assistant.objects["obj1"].locked == (0, 3, 8)
    after = all_masks(assistant, "obj1")
    changed = [index for index in after if not np.array_equal(before[index], after[index])]
    assert changed == [3, 4, 5, 6, 7]
    assert iou(after[3], scene.masks(3).any(0)) > 0.85
    assistant.refine(click(scene, 1, 3, positive=False), "obj1")
    assert iou(all_masks(assistant, "obj1")[5], scene.masks(5)[0]) > 0.85, "a negative click takes it away again"


def test_a_cancelled_tracking_leaves_the_masks_of_before(assistant: Assistant) -> None:
    scene = crossing(LENGTH)
    assistant.point(click(scene, 0))
    assistant.track()
    before = all_masks(assistant, "obj1")
    assistant.point(click(scene, 1, 6), "obj1")
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(Cancelled):
        assistant.track(cancelled=cancelled)
    after = all_masks(assistant, "obj1")
    assert [index for index in after if not np.array_equal(before[index], after[index])] == [6]
    assert assistant.watch.cancelled() is False, "the next call is not cancelled"
    assistant.track()
    assert not np.array_equal(all_masks(assistant, "obj1")[7], before[7])


def test_an_object_may_be_said_to_be_out_of_sight(tmp_path: Path) -> None:
    scene = leaving()
    film = write_scene(tmp_path / "leaving.mp4", scene)
    assistant = Assistant(Session(tmp_path / "session"), FlowTracker(), [tmp_path])
    assistant.load(film)
    assistant.point(click(scene, 0))
    gone = next(index for index in range(len(scene)) if not scene.masks(index)[0].any())
    assistant.point(click(scene, 1, gone), "obj1")  # wrongly: the square
    assistant.point(click(scene, 1, gone, positive=False), "obj1")
    mask = assistant.mask("obj1", gone)
    assert mask is not None and not mask.any()
    assistant.track()
    found = all_masks(assistant, "obj1")
    assert not found[gone].any() and iou(found[28], scene.masks(28)[0]) > 0.8
    assistant.close()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (Points(0, ((128.0, 3.0),), (True,)), "lies outside the picture of 128 x 96 pixels"),
        (Points(12, ((3.0, 3.0),), (True,)), "no frame 12: the film has frames 0 to 11"),
        (Points(0, ((3.0, 3.0),), (True,)), r"nothing stands out at \(3, 3\) of frame 0: point at something"),
        (Box(0, 100, 2, 120, 20), "nothing stands out at frame 0"),
        (Points(0, ((20.0, 30.0),), (False,)), "begin with a point on the object"),
    ],
)
def test_clicks_that_find_nothing_say_so_and_make_nothing(assistant: Assistant, prompt: Points, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        assistant.point(prompt)
    assert not assistant.objects and [each.id for each in assistant.session.all()] == ["film1"]
    with pytest.raises(ValueError, match="nothing to track"):
        assistant.track()


def test_an_empty_frame_holds_nothing(tmp_path: Path) -> None:
    assistant = Assistant(Session(tmp_path / "session"), FlowTracker(), [tmp_path])
    assistant.load(write_scene(tmp_path / "empty.mp4", Scene((), 3)))
    with pytest.raises(ValueError, match="nothing stands out"):
        assistant.point(Points(1, ((60.0, 50.0),), (True,)))
    with pytest.raises(ValueError, match="no object 'obj1'; pointed at: nothing yet"):
        assistant.mask("obj1", 0)
    assistant.close()


def test_films_that_cannot_be_decoded_or_may_not_be_read(tmp_path: Path, assistant: Assistant, film: Path) -> None:
    (film.parent / "bad").mkdir()
    for path in make_bad(film.parent / "bad").values():
        with pytest.raises(ValueError, match=r"\.mp4 cannot be decoded: "):
            assistant.load(path)
    assert assistant.film is not None and assistant.film.artefact == "film1", "the film before is still there"
    other = write_scene(tmp_path / "other.mp4", crossing(3))
    link = film.parent / "link.mp4"
    link.symlink_to(other)
    for path in (other, link, film.parent / ".." / tmp_path.name / "other.mp4"):
        with pytest.raises(ValueError, match="lies in no folder that may be read"):
            assistant.load(path)
    with pytest.raises(ValueError, match="addresses are not fetched"):
        assistant.load("http://localhost/film.mp4")
    with pytest.raises(ValueError, match="there is no such file"):
        assistant.load(film.parent / "none.mp4")
    with pytest.raises(ValueError, match=r"no frame 12: crossing.mp4 has frames 0 to 11"):
        assistant.frame(12)


def test_without_a_film_everything_asks_for_one(tmp_path: Path) -> None:
    assistant = Assistant(Session(tmp_path / "session"), FlowTracker())
    for act in (lambda: assistant.frame(0), assistant.track, lambda: assistant.point(Box(0, 1, 1, 9, 9))):
        with pytest.raises(ValueError, match="no film is loaded"):
            act()
    assert "No film is loaded" in assistant.ask("read the text").text
    assistant.close()


def test_a_session_goes_on_after_a_restart(tmp_path: Path, film: Path) -> None:
    scene = crossing(LENGTH)
    first = Assistant(Session(tmp_path / "session"), FlowTracker(), [film.parent])
    first.load(film, copy=True)
    first.point(click(scene, 0))
    first.rename("obj1", "the ball")
    first.hide("obj1")
    first.point(click(scene, 1))
    first.delete("obj2")
    first.track()
    answer = first.ask("where does the ball go?")
    masks = all_masks(first, "obj1")
    first.close()
    again = Assistant(Session(tmp_path / "session"), FlowTracker(), [])
    assert again.film is not None and again.film.name == "crossing.mp4"
    ball = again.objects["obj1"]
    assert (ball.name, ball.visible, ball.locked) == ("the ball", False, (0,)) and list(again.objects) == ["obj1"]
    assert again.masks(0) == {} and all(np.array_equal(masks[i], m) for i, m in all_masks(again, "obj1").items())
    assert again.turns[0].answer == answer
    again.refine(click(scene, 0, 4), "obj1")
    assert again.point(click(scene, 1)).id == "obj3", "ids are not used again"
    assert again.tracker.window < 20
    again.close()


def test_a_damaged_session_is_named_and_not_written_over(tmp_path: Path, film: Path) -> None:
    first = Assistant(Session(tmp_path / "session"), FlowTracker(), [film.parent])
    first.load(film)
    first.point(click(crossing(LENGTH), 0))
    first.close()
    masks, state = tmp_path / "session/track1.sqlite", (tmp_path / "session/state.json").read_text()
    content = masks.read_bytes()
    masks.write_bytes(b"no masks" * 600)
    session = Session(tmp_path / "session")
    with pytest.raises(ValueError, match=r"track1.sqlite holds no masks"):
        Assistant(session, FlowTracker())
    assert (tmp_path / "session/state.json").read_text() == state
    masks.write_bytes(content)
    assert list(Assistant(session, FlowTracker()).objects) == ["obj1"]
    session.close()


def test_names_are_checked(assistant: Assistant) -> None:
    scene = crossing(LENGTH)
    assistant.point(click(scene, 0))
    assistant.point(click(scene, 1))
    assistant.rename("obj1", " red   one ")
    assert assistant.objects["obj1"].name == "red one"
    for wrong in ("", "x" * 41, "a\x00b", "Red One", "obj1"):
        with pytest.raises(ValueError, match="name"):
            assistant.rename("obj2", wrong)


def test_two_sessions_share_nothing_and_pointing_waits_for_no_tracking(tmp_path: Path, film: Path) -> None:
    scene = crossing(LENGTH)
    one, two = (Assistant(Session(tmp_path / name), FlowTracker(), [film.parent]) for name in "ab")
    one.load(film)
    two.load(film)
    one.point(click(scene, 0))
    assert two.objects == {}
    begun, go = threading.Event(), threading.Event()

    def wait(done: int, total: int) -> None:
        begun.set()
        go.wait(30)

    thread = threading.Thread(target=lambda: one.track(progress=wait))
    thread.start()
    assert begun.wait(30)
    assert one.frame(3).shape == (96, 128, 3), "frames can be looked at"
    with pytest.raises(ValueError, match="being tracked: wait for the end, or cancel it"):
        one.point(click(scene, 1))
    two.point(click(scene, 1))
    go.set()
    thread.join(30)
    assert iou(one.masks(11)["obj1"], scene.masks(11)[0]) > 0.8
    assert list(two.masks(0)) == ["obj1"] and two.mask("obj1", 11) is None
    one.close()
    two.close()


def test_a_full_session_refuses_a_copy(tmp_path: Path, film: Path) -> None:
    assistant = Assistant(Session(tmp_path / "session", Limits(bytes=1000)), FlowTracker(), [film.parent])
    with pytest.raises(ValueError, match="does not fit into the session"):
        assistant.load(film, copy=True)
    assistant.load(film)
    assistant.close()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_length_of_a_film(tmp_path: Path) -> None:
    """Of 1,200 frames tracking takes as much memory as of 120; the frames alone would be 44 MB."""
    import tracemalloc

    circle = MovingShape("circle", "red", 11.0, (20.0, 30.0), (0.05, 0.0))
    peaks = []
    for length in (120, 1200):
        film = write_scene(tmp_path / f"{length}.mp4", Scene((circle,), length))
        assistant = Assistant(Session(tmp_path / str(length)), FlowTracker(), [tmp_path])
        assistant.load(film)
        assistant.point(click(Scene((circle,), length), 0, frame=length // 2))
        tracemalloc.start()
        assistant.track()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(all_masks(assistant, "obj1")) == length
        assistant.close()
    assert peaks[1] < peaks[0] + 3e6, peaks


def test_a_film_that_is_damaged_in_the_middle_says_so(tmp_path: Path) -> None:
    film = write_scene(tmp_path / "film.mp4", Scene(crossing().shapes, 40, noise=20))
    content = bytearray(film.read_bytes())
    begin, end = content.find(b"mdat"), len(content)
    content[begin + (end - begin) // 2 : begin + (end - begin) * 3 // 4] = bytes(
        (end - begin) * 3 // 4 - (end - begin) // 2
    )
    film.write_bytes(content)
    assistant = Assistant(Session(tmp_path / "session"), FlowTracker(), [tmp_path])
    assistant.load(film)
    assistant.point(click(crossing(40), 0))
    for act in (lambda: assistant.frame(28), assistant.track):
        with pytest.raises(ValueError, match=r"film.mp4 cannot be decoded: "):
            act()
    answer = assistant.ask("remove it", ["obj1"])
    assert answer.calls[0].failed and "cannot be decoded" in answer.text
    assert list(all_masks(assistant, "obj1")) == [0], "nothing of the failed tracking is kept"
    assistant.close()
