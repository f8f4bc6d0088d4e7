"""The processors beside an export give the frames and the pixels of evaluation, for every view and sampling rule."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import models
from datamodules.clips import sampling
from datamodules.clips.crops import CentreCrop
from datamodules.clips.eval_views import EvalView, Squares, Squash
from datamodules.decoding.reader import PyAV
from datamodules.loading.batches import EvalBatches
from datamodules.loading.clip import Clip
from datamodules.sources.files import Files
from models.convert import processing_video
from pretrain.export.command import export
from pretrain.export.processors import Evaluation, evaluation_of, save_processors
from tests.helpers.paths import TESTS
from tests.helpers.videos import make

transformers = pytest.importorskip("transformers")

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SAMPLERS = ("Dense", "Span", "Segments", "Spaced", "Sparse")
VIEWS: dict[str, tuple[EvalView, dict[str, Any]]] = {
    "squares": (Squares(), {"crop": True, "antialias": True}),
    "squash": (Squash(), {"crop": False, "antialias": True}),
    "squash_sharp": (Squash(antialias=False), {"crop": False, "antialias": False}),
}
EACH_VIEW = pytest.mark.parametrize("view", VIEWS)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("videos")
    shapes = {"wide": (50, 90, 161), "tall": (61, 131, 74), "short": (5, 64, 80), "small": (40, 24, 30)}
    return {name: make(folder / f"{name}.mp4", *shape) for name, shape in shapes.items()}


def ours(path: str, view: EvalView, sampler: str, stride: int = 2) -> torch.Tensor:
    """The pixels `[T, 3, H, W]` that evaluation gives to the model."""
    rule = getattr(sampling, sampler)()
    clip = Clip(8, stride, 32, 1, 0.0, rule, CentreCrop(), PyAV(), view)
    return EvalBatches(Files(path), clip, 1, 1, 0, 1, 1)[0]["video"][0].transpose(0, 1)


def grey_levels(pixel_values: Any) -> torch.Tensor:
    """Undo the normalisation."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (torch.as_tensor(pixel_values) * std + mean) * 255


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_rules_for_frames_are_those_of_evaluation(name: str) -> None:
    rule = processing_video.RULES[name.lower()]
    for length in (*range(1, 70), 299, 1000):
        for frames, stride in ((8, 4), (16, 2), (4, 1)):
            expected = getattr(sampling, name)().view(length, frames, stride)
            assert np.array_equal(rule(length, frames, stride), expected), (length, frames, stride)


@EACH_VIEW
def test_pixels_of_files_and_frames_are_those_of_evaluation(videos: dict[str, str], view: str, tmp_path: Path) -> None:
    made, settings = VIEWS[view]
    for sampler in SAMPLERS:
        folder = tmp_path / sampler
        save_processors(folder, Evaluation(8, 2, 32, sampler.lower(), **settings), MEAN, STD)
        processor = transformers.AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True)
        several = processor(list(videos.values())).pixel_values
        assert several.shape == (len(videos), 8, 3, 32, 32)
        for path, found in zip(videos.values(), several, strict=True):
            difference = (grey_levels(found) - ours(path, made, sampler)).abs().max()
            # Our bilinear kernel and torch's may round to neighbouring levels; there is one bicubic filter.
            assert difference < (1.01 if view == "squares" else 0.01), (sampler, path)


@EACH_VIEW
def test_image_processors_take_the_frames_of_a_clip(videos: dict[str, str], view: str, tmp_path: Path) -> None:
    made, settings = VIEWS[view]
    (tmp_path / "clip").mkdir()
    save_processors(tmp_path, Evaluation(8, 2, 32, "dense", **settings), MEAN, STD)
    if view == "squash_sharp":  # transformers' image processors always antialias
        assert not (tmp_path / "preprocessor_config.json").exists()
        return
    for path in videos.values():
        video = PyAV().open(path, path)
        frames = video.frames(sampling.Dense().view(len(video), 8, 2))
        clip = transformers.AutoImageProcessor.from_pretrained(tmp_path)(list(frames), return_tensors="pt")
        images = transformers.AutoImageProcessor.from_pretrained(tmp_path / "clip")(list(frames), return_tensors="pt")
        for found in (clip.pixel_values[0], images.pixel_values):
            assert (grey_levels(found) - ours(path, made, "Dense")).abs().max() < 1.01


def test_decoded_videos_are_sampled_like_files_or_taken_whole(videos: dict[str, str], tmp_path: Path) -> None:
    save_processors(tmp_path, Evaluation(8, 2, 32, "dense", True, True), MEAN, STD)
    processor = transformers.AutoVideoProcessor.from_pretrained(tmp_path, trust_remote_code=True)
    video = PyAV().open(videos["wide"], "")
    whole = video.frames(np.arange(len(video)))
    expected = processor(videos["wide"]).pixel_values
    for frames in (whole, torch.from_numpy(whole).permute(0, 3, 1, 2), [Image.fromarray(frame) for frame in whole]):
        torch.testing.assert_close(processor(frames).pixel_values, expected)
    chosen = whole[sampling.Dense().view(len(whole), 8, 2)]
    torch.testing.assert_close(processor(chosen, do_sample_frames=False).pixel_values, expected)
    with pytest.raises(ValueError, match="takes 8 frames, and this clip has 50"):
        processor(whole, do_sample_frames=False)
    with pytest.raises(ValueError, match="uint8"):
        processor(whole / 255)
    with pytest.raises(ValueError, match="size cannot be set in a call"):
        processor(whole, size={"shortest_edge": 16})


RECIPE = {"frames": 8, "stride": 2, "size": 32, "sampler": None, "view": {"class_path": "datamodules.Squash"}}


def recipe(kind: str = "datamodules.VideoData", **data: Any) -> str:
    return yaml.safe_dump({"data": {"class_path": kind, "init_args": {**RECIPE, **data}}})


def test_a_recipe_says_what_evaluation_did() -> None:
    encoder = models.VideoViT(width=12, depth=1, heads=2, mlp=24, patch=16, frames=8, size=32)
    assert evaluation_of(recipe(), encoder) == Evaluation(8, 2, 32, "dense", False, True)
    sharp = {"class_path": "datamodules.framing.Squash", "init_args": {"antialias": False}}  # an earlier name
    assert evaluation_of(recipe(view=sharp), encoder) == Evaluation(8, 2, 32, "dense", False, False)
    spaced = {"class_path": "datamodules.clips.sampling.Spaced"}
    assert evaluation_of(recipe(view=None, sampler=spaced), encoder) == Evaluation(8, 2, 32, "spaced", True, True)
    for other, reason in (
        (recipe(sampler={"class_path": "mine.Dense"}), "the sampler of its recipe is mine.Dense"),
        (recipe(view={"class_path": "mine.Corner"}), "the view of its recipe is mine.Corner"),
        (recipe("mine.Data"), "the data of its recipe is mine.Data"),
        (recipe(size=48), "8 frames of 48 pixels, and the exported model takes 8 of 32"),
        ("data: [", "cannot be read"),
        ("model: {}", "describes no data"),
    ):
        with pytest.raises(ValueError, match=reason):
            evaluation_of(other, encoder)


def test_an_export_without_a_processor_says_why(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """The stored run's encoder and data are of the same size; a copy of its recipe names a sampler of the user's."""
    saved = torch.load(TESTS / "legacy/videomae/checkpoints/step=0000004.ckpt", weights_only=True)
    text = saved["recipe"]["yaml"]
    saved["recipe"]["yaml"] = text.replace("    sampler: null\n", "    sampler: {class_path: mine.Rule}\n")
    assert saved["recipe"]["yaml"] != text
    torch.save(saved, tmp_path / "run.ckpt")
    export(str(tmp_path / "run.ckpt"), "transformers", str(tmp_path / "hf"))
    assert "no processor, for the sampler of its recipe is mine.Rule" in capsys.readouterr().out
    assert not list((tmp_path / "hf").glob("*processor_config.json"))
    card = (tmp_path / "hf/README.md").read_text()
    assert "no processor" in card and "AutoVideoProcessor" not in card
