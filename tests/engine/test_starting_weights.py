"""A checkpoint is enough: evaluation needs neither the files of initial weights nor the training data."""

from pathlib import Path

import pytest
import yaml

from pretrain.cli import main
from tests.helpers.runs import arguments, fit

RECIPE = ["-c", "recipes/videomae_tiny.yaml"]


@pytest.mark.parametrize("command", ["validate", "test", "predict"])
def test_evaluation_builds_only_the_source_that_it_goes_through(tmp_path: Path, command: str) -> None:
    run = fit(tmp_path, RECIPE, "--trainer.max_steps=2", "--trainer.val_check_interval=2")
    part = {"validate": "val", "test": "test", "predict": "predict"}[command]
    gone = tmp_path / "gone.yaml"
    missing = {"class_path": "Files", "init_args": {"path": str(tmp_path / "gone.csv")}}
    sources = {name: missing for name in ("train", "val", "test", "predict") if name != part}
    sources[part] = {"class_path": "Synthetic", "init_args": {"samples": 2}}
    gone.write_text(yaml.safe_dump({"data": {"init_args": sources}}))
    small = ["--data.init_args.frames=8", "--data.init_args.size=32", "--data.init_args.workers=0"]
    quiet = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
    place = [f"--ckpt_path={run}", f"--features.folder={tmp_path}/features"]
    main([command, *RECIPE, "-c", str(gone), *small, *quiet, *place])


def test_a_checkpoint_needs_no_file_of_initial_weights(tmp_path: Path) -> None:
    first = fit(tmp_path / "first", RECIPE, "--trainer.max_steps=2", "--trainer.val_check_interval=2")
    start = (first / "checkpoints/step=0000002.ckpt").rename(tmp_path / "start.ckpt")
    weights = f"--model.init_args.weights={start}"
    run = fit(tmp_path / "tuned", RECIPE, weights, "--trainer.max_steps=2", "--trainer.val_check_interval=2")
    start.unlink()
    saved = run / "checkpoints/step=0000002.ckpt"
    main(arguments(tmp_path / "tuned", RECIPE, weights, "--ckpt_path=last", "--trainer.max_steps=4"))
    assert (run / "checkpoints/step=0000004.ckpt").exists()
    for command in ("validate", "test", "predict"):
        part = {"validate": "val", "test": "test", "predict": "predict"}[command]
        source = [f"--data.init_args.{part}=Synthetic", f"--data.init_args.{part}.init_args.samples=2"]
        given = arguments(tmp_path / "tuned", RECIPE, weights, *source, f"--ckpt_path={saved}")
        main([command, *given[1:]])
