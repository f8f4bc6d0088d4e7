"""RandAugment and the bilinear crop: random per clip, determined by the seed, global generators left unchanged."""

import pickle
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from datamodules.clips.augment import RandAugment
from datamodules.clips.eval_views import RandomResizedCrop
from datamodules.sources.order import SampleRng


def clip() -> np.ndarray:
    """Four equal frames."""
    frame = np.random.RandomState(0).randint(0, 256, (48, 48, 3), dtype=np.uint8)
    return np.repeat(frame[None], 4, axis=0)


def test_augmentation_is_equal_within_a_clip_and_differs_between_clips() -> None:
    augment, made = RandAugment(), []
    for seed in range(12):
        frames = clip()
        augment(frames, SampleRng(seed))
        assert (frames == frames[:1]).all(), "frames are augmented differently"
        made.append(frames[0].tobytes())
    assert len(set(made)) > 8


def test_augmentation_depends_on_its_rng_only() -> None:
    augment, copied = RandAugment(), pickle.loads(pickle.dumps(RandAugment()))
    one, two = clip(), clip()
    state, numbers = random.getstate(), np.random.get_state()[1].tolist()
    augment(one, SampleRng(3))
    assert random.getstate() == state and np.random.get_state()[1].tolist() == numbers
    random.seed(9)
    np.random.seed(9)
    copied(two, SampleRng(3))
    assert (one == two).all()


def test_augmentation_equals_timms() -> None:
    from timm.data.auto_augment import rand_augment_transform

    theirs = rand_augment_transform(
        "rand-m7-n4-mstd0.5-inc1", {"img_mean": (128,) * 3, "interpolation": Image.Resampling.BICUBIC}
    )
    frames = clip()
    seed = SampleRng(5).python.getrandbits(32)
    random.seed(seed)
    np.random.seed(seed)
    expected = np.asarray(theirs(Image.fromarray(frames[0])))
    RandAugment()(frames, SampleRng(5))
    assert (frames[0] == expected).all()
    with pytest.raises(ValueError, match="takes a rule such as"):
        RandAugment("m7")


def test_a_bilinear_crop_without_antialiasing_equals_torchs_interpolation() -> None:
    frames = np.random.RandomState(0).randint(0, 256, (3, 40, 60, 3), dtype=np.uint8)
    crop = RandomResizedCrop((0.08, 1.0), antialias=False, bilinear=True)
    w, h, left, top = crop.box(60, 40, 32, SampleRng(1).python)
    part = torch.from_numpy(frames)[:, top : top + h, left : left + w].permute(0, 3, 1, 2).float()
    expected = F.interpolate(part, (32, 32), mode="bilinear").round().byte().permute(0, 2, 3, 1).numpy()
    assert (crop(frames, 32, SampleRng(1)) == expected).all()
    smooth = RandomResizedCrop((0.08, 1.0), bilinear=True)(frames, 32, SampleRng(1))
    assert smooth.shape == expected.shape
