"""A bad step is skipped with all micro-batches, on all ranks, logged and counted; too many of them stop the run."""

import json
import logging
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision

from pretrain.engine.nonfinite_guard import Guard
from pretrain.objectives import Objective
from tests.helpers.poison import Poison
from tests.helpers.recording import data, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


class Mean(Objective):
    """Predicts the mean of the pixels."""

    def __init__(self) -> None:
        super().__init__(global_batch=6)
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, batch: dict) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight - batch["video"].float().mean((1, 2, 3, 4)) / 255).square().mean()}


def fit(
    folder: Path, guard: Guard, poison: Poison, ckpt: Path | None = None, micro_batch: int = 2, **options: object
) -> Path:
    """Twelve steps of three micro-batches, with a checkpoint of each step."""
    keep = ModelCheckpoint(dirpath=folder, every_n_train_steps=1, save_top_k=-1, filename="{step}")
    options = {"enable_checkpointing": True, "default_root_dir": folder, **options}
    worker = trainer(callbacks=[poison, guard, keep], **options)
    worker.fit(Mean(), datamodule=data(micro_batch=micro_batch), ckpt_path=ckpt, weights_only=True)
    return folder


def state(folder: Path, step: int) -> tuple[dict, dict, dict]:
    saved = torch.load(folder / f"step={step}.ckpt", weights_only=True)
    return saved["state_dict"], saved["optimizer_states"][0]["state"], saved["callbacks"]["Guard"]


def unmoved(folder: Path, step: int) -> bool:
    (a, b, _), (c, d, _) = state(folder, step), state(folder, step + 1)
    return torch.equal(a["weight"], c["weight"]) and all(torch.equal(b[0][k], d[0][k]) for k in b[0])


def skipped(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "skipped_steps.jsonl").read_text().splitlines()]


class PoisonedFiles(Poison):
    """Samples whose names are not UTF-8."""

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch, batch_idx: int) -> None:
        batch["name"] = [name + "\udcff" for name in batch["name"]]
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)


def test_a_torn_line_and_names_that_are_not_utf8_end_no_run(tmp_path: Path) -> None:
    (tmp_path / "skipped_steps.jsonl").write_text('{"step": 1, "rea')  # of a run that was killed
    fit(tmp_path, Guard(), poison := PoisonedFiles(lost=[(4, 1)]))
    torn, *lines = (tmp_path / "skipped_steps.jsonl").read_bytes().splitlines()
    assert torn == b'{"step": 1, "rea' and [json.loads(line)["samples"] for line in lines] == [poison.names]


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed", "gradient_clip_val": 0.1}], ids=["plain", "clip"])
def test_a_step_with_a_nan_micro_batch_is_skipped(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, options: dict
) -> None:
    guard, poison = Guard(), Poison(lost=[(4, 1)])
    with caplog.at_level(logging.WARNING, "pretrain.engine.nonfinite_guard"):
        fit(tmp_path, guard, poison, **options)
    assert [unmoved(tmp_path, step) for step in range(1, 12)] == [step == 4 for step in range(1, 12)]
    assert (guard.steps, guard.skipped, len(guard.state_dict()["norms"])) == (12, 1, 11)
    assert skipped(tmp_path) == [{"step": 4, "reason": "a loss is not finite", "samples": poison.names}]
    assert len(poison.names) == 2 and all(name in caplog.text for name in poison.names)
    assert "step 4 is not taken: a loss is not finite (1 of 5 steps so far)" in caplog.text


def test_spikes_are_skipped_and_a_resumed_run_skips_the_same(tmp_path: Path) -> None:
    """A norm of 20 times the median is a spike, one of 5 times is not; the resumed run keeps the median."""
    poison = {3: 5.0, 8: 20.0, 9: torch.inf}
    whole, guard = tmp_path / "whole", Guard(factor=10, window=8)
    fit(whole, guard, Poison(factors=poison))
    assert [line["step"] for line in skipped(whole)] == [8, 9]
    assert "median" in skipped(whole)[0]["reason"] and len(skipped(whole)[0]["samples"]) == 6
    again = Guard(factor=10, window=8)
    fit(tmp_path / "again", again, Poison(factors=poison), ckpt=whole / "step=7.ckpt")
    assert [line["step"] for line in skipped(tmp_path / "again")] == [8, 9]
    assert again.state_dict() == guard.state_dict() and again.skipped == 2
    for a, b in zip(state(whole, 12)[:2], state(tmp_path / "again", 12)[:2], strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_over_the_budget_the_run_stops_and_names_the_samples(tmp_path: Path) -> None:
    poison = Poison(lost=[(step, 0) for step in range(2, 12)])
    with pytest.raises(RuntimeError, match=r"4 of 6 steps had to be left out.*guard.budget") as error:
        fit(tmp_path, Guard(grace=3), poison)
    assert poison.names[-1] in str(error.value) and len(skipped(tmp_path)) == 4


def test_an_overflow_of_float16_is_left_to_the_scaler(tmp_path: Path) -> None:
    guard = Guard()
    half = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    fit(tmp_path, guard, Poison(lost=[(6, 2)], factors={4: torch.inf}), plugins=[half])
    assert [unmoved(tmp_path, step) for step in range(1, 12)] == [step in (4, 6) for step in range(1, 12)]
    assert guard.skipped == 1 and [line["step"] for line in skipped(tmp_path)] == [6]


def test_two_ranks_skip_a_step_that_is_nan_on_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 gets NaN pixels in one micro-batch of three: both ranks skip the step and name rank 1's sample."""
    monkeypatch.setenv(
        "MASTER_PORT", str(find_free_network_port())
    )  # Lightning would leave one in the environment of later tests
    poison = Poison(lost=[(4, 1)], factors={7: 20.0}, rank=1)
    options = {"devices": 2, "strategy": "ddp_fork", "gradient_clip_val": 1.0, "micro_batch": 1}
    fit(tmp_path, Guard(factor=10, window=8), poison, **options)
    assert [unmoved(tmp_path, step) for step in range(1, 12)] == [step in (4, 7) for step in range(1, 12)]
    lost, spike = skipped(tmp_path)
    assert (lost["step"], len(lost["samples"])) == (4, 1) and (spike["step"], len(spike["samples"])) == (7, 6)
    one = tmp_path / "one"
    fit(one, Guard(factor=10, window=8), Poison(lost=[(4, 1)], factors={7: 20.0}), gradient_clip_val=1.0)
    assert state(tmp_path, 12)[2]["skipped"] == state(one, 12)[2]["skipped"] == 2
    torch.testing.assert_close(state(tmp_path, 12)[0], state(one, 12)[0])
