"""A run ends with a summary: figures, folder, checkpoint, and commands that work as they are printed."""

import logging
import re
import shlex
from pathlib import Path

import pytest

from pretrain.cli import main
from tests.helpers.runs import arguments, fit


def test_the_summary_of_a_run_and_its_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    caplog.set_level(logging.INFO)
    fit(Path(), ["-c", "videomae_tiny"], "--trainer.max_steps=2", "--trainer.val_check_interval=2")
    said = next(r.message for r in caplog.records if r.message.startswith("the run has ended at step 2"))
    assert re.search(r"validation +val/loss \d", said) and re.search(r"folder +run$", said, re.MULTILINE)
    assert re.search(r"checkpoint +run/checkpoints/step=0000002.ckpt", said)
    lines = dict(re.findall(r"^  (evaluate|export) +tubelet (.*)$", said, re.MULTILINE))
    assert lines["evaluate"] == "validate -c videomae_tiny --ckpt_path run"
    main([*shlex.split(lines["evaluate"]), *arguments(Path(), [])[1:]])
    main(shlex.split(lines["export"]))
    assert Path("my-model/model.safetensors").exists()
