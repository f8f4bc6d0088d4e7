"""VBench inside a run: a recipe names its dimensions, and a generator's own videos are scored."""

from pathlib import Path

import pytest

from pretrain.cli import main
from pretrain.metrics.vbench.suite_metric import SuiteScores
from tests.helpers.paths import ROOT
from tests.helpers.runs import SMALL


def test_a_generator_is_scored_in_a_test_run(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    own = "--model.init_args.metrics.vbench.init_args."
    main(
        [
            *("test", "-c", str(ROOT / "recipes/lavie_base_tiny.yaml"), "-c", str(ROOT / "recipes/eval/vbench.yaml")),
            *(*SMALL, "--model.init_args.sampling.steps=2", f"{own}dimensions=[temporal_flickering]"),
            *(
                f"{own}device=cpu",
                "--data.init_args.test.class_path=Synthetic",
                "--data.init_args.test.init_args.samples=2",
            ),
            *(f"--trainer.logger.init_args.save_dir={tmp_path}", "--trainer.logger.init_args.name=run"),
            "--allow_untrained=true",
        ]
    )
    text = "\n".join(path.read_text() for path in (tmp_path / "run").rglob("results.*"))
    assert "vbench" in text and "temporal_flickering" in text and "partial" in text


def test_absent_weights_and_unknown_names_are_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="the weights raft are not at"):
        SuiteScores(["dynamic_degree"], weights_dir=tmp_path)
    with pytest.raises(ValueError, match="no dimension 'beauty'"):
        SuiteScores(["beauty"])
    with pytest.raises(ValueError, match="no device 'tpu'"):
        SuiteScores(["temporal_flickering"], device="tpu")
    with pytest.raises(ValueError, match="the device cuda:99 cannot be used on this machine"):
        SuiteScores(["dynamic_degree"], weights_dir=tmp_path, device="cuda:99")
    with pytest.raises(FileNotFoundError, match="no prompts at"):
        SuiteScores(["temporal_flickering"], suite=tmp_path / "none.json")
