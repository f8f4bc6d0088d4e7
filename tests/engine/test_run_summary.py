"""A run ends with a summary: figures, folder, checkpoint, and commands that work as they are printed."""

import logging
import re
import shlex
from pathlib import Path

import pytest

from pretrain.cli import main
from pretrain.engine.run_summary import RunSummary
from pretrain.engine.short_options import recipe_path
from tests.helpers.runs import arguments, fit

BACKGROUND = "--background_checkpoints=true"  # the summary waits for the last


def test_the_summary_of_a_run_and_its_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    fit(Path(), ["-c", "videomae_tiny"], "--trainer.max_steps=2", "--trainer.val_check_interval=2", BACKGROUND)
    said = next(r.message for r in caplog.records if r.message.startswith("the run has ended at step 2"))
    assert re.search(r"validation +val/loss \d", said) and re.search(r"folder +run$", said, re.MULTILINE)
    assert re.search(r"checkpoint +run/checkpoints/step=0000002.ckpt", said)
    steps = [r.message for r in caplog.records if r.message.startswith(("step ", "validation at"))]
    assert re.fullmatch(r"step 1/2: train/loss 0\.\d+, lr 0", steps[0]) and steps[1].startswith("step 2/2: train/loss")
    assert re.fullmatch(r"validation at step 2: val/loss 0\.\d+", steps[2]), "no bar runs"
    lines = dict(re.findall(r"^  (evaluate|export) +tubelet (.*)$", said, re.MULTILINE))
    assert lines["evaluate"] == "validate -c run/config.yaml --ckpt_path run", "options changed the recipe"
    main([*shlex.split(lines["evaluate"]), *arguments(Path(), [])[1:]])
    main(shlex.split(lines["export"]))
    assert Path("my-model/model.safetensors").exists()


def test_a_command_of_recipes_alone_is_followed_by_their_names() -> None:
    words = ["fit", "-c", recipe_path("videomae_tiny"), "-c", "mine.yaml", "--trainer.max_steps", "3"]
    assert RunSummary(words)._recipes(Path("runs/a/config.yaml")) == "-c videomae_tiny -c mine.yaml"
    assert (
        RunSummary([*words, "--model.recompute=true"])._recipes(Path("runs/a/config.yaml")) == "-c runs/a/config.yaml"
    )
