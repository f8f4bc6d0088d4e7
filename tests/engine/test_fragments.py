"""Trainer fragments: they say how long a process waits for the others, and FSDP2 computes in the run's precision."""

import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.strategies import Strategy

from pretrain.engine.strategies import FSDP2Strategy
from pretrain.learning import parallel
from tests.helpers.methods import METHODS
from tests.helpers.paths import ROOT
from tests.helpers.runs import arguments, run_together

DISTRIBUTED = ("ddp", "gpu8", "fsdp", "deepspeed_zero1", "deepspeed_zero2", "deepspeed_zero3")


def strategy(name: str) -> Strategy:
    page = yaml.safe_load((ROOT / f"recipes/trainer/{name}.yaml").read_text())["trainer"]["strategy"]
    if page["class_path"] in ("FSDP2Strategy", "ZeROStrategy"):
        page["class_path"] = f"pretrain.engine.strategies.{page['class_path']}"
    else:
        page["class_path"] = f"lightning.pytorch.strategies.{page['class_path']}"
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--strategy", type=Strategy)
    return parser.instantiate_classes(parser.parse_object({"strategy": page})).strategy


@pytest.mark.parametrize("name", DISTRIBUTED)
def test_a_process_waits_ten_minutes_for_the_others(name: str) -> None:
    """Both NCCL and gloo end a process whose exchange takes longer than its group's timeout."""
    if name.startswith("deepspeed"):
        pytest.importorskip("deepspeed")
    made = strategy(name)
    assert made._timeout == timedelta(minutes=10)
    if name in ("ddp", "gpu8"):
        assert made._ddp_kwargs["broadcast_buffers"] is False


@pytest.mark.parametrize(
    ("precision", "given", "right"),
    [
        ("bf16-mixed", "auto", torch.bfloat16),
        ("bf16-mixed", "float32", torch.float32),
        ("bf16-mixed", "bfloat16", torch.bfloat16),
        ("32-true", "auto", torch.float32),
    ],
)
def test_fsdp_gathers_in_the_precision_of_the_computation(
    precision: str, given: str, right: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, used = FSDP2Strategy(param_dtype=given), []
    monkeypatch.setattr(FSDP2Strategy, "mesh", lambda self: None)
    monkeypatch.setattr(FSDP2Strategy.__bases__[0], "setup", lambda self, trainer: None)
    monkeypatch.setattr(parallel, "shard", lambda model, mesh, dtype, *_: used.append(dtype))
    made._lightning_module = made.model = SimpleNamespace(forward_methods=())
    made.setup(SimpleNamespace(precision=precision))
    assert used == [right]


def test_the_policy_reduces_gradients_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.distributed.fsdp as fsdp

    policies = []
    monkeypatch.setattr(fsdp, "fully_shard", lambda module, mp_policy, **_: policies.append(mp_policy))
    parallel.shard(torch.nn.Linear(2, 2), None, torch.bfloat16)
    assert [(policy.param_dtype, policy.reduce_dtype) for policy in policies] == [(torch.bfloat16, torch.float32)]


class Hang(pl.Callback):
    """The second rank stops answering in the third step."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_rank == 1 and trainer.global_step == 2:
            time.sleep(300)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "fsdp"])
def test_a_rank_that_hangs_ends_the_others_in_the_stated_time(name: str, tmp_path: Path) -> None:
    """Here by gloo; NCCL's watchdog takes the same timeout of the process group."""
    key = {"ddp": "timeout=0:00:05", "fsdp": "timeout_s=5"}[name]
    here = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.precision=32-true"]
    recipe = [*METHODS["videomae"], "-c", str(ROOT / f"recipes/trainer/{name}.yaml")]
    hang = ["--trainer.callbacks+=tests.engine.test_fragments.Hang", f"--trainer.strategy.{key}"]
    started = time.monotonic()
    with pytest.raises(Exception, match=r"(?i)timed? ?out"):
        run_together([arguments(tmp_path, recipe, *here, *hang)])
    assert time.monotonic() - started < 120
