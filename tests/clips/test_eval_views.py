"""Bicubic crops and squashed frames against torchvision, timm and PIL; the sparse sampler; clips of a limited time."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms import functional as first
from torchvision.transforms.v2 import functional as second

from datamodules import Files, PyAV, Segments, Sparse, Synthetic, VideoData
from datamodules.clips.crops import CentreCrop, view
from datamodules.clips.eval_views import BicubicSquare, RandomResizedCrop, Squares, Squash, bicubic
from datamodules.clips.sampling import every_nth, per_second, sparse, sparse_first
from datamodules.decoding.contract import DecodeError
from datamodules.loading.batches import EvalBatches, TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.sources.order import Order, SampleRng
from datamodules.sources.source import Sample
from tests.helpers import videos

SIZES = [(96, 128), (120, 70), (33, 200), (64, 64), (20, 30), (1, 1), (500, 3)]


def photo(height: int, width: int, frames: int = 2) -> np.ndarray:
    """uint8 [T, H, W, 3] with sharp edges and smooth regions."""
    rng = np.random.RandomState(0)
    small = rng.randint(0, 256, (frames, 9, 11, 3), np.uint8)
    image = [np.asarray(Image.fromarray(s).resize((width, height), Image.BICUBIC)) for s in small]
    return np.stack(image) ^ (rng.randint(0, 8, (frames, height, width, 1)) > 6).astype(np.uint8) * 120


def planes(frames: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(frames).permute(0, 3, 1, 2)


@pytest.mark.parametrize("height, width", SIZES)
def test_bicubic_equals_torchvisions(height: int, width: int) -> None:
    frames = photo(height, width)
    box = (max(1, width * 2 // 3), max(1, height // 2), width // 5, height // 4)
    where = (box[3], box[2], box[1], box[0])  # torchvision: top, left, height, width
    got = planes(bicubic(frames, box, 56, 64))
    assert torch.equal(got, second.resized_crop(planes(frames), *where, [56, 64], InterpolationMode.BICUBIC))
    old = first.resized_crop(planes(frames), *where, [56, 64], InterpolationMode.BICUBIC, antialias=False)
    assert torch.equal(planes(bicubic(frames, box, 56, 64, antialias=False)), old)


@pytest.mark.parametrize("height, width", SIZES)
def test_bicubic_agrees_with_pil(height: int, width: int) -> None:
    frames = photo(height, width)
    got = bicubic(frames, (width, height, 0, 0), 56, 64)
    pil = np.stack([np.asarray(Image.fromarray(f).resize((64, 56), Image.BICUBIC)) for f in frames])
    off = np.abs(got.astype(int) - pil.astype(int))
    assert (off > 1).mean() < 0.02 and off.max() <= 10  # beside the sharpest edges


@pytest.mark.parametrize("height, width", [(240, 320), (320, 240), (51, 75), (720, 1280), (1, 1), (7, 400), (400, 7)])
def test_random_resized_boxes_equal_timms(height: int, width: int) -> None:
    ours, state = RandomResizedCrop(), random.getstate()
    theirs = RandomResizedCropAndInterpolation(64, ours.scale, ours.ratio)
    try:
        for seed in range(50):
            random.seed(seed)
            top, left, h, w = theirs.get_params(Image.new("L", (width, height)), ours.scale, ours.ratio)
            box = ours.box(width, height, 64, random.Random(seed))
            assert box == (w, h, left, top)
            assert box[2] + box[0] <= width and box[3] + box[1] <= height
    finally:
        random.setstate(state)


def test_random_resized_crop_uses_one_box_for_all_frames_and_writes_to_out() -> None:
    frames = np.repeat(photo(60, 90, 1), 3, axis=0)
    made = RandomResizedCrop()(frames, 32, SampleRng(1))
    out = torch.zeros(3, 32, 32, 3, dtype=torch.uint8)
    again = RandomResizedCrop()(frames, 32, SampleRng(1), out)
    assert (made == made[:1]).all() and np.array_equal(made, again) and np.array_equal(out.numpy(), made)
    assert not np.array_equal(made, RandomResizedCrop()(frames, 32, SampleRng(2)))


@pytest.mark.parametrize("scale, ratio", [((0.0, 1.0), (1, 1)), ((0.9, 0.5), (1, 1)), ((0.5, 1.0), (2, 1))])
def test_a_wrong_crop_is_refused(scale: tuple, ratio: tuple) -> None:
    with pytest.raises(ValueError, match=r"scale of 0 to 1 and a ratio above 0.*not \("):
        RandomResizedCrop(scale, ratio)


@pytest.mark.parametrize("height, width", SIZES)
def test_squash_scales_the_whole_frame(height: int, width: int) -> None:
    frames = photo(height, width)
    got = Squash()(frames, 24)
    assert torch.equal(planes(got), second.resize(planes(frames), [24, 24], InterpolationMode.BICUBIC))
    assert np.array_equal(Squares()(frames, 24, 2, 3), view(frames, 24, 2, 3))


def test_squash_in_a_data_module(tmp_path) -> None:
    videos.make(tmp_path / "a.mp4", height=48, width=80)
    source = Files(str(tmp_path))
    data = VideoData(test=source, global_batch=1, frames=4, size=24, workers=0, view=Squash())
    (batch,) = [EvalBatches(source, data.clip, 1, 1, 0, 1, 1)[0]]
    with PyAV().open(source[0].content) as video:
        frames = video.frames(data.clip.sampler.view(40, 4, 4))
    assert np.array_equal(batch["video"][0].permute(1, 2, 3, 0).numpy(), Squash()(frames, 24))
    with pytest.raises(ValueError, match="test_crops must be 1, not 3"):
        VideoData(test=source, global_batch=1, test_crops=3, view=Squash())


@pytest.mark.parametrize("length", [1, 2, 5, 8, 9, 16, 17, 63, 300])
@pytest.mark.parametrize("released", [False, True])
def test_sparse_indices_increase_and_lie_inside(length: int, released: bool) -> None:
    sampler = Sparse(released)
    clips = [sampler.draw(length, 8, 4, SampleRng(0, n)) for n in range(20)]
    clips += [sampler.view(length, 8, 4, v, views) for views in (1, 2, 5) for v in range(views)]
    for clip in clips:
        assert clip.shape == (8,) and clip.min() >= 0 and clip.max() < length and (np.diff(clip) >= 0).all()


def test_every_frame_can_be_drawn_except_by_the_released_rule() -> None:
    def drawn(sampler: Sparse) -> set[int]:
        return {i for n in range(400) for i in sampler.draw(40, 8, 1, SampleRng(n)).tolist()}

    assert drawn(Sparse()) == set(range(40))
    assert drawn(Sparse(released=True)) == set(range(40)) - {4, 9, 14, 19, 24, 29, 34, 39}


def test_views_share_a_video_evenly() -> None:
    views = np.stack([sparse(240, 8, None, v, 3) for v in range(3)])  # [views, frames]
    assert np.diff(np.sort(views, axis=None)).tolist() == [10] * 23
    assert sparse(301, 8).tolist() == sparse(301, 8, None, 0, 1).tolist()


def test_the_demo_rules_accept_short_videos() -> None:
    assert every_nth(3, 8).tolist() == [0, 1, 2, 2, 2, 2, 2, 2]
    assert sparse_first(9, 8, 5).tolist() == [0, 1, 2, 3, 4, 5, 6, 8]
    assert per_second(300, 30.0, 1.0, 4).tolist() == [15, 45, 75, 105]


class FirstHalfSecond(Files):
    """The first half second of each video."""

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        sample.end = 0.5
        return sample


def test_clips_come_from_the_first_seconds(tmp_path) -> None:
    videos.make(tmp_path / "a.mp4", frames=60, fps=24, height=48, width=48)
    source, clip = FirstHalfSecond(str(tmp_path)), Clip(6, 1, 48, 1, 0.0, Segments(), CentreCrop(), PyAV())
    train = TrainBatches(source, Order(1), clip, 0, GlobalBatch(0, 1, 1, 1))
    batches = [EvalBatches(source, clip, 2, 1, 0, 1, 1)[0], *(train[k] for k in range(8))]
    drawn = {videos.number(f.permute(1, 2, 0).numpy()) for b in batches for v in b["video"] for f in v.transpose(0, 1)}
    assert drawn <= set(range(12)) and len(drawn) > 8


def test_the_length_of_a_sample_with_an_end(tmp_path) -> None:
    video = Synthetic(1, length=32, fps=16.0)[0].content
    lengths = [Sample("a", video, end=end).length(video) for end in (None, 30.0, 1.0, 0.01)]
    assert lengths == [32, 32, 16, 1]
    video.fps = 0.0
    with pytest.raises(DecodeError, match="a: no frame rate, so its first 30 seconds cannot be found"):
        Sample("a", video, end=30.0).length(video)


@pytest.mark.parametrize(("height", "width"), [(30, 47), (47, 30), (16, 20), (16, 16)])
def test_bicubic_squares_are_torchvisions_resize_and_centre_crop(height: int, width: int) -> None:
    frames = np.random.RandomState(0).randint(256, size=(2, height, width, 3), dtype=np.uint8)
    steps = v2.Compose([v2.Resize(16, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(16)])
    expected = steps(torch.from_numpy(frames).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    assert torch.equal(torch.from_numpy(BicubicSquare()(frames, 16)), expected)
    with pytest.raises(ValueError, match="one view"):
        BicubicSquare()(frames, 16, 1, 3)
