"""The study of LaVie's tiny cascade: its judge finds what a real clip shows, and the study runs whole at tiny sizes."""

from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from models.diffusion import SpatioTemporalUNet
from models.diffusion.autoencoder import PixelAutoencoder
from pretrain.cli import main as command
from pretrain.learning.batch import Batch
from pretrain.objectives import Objective
from pretrain.studies.cascade import FACTOR, STAGES, Size, enlarge, interpolate, study
from pretrain.studies.shape_classifier import (
    FRAMES,
    SHOWN,
    SIZE,
    STRIDE,
    accuracies,
    answers,
    real_clips,
    train_classifier,
)
from tests.helpers.paths import ROOT


def test_answers_are_the_words_of_the_text() -> None:
    found = answers(["a red circle moves left", "a yellow cross moves down"])
    assert {name: labels.tolist() for name, labels in found.items()} == {
        "colour": [0, 3],
        "shape": [0, 3],
        "direction": [0, 3],
    }
    clips, texts = real_clips(3, seed=0)
    assert clips.shape == (3, 3, FRAMES, SIZE, SIZE) and clips.dtype == torch.uint8 and len(texts) == 3


@pytest.mark.parametrize("stage", STAGES)
def test_the_recipe_learns_from_clips_like_those_of_the_judge(stage: str) -> None:
    """The same shapes and paths; the stage's rate and size; and latents of the unit variance that schedules assume."""
    recipe = yaml.safe_load((ROOT / f"recipes/lavie_{stage}_tiny.yaml").read_text())
    data = recipe["data"]["init_args"]
    rate, scale = FACTOR if stage == "interpolation" else 1, FACTOR if stage == "vsr" else 1
    size = SIZE * scale
    assert (data["frames"] - 1, data["stride"], data["size"]) == ((FRAMES - 1) * rate, STRIDE // rate, size)
    for part in ("train", "val"):
        shown = {**data[part]["init_args"], "size": None, "samples": None, "seed": None}
        shown["radius"] = tuple(shown["radius"])
        assert shown == {**SHOWN, "size": None, "samples": None, "seed": None}
        assert data[part]["init_args"]["size"] == 2 * size  # as `real_clips` draws them
    vae = PixelAutoencoder(**recipe["model"]["init_args"]["vae"]["init_args"]["model"]["init_args"])
    mean = vae.encode(real_clips(64, seed=0)[0].float() / 127.5 - 1).chunk(2, dim=1)[0]
    assert float(mean.std()) * vae.scale == pytest.approx(1, abs=0.1)


@torch.no_grad()
def test_the_base_tells_the_first_frame_from_the_last() -> None:
    """Attention with relative positions gives equal frames equal outputs, so noise has no first frame; padding in time
    has one, and a text can then say where a shape begins."""
    recipe = yaml.safe_load((ROOT / "recipes/lavie_base_tiny.yaml").read_text())
    options = recipe["model"]["init_args"]["unet"]["init_args"]
    torch.manual_seed(0)
    latents, text = torch.randn(1, options["channels"], 1, 4, 4).repeat(1, 1, FRAMES, 1, 1), torch.randn(1, 8, 64)
    spread = {}
    for temporal_res in (False, True):
        unet = SpatioTemporalUNet(**{**options, "temporal_res": temporal_res}).eval()
        for parameter in unet.parameters():
            parameter.normal_(std=0.1)  # some start at zero
        spread[temporal_res] = float(unet(latents, torch.tensor([900]), text).std(dim=2).max())
    assert options["temporal_res"] and spread[False] < 1e-5 < 1e-3 < spread[True]


class Recorder(Objective):
    """Stands for a stage's network: keeps what it is given and returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[torch.Tensor] = []

    def predict(self, batch: Batch) -> dict[str, torch.Tensor]:
        self.given.append(batch["video"])
        return {"video": batch["video"]}


def test_stages_are_given_the_frames_of_the_stage_before() -> None:
    clip = torch.randint(0, 256, (1, 3, 10, 4, 4), dtype=torch.uint8)
    network = Recorder()
    long = interpolate(network, clip, ["a red circle moves left"])
    assert long.shape[2] == 37 and torch.equal(network.given[0][:, :, ::4], clip)
    network = Recorder()
    large = enlarge(network, clip, ["a red circle moves left"])
    assert [part.shape[2] for part in network.given] == [4, 4, 2]
    assert torch.equal(large[:, :, :, ::4, ::4], clip) and large.shape[3:] == (16, 16)


@pytest.mark.slow
def test_the_judge_finds_what_real_clips_show() -> None:
    found = accuracies(train_classifier(), *real_clips(256, seed=12))
    assert found["colour"] > 95 and found["shape"] > 95 and found["direction"] > 95


@pytest.mark.slow
def test_the_study_runs_whole(tmp_path: Path) -> None:
    """Two steps of each stage; a second call trains nothing."""
    calls = []

    def run(words: list[str]) -> None:
        calls.append(words)
        command([*words, "--trainer.enable_progress_bar=false", "--trainer.val_check_interval=2"])

    size = Size(base=2, interpolation=2, vsr=2, clips=4, real=64, epochs=1)
    for _ in range(2):
        result = study(tmp_path, size, run)
    assert len(calls) == 3 and set(result.generated) == {"colour", "shape", "direction"}
    assert (tmp_path / "cascade.json").exists() and "| generated |" in (tmp_path / "cascade.md").read_text()
    assert Image.open(tmp_path / "cascade.png").width > (FACTOR * (FRAMES - 1) + 1) * FACTOR * SIZE
