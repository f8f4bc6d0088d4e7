"""Initial weights are read by a fresh `fit` only; a run that has a checkpoint does not need their files."""

from pathlib import Path

from pretrain.cli import main
from tests.helpers.runs import arguments, fit

RECIPE = ["-c", "recipes/videomae_tiny.yaml"]


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
