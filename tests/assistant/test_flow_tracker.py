"""The tracker without weights: masks against the true ones, objects that leave and return, corrections, cancelling."""

import itertools
from pathlib import Path

import numpy as np
import pytest

from datamodules.decoding.reader import PyAV
from datamodules.sources.shape_scenes import MovingShape, Scene, random_scene
from pretrain.assistant.flow_tracker import FlowTracker
from pretrain.assistant.prompts import Box, Mask, Points, Prompt, lasso
from pretrain.assistant.tracker import Cancelled
from pretrain.chat.rle import box_of
from tests.helpers.scenes import click, crossing, iou, leaving, write_scene


def tracked(scene: Scene, prompts: dict[str, Prompt], first: int, stop: int) -> list[tuple[int, dict[str, np.ndarray]]]:
    tracker = FlowTracker()
    tracker.start(scene)
    for name, prompt in prompts.items():
        tracker.add(name, prompt)
    return list(tracker.propagate(list(prompts), first, stop))


def mean_iou(scene: Scene, how: str = "point") -> list[float]:
    """Of each shape over all frames after the first."""
    prompts: dict[str, Prompt] = {}
    for number, true in enumerate(scene.masks(0)):
        box = box_of(true)
        assert box is not None
        around = (max(0, box[0] - 2), max(0, box[1] - 2), min(128, box[2] + 2), min(96, box[3] + 2))
        prompts[str(number)] = click(scene, number) if how == "point" else Box(0, *around)
    found = tracked(scene, prompts, 0, len(scene))
    assert [index for index, _ in found] == list(range(1, len(scene)))
    by_frame = [[iou(masks[name], scene.masks(index)[int(name)]) for name in prompts] for index, masks in found]
    return np.mean(by_frame, axis=0).tolist()


@pytest.mark.parametrize("how", ["point", "box"])
def test_masks_on_plain_backgrounds_are_right(how: str) -> None:
    """The promise is a mean intersection over union of 0.8; here are fewer films than in the slow test."""
    values = [value for seed in range(2) for value in mean_iou(random_scene(seed, 3, length=16), how)]
    assert np.mean(values) >= 0.9 and min(values) >= 0.6, values


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "texture", "least"), [(0, 0.0, 0.9), (6, 0.0, 0.9), (6, 0.5, 0.8)])
def test_masks_of_one_to_six_shapes(noise: int, texture: float, least: float) -> None:
    scenes = [random_scene(s, n, noise=noise, texture=texture) for s in range(4) for n in (1, 3, 6)]
    values = [value for scene in scenes for value in mean_iou(scene)]
    print(f"noise {noise}, texture {texture}: mean IoU {np.mean(values):.3f}, least {min(values):.3f}")
    assert np.mean(values) >= least


def test_an_object_that_leaves_is_out_of_sight_and_found_when_it_returns() -> None:
    scene = leaving()
    found = dict(tracked(scene, {"circle": click(scene, 0)}, 0, len(scene)))
    away = [index for index in found if not scene.masks(index)[0].any()]
    assert len(away) >= 5
    assert not any(found[index]["circle"].any() for index in away)
    back = [index for index in found if index > max(away) + 1]
    assert np.mean([iou(found[index]["circle"], scene.masks(index)[0]) for index in back]) > 0.8


def test_another_of_the_same_kind_is_not_taken_for_the_one_that_left() -> None:
    circle = MovingShape("circle", "red", 10.0, (90.0, 40.0), (4.0, 0.0), turns=14)
    scene = Scene((circle, MovingShape("circle", "red", 10.0, (30.0, 70.0), (0.0, 0.0))), 29)
    found = dict(tracked(scene, {"circle": click(scene, 0)}, 0, len(scene)))
    assert not any((masks["circle"] & scene.masks(index)[1]).any() for index, masks in found.items())
    assert iou(found[28]["circle"], scene.masks(28)[0]) > 0.8


def test_an_object_behind_another_one_is_followed() -> None:
    scene = crossing(36)
    found = tracked(scene, {"circle": click(scene, 0), "square": click(scene, 1)}, 0, len(scene))
    for number, name in enumerate(("circle", "square")):
        assert np.mean([iou(masks[name], scene.masks(index)[number]) for index, masks in found]) > 0.8


def test_backwards_is_like_forwards() -> None:
    scene = crossing()
    found = dict(tracked(scene, {"circle": click(scene, 0, frame=20)}, 20, -1))
    assert list(found) == list(range(19, -1, -1))
    assert np.mean([iou(masks["circle"], scene.masks(index)[0]) for index, masks in found.items()]) > 0.9


def test_a_negative_point_takes_away_and_a_positive_one_adds() -> None:
    shapes = (
        MovingShape("square", "red", 14.0, (40.0, 48.0), (0, 0)),
        MovingShape("square", "blue", 14.0, (64.0, 48.0), (0, 0)),
    )
    scene = Scene(shapes, 4)
    left, right = scene.masks(0)
    tracker = FlowTracker()
    tracker.start(scene)
    tracker.add("o", click(scene, 0))
    both = tracker.add("o", click(scene, 1))
    assert iou(both, left | right) > 0.95
    one = tracker.add("o", click(scene, 1, positive=False))
    assert iou(one, left) > 0.95
    whole = tracker.add("p", Mask(0, left | right))
    assert iou(whole, left | right) == 1.0, "an exact mask is taken as it is"
    assert iou(tracker.add("p", click(scene, 1, positive=False)), left) > 0.95


def test_a_negative_point_in_a_mask_of_one_colour_takes_the_nearer_pixels() -> None:
    shapes = (
        MovingShape("square", "red", 14.0, (40.0, 48.0), (0, 0)),
        MovingShape("square", "red", 14.0, (64.0, 48.0), (0, 0)),
    )
    scene = Scene(shapes, 4)
    tracker = FlowTracker()
    tracker.start(scene)
    tracker.add("o", click(scene, 0))
    mask = tracker.add("o", click(scene, 1, positive=False))
    assert iou(mask, scene.masks(0)[0]) > 0.9


def test_a_lasso_in_which_nothing_stands_out_is_meant_itself() -> None:
    scene = Scene((), 1, noise=0)
    outline = lasso(0, [(20, 20), (70, 20), (70, 60), (20, 60)], scene.size)
    tracker = FlowTracker()
    tracker.start(scene)
    assert iou(tracker.add("a", outline), outline.mask) > 0.95


def test_a_lasso_and_a_box_take_what_stands_out_inside() -> None:
    scene = crossing()
    tracker = FlowTracker()
    tracker.start(scene)
    loose = lasso(0, [(4, 14), (36, 14), (36, 46), (4, 46)], scene.size)
    assert iou(tracker.add("a", loose), scene.masks(0)[0]) > 0.9
    assert iou(tracker.add("b", Box(0, 4, 14, 36, 46)), scene.masks(0)[0]) > 0.9


def test_clicks_anywhere_on_shapes_of_a_compressed_film_take_them(tmp_path: Path) -> None:
    """At an edge the colour is a mixture: without a step to an even pixel nearby, 83 % of these clicks would do."""
    scene = random_scene(1, 6, length=2)
    values = []
    with PyAV().open(str(write_scene(tmp_path / "film.mp4", scene, crf=10))) as film:
        tracker = FlowTracker()
        tracker.start(film)
        for true in scene.masks(0):
            rows, columns = np.nonzero(true)
            for place in zip(columns[::4] + 0.5, rows[::4] + 0.5, strict=True):
                values.append(iou(tracker.add(str(len(values)), Points(0, (place,), (True,))), true))
    assert np.mean(np.array(values) > 0.7) > 0.87


def test_nothing_stands_out_on_an_empty_frame_or_the_background() -> None:
    tracker = FlowTracker()
    tracker.start(Scene((), 2))
    assert not tracker.add("o", Points(0, ((50.0, 50.0),), (True,))).any()
    assert not tracker.add("o", Box(0, 20, 20, 60, 60)).any()
    scene = crossing()
    tracker.start(scene)
    assert not tracker.add("o", Points(0, ((120.0, 90.0),), (True,))).any()


def test_tracking_is_cancelled_at_a_frame() -> None:
    scene = crossing()
    tracker = FlowTracker()
    tracker.start(scene)
    tracker.add("o", click(scene, 0))
    asked = itertools.count(1)
    frames = tracker.propagate(["o"], 0, len(scene), lambda: next(asked) > 3)
    assert [index for index, _ in itertools.islice(frames, 3)] == [1, 2, 3]
    with pytest.raises(Cancelled, match="frame 4"):
        next(frames)
    with pytest.raises(ValueError, match="other was not pointed at in frame 0"):
        next(tracker.propagate(["other"], 0, 4))


def test_memory_holds_a_window_of_frames_in_both_directions() -> None:
    asked: list[int] = []

    class Counted(Scene):
        def frames(self, indices):
            asked.append(len(indices))
            return super().frames(indices)

    scene = Counted((MovingShape("circle", "red", 11.0, (20.0, 30.0), (1.0, 0.0)),), 60)
    tracker = FlowTracker(window=8)
    tracker.start(scene)
    tracker.add("o", click(scene, 0, frame=59))
    assert len(list(tracker.propagate(["o"], 59, -1))) == 59
    assert max(asked) <= 8


def test_large_frames_are_looked_at_smaller() -> None:
    scene = Scene((MovingShape("circle", "red", 60.0, (200.0, 200.0), (6.0, 2.0)),), 6, (480, 640))
    tracker = FlowTracker(side=160)
    tracker.start(scene)
    assert iou(tracker.add("o", click(scene, 0)), scene.masks(0)[0]) > 0.9
    for index, masks in tracker.propagate(["o"], 0, 6):
        assert masks["o"].shape == (480, 640) and iou(masks["o"], scene.masks(index)[0]) > 0.88
