"""The study of LaVie's tiny cascade: its judge finds what a real clip shows, and the study runs whole at tiny sizes."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from pretrain.cli import main as command
from pretrain.learning.batch import Batch
from pretrain.objectives import Objective
from pretrain.studies.cascade import FRAMES, SIZE, Size, enlarge, interpolate, study
from pretrain.studies.shape_classifier import accuracies, answers, real_clips, train_classifier


def test_answers_are_the_words_of_the_text() -> None:
    found = answers(["a red circle moves left", "a yellow cross moves down"])
    assert {name: labels.tolist() for name, labels in found.items()} == {
        "colour": [0, 3],
        "shape": [0, 3],
        "direction": [0, 3],
    }
    clips, texts = real_clips(3, seed=0)
    assert clips.shape == (3, 3, FRAMES, SIZE, SIZE) and clips.dtype == torch.uint8 and len(texts) == 3


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
    assert [part.shape[2] for part in network.given] == [8, 2]
    assert torch.equal(large[:, :, :, ::4, ::4], clip) and large.shape[3:] == (16, 16)


@pytest.mark.slow
def test_the_judge_finds_what_real_clips_show() -> None:
    found = accuracies(train_classifier(), *real_clips(256, seed=12))
    assert found["colour"] > 95 and found["shape"] > 90 and found["direction"] > 95


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
    assert Image.open(tmp_path / "cascade.png").width > FRAMES * 4 * SIZE
