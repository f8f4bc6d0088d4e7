"""Calls of the model at the end of an epoch have the precision of the run, as those in its steps have."""

from pathlib import Path

import pytest
import torch

from pretrain.cli import main
from pretrain.objectives import UMT2, ViCLIP, VideoMAE
from tests.helpers.runs import arguments


def run_in_bfloat16(tmp_path: Path, recipe: str, *more: str) -> None:
    words = arguments(tmp_path, ["-c", f"recipes/{recipe}"], "--trainer.precision=bf16-mixed", *more)
    main([*words, "--trainer.max_steps=1", "--trainer.val_check_interval=1"])


@pytest.mark.parametrize(
    "objective,method,recipe",
    [
        (ViCLIP, "encode_text", "viclip_tiny.yaml"),
        (UMT2, "encode_text", "umt2_tiny.yaml"),
        (VideoMAE, "reconstruct", "videomae_tiny.yaml"),
    ],
)
def test_the_model_is_called_in_the_precision_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, objective: type, method: str, recipe: str
) -> None:
    calls, real = [], getattr(objective, method)

    def recorded(self, *args):
        calls.append(torch.is_autocast_enabled("cpu"))
        return real(self, *args)

    monkeypatch.setattr(objective, method, recorded)
    run_in_bfloat16(tmp_path, recipe)
    assert calls and all(calls)
