"""Human actions: repeatable, labelled correctly, with training and test drawn from different halves of every range."""

import importlib.util
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from datamodules import Actions, Listed, Rendered
from datamodules.sources import motion_capture, rendered
from datamodules.sources.motion_capture import ACTIONS, humanoid
from datamodules.sources.ray_casting import Camera, Floor, cast

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pybullet_data") is None, reason="needs the extra actions")
WHITE = np.array([[255, 255, 255]], np.float32)
PLAIN = Floor(np.zeros((3, 3), np.float32), np.zeros((2, 2)))  # a black floor and a black sky


def test_a_sample_is_a_function_of_seed_and_number() -> None:
    source, wanted = Actions(30, size=24, seed=3), [0, 20, 47]
    frames = source[17].content.frames(wanted)
    again = pickle.loads(pickle.dumps(source))  # as in a worker
    assert np.array_equal(again[17].content.frames([20]), frames[1:2])
    assert np.array_equal(source[17].content.frames([47, 0]), frames[[2, 0]])
    assert not np.array_equal(Actions(30, size=24, seed=4)[17].content.frames(wanted), frames)
    assert frames.shape == (3, 24, 24, 3) and frames.std() > 10 and not np.array_equal(frames[0], frames[1])


def test_labels_and_captions_name_what_is_drawn() -> None:
    source = Actions(32)
    assert [source[i].label for i in range(32)] == [i % 15 for i in range(32)] and len(source.classes) == 15
    assert [source.classes[source[i].label] for i in (0, 14)] == ["backflip", "walk"]
    video = source[14].content
    assert source[14].text == f"a person in {video.colour} walks"
    few = Actions(4, only=["walk", "run"])
    assert [few.classes[few[i].label] for i in range(4)] == ["run", "walk"] * 2
    reds = [v for v in (source[i].content for i in range(32)) if v.colour == "red"]
    for video in reds:
        red, green, blue = video._colours[[part.name for part in humanoid()[0]].index("chest")]
        assert red > max(green, blue)


def test_order_needs_time() -> None:
    both = Actions(64, size=16, label="order", reverse=True)
    labels = [both[i].label for i in range(64)]
    assert 20 < sum(labels) < 44 and [both.classes[n] for n in (0, 1)] == ["forwards", "backwards"]
    backwards, forwards = both[labels.index(1)].content, Actions(64, size=16, reverse=True)[labels.index(1)].content
    assert np.array_equal(backwards.frames([5]), forwards.frames([5])) and forwards.order == "backwards"
    assert np.all(np.diff(backwards._seconds) < 0) and np.all(np.diff(both[labels.index(0)].content._seconds) > 0)


def test_training_and_test_share_no_cell() -> None:
    drawn = {}
    for part in ("train", "test"):
        videos = [Actions(300, part=part)[i].content for i in range(300)]
        turns = np.array([v._camera.azimuth / (2 * np.pi) * 16 for v in videos]).astype(int)
        speeds = np.array([abs(np.diff(v._seconds[:2])[0]) * 30 for v in videos])
        cells = ((speeds - 0.7) / 0.7 * 8 + 1e-6).astype(int)
        waves = ((np.array([v._floor.waves[0] for v in videos]) - 2) / 6 * 12).astype(int)
        drawn[part] = [set(turns), set(cells), set(waves.ravel())]
    for train, test in zip(drawn["train"], drawn["test"], strict=True):
        assert not train & test and len(train) == len(test) > 3


def test_poses_are_those_of_the_motion() -> None:
    capsules, motions = humanoid()
    names = [part.name for part in capsules]
    feet = [names.index(f"{side}_ankle") for side in ("left", "right")]
    walk = motions["walk"]
    soles = walk.ends[:, feet, :, 1].min(axis=(1, 2)) - capsules[feet[0]].radius
    assert np.abs(soles).max() < 0.08  # one foot is on the floor at any time
    assert walk.ends[:, names.index("neck"), 0, 1].min() > 1.3 > motions["crawl"].ends[:, :, :, 1].max()
    stride = walk.root[-1, 0] - walk.root[0, 0]
    ends, root = walk.at(walk.times[[3, 3]] + np.array([0, walk.times[-1]]))
    assert walk.closed and np.isclose(root[1, 0] - root[0, 0], stride, atol=1e-5)
    assert np.allclose(ends[1] - ends[0], [stride, 0, 0], atol=1e-5)
    assert np.allclose(motions["kick"].at(np.array([99.0]))[0][0], motions["kick"].ends[-1])  # it stays at its end
    assert {name for name, motion in motions.items() if not motion.closed} >= {"getup_faceup", "kick", "punch"}


def test_a_ball_is_a_disc_of_the_right_size_before_what_is_behind_it() -> None:
    camera = Camera(azimuth=0.3, elevation=0.4, distance=4.0, size=64, view=0.5)
    centre, ball = (
        np.zeros((1, 3), np.float32) + np.array([0, 5, 0], np.float32),
        np.array([[[[0, 5, 0]] * 2]], np.float32),
    )
    frame = cast(ball, np.array([0.6], np.float32), WHITE, centre, camera, PLAIN)[0, :, :, 0] > 0
    tangent = 0.6 / np.sqrt(4.0**2 - 0.6**2)  # of half the angle under which the ball is seen
    assert abs(frame.sum() / 64**2 - np.pi * tangent**2 / (2 * 0.5) ** 2) < 0.01
    assert frame[32, 32] and np.array_equal(frame, frame[:, ::-1])
    _, place = camera.rays()
    before = np.concatenate([ball, ball + place / 2], axis=1)
    colours = np.array([[255, 0, 0], [0, 255, 0]], np.float32)
    near = cast(before, np.array([0.6, 0.1], np.float32), colours, centre, camera, PLAIN)[0]
    assert near[32, 32, 1] > 0 == near[32, 32, 0] and near[32, 26, 0] > 0 == near[32, 26, 1]


def test_a_capsule_is_as_long_as_its_segment() -> None:
    camera = Camera(azimuth=0.0, elevation=0.0, distance=10.0, size=200, view=0.2)
    ends = np.array([[[[0, 2.5, 0], [0, 3.5, 0]]]], np.float32)
    frame = (
        cast(ends, np.array([0.25], np.float32), WHITE, np.array([[0, 3, 0]], np.float32), camera, PLAIN)[0, :, :, 0]
        > 0
    )
    pixels = 200 / (2 * 0.2 * 10)  # per metre
    assert abs(frame.any(axis=1).sum() - 1.5 * pixels) <= 1 and abs(frame[100].sum() - 0.5 * pixels) <= 2


def test_wrong_arguments_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"does not know 'walks'.*walk"):
        Actions(only=["walks"])
    with pytest.raises(ValueError, match="set reverse"):
        Actions(label="order")
    with pytest.raises(ValueError, match="holds nothing"):
        Actions(0)
    monkeypatch.setattr(motion_capture.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install .*\[actions\]"):
        motion_capture.data_folder()


def test_frames_are_drawn_once_and_those_of_others_refused(tmp_path: Path) -> None:
    source, file = Actions(6, length=12, size=16), str(tmp_path / "few.npy")
    stored = Rendered(source, file, every=4)
    video = stored[5].content
    assert len(stored) == 6 and len(video) == 3 and video.fps == 7.5 and stored.classes == list(ACTIONS)
    assert np.array_equal(video.frames([0, 2]), source[5].content.frames([0, 8]))
    changed = Path(file).stat().st_mtime_ns
    again = Rendered(Actions(6, length=12, size=16), file, every=4)
    assert Path(file).stat().st_mtime_ns == changed and again[3].text == source[3].text
    for other in (Actions(6, length=12, size=16, seed=1), Actions(6, length=12, size=16, reverse=True)):
        if other.reverse and other[0].content.order == "forwards":
            continue  # its first video is the same
        with pytest.raises(ValueError, match=r"few.npy holds other videos .* delete it"):
            Rendered(other, file, every=4)


@pytest.mark.parametrize("pool", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_frames_are_the_same_whoever_draws_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: str) -> None:
    if pool == "threads":  # processes take seconds to start
        monkeypatch.setattr(rendered, "ProcessPoolExecutor", lambda count, mp_context: ThreadPoolExecutor(count))
    source = Actions(5, length=4, size=8)
    alone, together = (Rendered(source, str(tmp_path / f"{n}.npy"), processes=n) for n in (1, 3))
    assert all(np.array_equal(alone[i].content.frames([0, 3]), together[i].content.frames([0, 3])) for i in range(5))
    assert alone[4].content.frames([0]).any()


def test_a_camera_that_is_nearer_shows_a_larger_body() -> None:
    frames = [
        Actions(1, length=2, size=24, distance=(metres, metres))[0].content.frames([0])[0].astype(int)
        for metres in (2.0, 4.0)
    ]
    near, far = ((frame.max(2) - frame.min(2) > 60).sum() for frame in frames)  # clothes are the saturated pixels
    assert near > 2 * far > 0


def test_a_list_selects_samples(tmp_path: Path) -> None:
    rows = tmp_path / "rows.txt"
    rows.write_text("4\n0\n")
    few = Listed(Actions(6), str(rows))
    assert [few[i].name for i in range(len(few))] == [Actions(6)[i].name for i in (4, 0)]
    assert few.labels == few.texts == 2
    for text, problem in (("", "it is empty"), ("7\n", "'7' is not the number of one of 6"), ("-1", "'-1' is not")):
        rows.write_text(text)
        with pytest.raises(ValueError, match=problem):
            Listed(Actions(6), str(rows))
