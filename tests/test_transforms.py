"""Frame indices and crops as the official code draws them, and resizing as PIL does it."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import sampling, transforms
from datamodules.stream import Draw

REFERENCES = Path(__file__).parent / "references"
V2 = json.loads((REFERENCES / "v2_sampling.json").read_text())
UMT = json.loads((REFERENCES / "umt_sampling.json").read_text())
Rng = np.random.RandomState


def same(got: np.ndarray, wanted: list[int]) -> None:
    assert np.asarray(got).tolist() == wanted


@pytest.mark.parametrize("c", V2["pretrain"], ids=str)
def test_pretraining_indices(c: dict) -> None:
    same(sampling.dense(c["video_len"], c["frames"], c["stride"], Rng(c["seed"])), c["indices"])


@pytest.mark.parametrize("c", V2["classification_dense"], ids=str)
def test_classification_indices(c: dict) -> None:
    rng = Rng(c["seed"]) if c["mode"] == "train" else None
    same(sampling.span(c["video_len"], c["clip_len"], c["stride"], rng), c["indices"])


@pytest.mark.parametrize("c", V2["rawframes_sparse"], ids=str)
def test_indices_of_extracted_frames(c: dict) -> None:
    """The official ones count from 1."""
    length, segments = c["num_frames"], c["segments"]
    if c["mode"] == "test":
        got = sampling.segments_view(length, 2 * segments, 0, 1)
    else:
        got = sampling.raw_segments(length, segments, Rng(c["seed"]) if c["mode"] == "train" else None)
    same(got + 1, c["indices"])


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_test_views(kind: str) -> None:
    c = V2[f"classification_test_views_{kind}"]
    for v in c["views"]:
        where = (v["video_len"], c["clip_len"])
        at = (v["temporal_view"], c["n_temporal"])
        same(
            sampling.dense_view(*where, c["stride"], *at) if kind == "dense" else sampling.segments_view(*where, *at),
            v["frames"],
        )
        assert transforms.view_offset(*c["frame_hw"], v["spatial_view"], c["n_spatial"]) == (v["top"], v["left"])


@pytest.mark.parametrize("c", V2["multi_scale_crop"], ids=str)
def test_multi_scale_crops(c: dict) -> None:
    rng, crop = random.Random(c["seed"]), transforms.MultiScaleCrop()
    for box in c["crop_w_h_left_top"]:
        same(crop.box(*c["image_w_h"], c["input_size"], rng), box)


@pytest.mark.parametrize("c", UMT["kinetics_sparse"], ids=str)
def test_umt_fine_tuning_indices(c: dict) -> None:
    rng = random.Random(c["seed"]) if c["mode"] == "train" else None
    same(sampling.spaced(c["video_len"], c["frames"], rng, c.get("temporal_view", 0), c.get("of", 1)), c["indices"])


@pytest.mark.parametrize("c", UMT["pretrain_sparse"] + [c for c in UMT["ssv2"] if c["mode"] == "train"], ids=str)
def test_umt_segments(c: dict) -> None:
    same(sampling.segments(c["video_len"], c["segments"], Rng(c["seed"])), c["indices"])


@pytest.mark.parametrize("c", [c for c in UMT["ssv2"] if c["mode"] != "train"], ids=str)
def test_umt_something_something(c: dict) -> None:
    length, segments = c["video_len"], c["segments"]
    if c["mode"] == "validation":
        same(sampling.segments_centre(length, segments), c["indices"])
    else:
        same(sampling.segments_view(length, 2 * segments, 0, 1), c["indices"])
        views = [sampling.segments_view(length, segments, v, 2) for v in range(2)]
        same(np.sort(np.concatenate(views)), c["indices"])


@pytest.mark.parametrize(
    "sampler",
    [sampling.Dense(), sampling.Span(), sampling.Segments(), sampling.Spaced()],
    ids=lambda s: type(s).__name__,
)
@pytest.mark.parametrize("length", [1, 2, 5, 16, 17, 63, 64, 65, 300])
def test_indices_rise_and_lie_inside(sampler: sampling.Sampler, length: int) -> None:
    clips = [sampler.draw(length, 16, 4, Draw(0, n)) for n in range(20)]
    clips += [sampler.view(length, 16, 4, v, views) for views in (1, 2, 5) for v in range(views)]
    for clip in clips:
        assert clip.shape == (16,) and clip.min() >= 0 and clip.max() < length and (np.diff(clip) >= 0).all()


def test_a_single_view_is_the_middle() -> None:
    for sampler in (sampling.Dense(), sampling.Span(), sampling.Segments(), sampling.Spaced()):
        assert abs(sampler.view(301, 16, 4).mean() - 150) < 6


@pytest.mark.parametrize("height, width", [(240, 320), (320, 240), (51, 75), (720, 1280), (222, 300), (1, 1), (7, 400)])
def test_resizing_is_pils(height: int, width: int) -> None:
    """Also where the official crop exceeds a picture that is 1 or 2 px too small."""
    rng, draw = Rng(0), random.Random(0)
    image = np.asarray(
        Image.fromarray(rng.randint(0, 256, (9, 11, 3), np.uint8)).resize((width, height), Image.BICUBIC)
    )
    for _ in range(6):
        w, h, left, top = box = transforms.MultiScaleCrop().box(width, height, 64, draw)
        got = transforms.resize(image[None].copy(), box, 64, 64)[0]
        part = image[max(top, 0) : top + max(h, 1), max(left, 0) : left + max(w, 1)]
        assert np.abs(got.astype(int) - np.asarray(Image.fromarray(part).resize((64, 64), Image.BILINEAR))).max() <= 2


@pytest.mark.parametrize("height, width", [(222, 300), (223, 223), (225, 400)])
def test_a_crop_beyond_the_edge_is_cut(height: int, width: int) -> None:
    frames = np.zeros((2, height, width, 3), np.uint8)
    for n in range(30):
        assert transforms.MultiScaleCrop()(frames, 224, Draw(n)).shape == (2, 224, 224, 3)


def test_all_frames_are_cut_alike() -> None:
    frames = np.repeat(Rng(0).randint(0, 256, (1, 60, 80, 3), np.uint8), 4, axis=0)
    got = transforms.MultiScaleCrop()(frames, 32, Draw(1))
    assert (got == got[:1]).all() and (got != transforms.MultiScaleCrop()(frames, 32, Draw(2))).any()


@pytest.mark.parametrize("height, width", [(48, 80), (80, 48), (33, 33), (50, 51)])
def test_evaluation_squares(height: int, width: int) -> None:
    frames = np.zeros((3, height, width, 3), np.uint8)
    frames[:, height // 2 - 3 : height // 2 + 3, width // 2 - 3 : width // 2 + 3] = 255
    middle = transforms.view(frames, 32)
    assert middle.shape == (3, 32, 32, 3) and middle[0, 15:17, 15:17].min() > 100
    assert (transforms.view(frames, 32, 1, 3) == middle).all()
    assert transforms.view(frames, 32, 2, 3).shape == (3, 32, 32, 3)


def test_flip_mirrors_in_place() -> None:
    frames = Rng(0).randint(0, 256, (3, 2, 4, 7, 3), np.uint8)
    before = frames.copy()
    transforms.flip(frames[1])
    assert (frames[1] == before[1, :, :, ::-1]).all() and (frames[[0, 2]] == before[[0, 2]]).all()
