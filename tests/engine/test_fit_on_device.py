"""A whole run in bfloat16 with accumulation, recomputation and averaged weights; the guard skips a bad step of it."""

import json
from pathlib import Path

from pretrain.cli import main
from tests.helpers.devices import EACH_DEVICE
from tests.helpers.runs import arguments, weights


@EACH_DEVICE
def test_a_run_with_a_bad_step(tmp_path: Path, device: str) -> None:
    options = ["--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=1.0", "--data.init_args.micro_batch=2"]
    options += [f"--trainer.accelerator={'gpu' if device == 'cuda' else 'cpu'}", "--trainer.devices=1"]
    options += ["--model.init_args.recompute=true", "--trainer.callbacks+=pretrain.engine.ema.EMA"]
    options += ["--trainer.callbacks+=tests.helpers.poison.Poison", "--trainer.callbacks.lost=[[3, 1]]"]
    main(arguments(tmp_path, ["-c", "recipes/videomae_tiny.yaml"], *options))
    lines = (tmp_path / "run/skipped_steps.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3]
    assert all(tensor.isfinite().all() for tensor in weights(tmp_path / "run", 6).values())
