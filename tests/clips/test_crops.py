"""Properties of frame indices and crops, and resizing that agrees with PIL. (`test_parity.py` compares indices and
boxes with the official code's.)"""

import random

import numpy as np
import pytest
from PIL import Image

from datamodules.clips import crops, sampling
from datamodules.clips.eval_views import RandomResizedCrop
from datamodules.clips.rectangles import Rectangle
from datamodules.sources.order import SampleRng

Rng = np.random.RandomState


@pytest.mark.parametrize(
    "sampler",
    [sampling.Dense(), sampling.Span(), sampling.Segments(), sampling.Spaced()],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("length", [1, 2, 5, 16, 17, 63, 64, 65, 300])
def test_indices_increase_and_lie_inside(sampler: sampling.Sampler, length: int) -> None:
    clips = [sampler.draw(length, 16, 4, SampleRng(0, n)) for n in range(20)]
    clips += [sampler.view(length, 16, 4, v, views) for views in (1, 2, 5) for v in range(views)]
    for clip in clips:
        assert clip.shape == (16,) and clip.min() >= 0 and clip.max() < length and (np.diff(clip) >= 0).all()


@pytest.mark.parametrize("length", [1, 7, 16, 17, 300])
def test_segments_of_extracted_frames_increase_and_lie_inside(length: int) -> None:
    for clip in [sampling.raw_segments(length, 16)] + [sampling.raw_segments(length, 16, Rng(n)) for n in range(20)]:
        assert clip.shape == (16,) and clip.min() >= 0 and clip.max() < length and (np.diff(clip) >= 0).all()


@pytest.mark.parametrize("length", [1, 15, 31, 32, 33, 300])
@pytest.mark.parametrize("views", [2, 3])
def test_the_views_of_segments_share_out_one_finer_view(length: int, views: int) -> None:
    parts = [sampling.segments_view(length, 16, view, views) for view in range(views)]
    assert (np.sort(np.concatenate(parts)) == sampling.segments_view(length, 16 * views, 0, 1)).all()


@pytest.mark.parametrize(
    "crop",
    [crops.MultiScaleCrop(), RandomResizedCrop(), RandomResizedCrop(bilinear=True), Rectangle()],
    ids=["multi-scale", "resized", "resized, bilinear", "rectangle"],
)
def test_a_box_is_drawn_once_and_cut_of_each_frame(crop: crops.Crop) -> None:
    frames = Rng(0).randint(0, 256, (3, 60, 90, 3)).astype(np.uint8)
    whole, rng = crop(frames, 32, SampleRng(0, 1)), SampleRng(0, 1)
    box = crop.place(90, 60, 32, rng)
    for frame, expected in zip(frames, whole, strict=True):
        assert (crop.cut(frame[None], box, 32)[0] == expected).all()
        assert (crop.cut(frame[None], box, 32, mirrored=True)[0] == expected[:, ::-1]).all()
    after = SampleRng(0, 1)
    crop(frames, 32, after)
    assert rng.python.random() == after.python.random()  # what is drawn next is as it was


@pytest.mark.parametrize("width, height", [(340, 256), (256, 340), (320, 240), (224, 224), (568, 320), (255, 341)])
def test_multi_scale_crops_lie_inside_and_differ(width: int, height: int) -> None:
    rng, crop = random.Random(0), crops.MultiScaleCrop()
    boxes = {crop.box(width, height, 224, rng) for _ in range(300)}
    for w, h, left, top in boxes:
        assert 0 <= left <= left + w <= width and 0 <= top <= top + h <= height
        assert min(w, h) >= int(0.66 * min(width, height)) and max(w, h) / min(w, h) < 1.25
        assert all(side == 224 or abs(side - 224) > 2 for side in (w, h))  # a side close to 224 is not resized
    assert len(boxes) > 50


@pytest.mark.parametrize("views", [1, 2, 3, 5])
@pytest.mark.parametrize("height, width", [(240, 320), (320, 240), (224, 224)])
def test_view_squares_reach_from_end_to_end(height: int, width: int, views: int) -> None:
    offsets = [crops.view_offset(height, width, view, views) for view in range(views)]
    room = max(height, width) - min(height, width)
    assert all(min(offset) == 0 and max(offset) <= room for offset in offsets)
    assert offsets == sorted(offsets) and (views > 1 or max(offsets[0]) == room // 2)
    assert views == 1 or (max(offsets[0]), max(offsets[-1])) == (0, room)


def test_a_single_view_is_the_middle() -> None:
    for sampler in (sampling.Dense(), sampling.Span(), sampling.Segments(), sampling.Spaced()):
        assert abs(sampler.view(301, 16, 4).mean() - 150) < 6


@pytest.mark.parametrize(
    "height, width", [(240, 320), (320, 240), (51, 75), (720, 1280), (222, 300), (1, 1), (7, 400), (900, 90)]
)
def test_resizing_agrees_with_pil(height: int, width: int) -> None:
    """Also if the official crop exceeds an image that is 1 or 2 px too small."""
    rng, box_rng = Rng(0), random.Random(0)
    image = np.asarray(
        Image.fromarray(rng.randint(0, 256, (9, 11, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    )
    for _ in range(6):
        w, h, left, top = box = crops.MultiScaleCrop().box(width, height, 64, box_rng)
        got = crops.resize(image[None].copy(), box, 64, 64)[0]
        part = image[max(top, 0) : top + max(h, 1), max(left, 0) : left + max(w, 1)]
        assert np.abs(got.astype(int) - np.asarray(Image.fromarray(part).resize((64, 64), Image.BILINEAR))).max() <= 2


@pytest.mark.parametrize("height, width", [(60, 80), (200, 90)])
def test_frames_are_resized_independently(height: int, width: int) -> None:
    frames = Rng(0).randint(0, 256, (7, height, width, 3), np.uint8)
    together = crops.resize(frames, (width - 6, height - 4, 3, 2), 48, 48)
    for frame, got in zip(frames, together, strict=True):
        assert (crops.resize(frame[None], (width - 6, height - 4, 3, 2), 48, 48)[0] == got).all()


@pytest.mark.parametrize("height, width", [(222, 300), (223, 223), (225, 400)])
def test_a_crop_beyond_the_edge_is_clipped(height: int, width: int) -> None:
    frames = np.zeros((2, height, width, 3), np.uint8)
    for n in range(30):
        assert crops.MultiScaleCrop()(frames, 224, SampleRng(n)).shape == (2, 224, 224, 3)


def test_all_frames_are_cropped_alike() -> None:
    frames = np.repeat(Rng(0).randint(0, 256, (1, 60, 80, 3), np.uint8), 4, axis=0)
    got = crops.MultiScaleCrop()(frames, 32, SampleRng(1))
    assert (got == got[:1]).all() and (got != crops.MultiScaleCrop()(frames, 32, SampleRng(2))).any()


@pytest.mark.parametrize("height, width", [(48, 80), (80, 48), (33, 33), (50, 51)])
def test_evaluation_squares(height: int, width: int) -> None:
    frames = np.zeros((3, height, width, 3), np.uint8)
    frames[:, height // 2 - 3 : height // 2 + 3, width // 2 - 3 : width // 2 + 3] = 255
    middle = crops.view(frames, 32)
    assert middle.shape == (3, 32, 32, 3) and middle[0, 15:17, 15:17].min() > 100
    assert (crops.view(frames, 32, 1, 3) == middle).all()
    assert crops.view(frames, 32, 2, 3).shape == (3, 32, 32, 3)


def test_flip_mirrors_in_place() -> None:
    frames = Rng(0).randint(0, 256, (3, 2, 4, 7, 3), np.uint8)
    before = frames.copy()
    crops.flip(frames[1])
    assert (frames[1] == before[1, :, :, ::-1]).all() and (frames[[0, 2]] == before[[0, 2]]).all()
