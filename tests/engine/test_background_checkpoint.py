"""Checkpoints in the background: the weights of their step, and as many whole ones at any time as without it."""

import threading
from pathlib import Path

import pytest
import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pretrain.engine.background_checkpoint import BackgroundCheckpointIO
from pretrain.engine.checkpoint import AtomicCheckpointIO, is_complete
from pretrain.engine.checkpoint_writer import checkpoint_io
from pretrain.engine.strategies import FSDP2Strategy
from tests.helpers.runs import fit

RECIPE = ["-c", "recipes/videomae_tiny.yaml"]


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Writing waits for it."""
    opened, save = threading.Event(), AtomicCheckpointIO.save_checkpoint

    def wait(self: AtomicCheckpointIO, *arguments: object) -> None:
        assert opened.wait(60)
        save(self, *arguments)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", wait)
    return opened


def test_later_steps_do_not_change_it(tmp_path: Path, gate: threading.Event) -> None:
    writer, weight = BackgroundCheckpointIO(), torch.zeros(3)
    writer.save_checkpoint({"state_dict": {"weight": weight}, "step": 1}, tmp_path / "a.ckpt")
    weight += 1
    assert not (tmp_path / "a.ckpt").exists(), "the step waited for the disk"
    gate.set()
    writer.teardown()
    saved = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert saved["step"] == 1 and torch.equal(saved["state_dict"]["weight"], torch.zeros(3))


def test_the_one_before_is_removed_last(tmp_path: Path, gate: threading.Event) -> None:
    """Lightning removes it right after the call that saves the next."""
    torch.save({}, tmp_path / "before.ckpt")
    writer = BackgroundCheckpointIO()
    writer.save_checkpoint({}, tmp_path / "next.ckpt")
    writer.remove_checkpoint(tmp_path / "before.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["before.ckpt"]
    gate.set()
    writer.teardown()
    assert [path.name for path in tmp_path.iterdir()] == ["next.ckpt"]


def test_a_failure_is_raised_and_nothing_removed(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "before.ckpt")
    (tmp_path / "file").write_text("no folder")
    writer = BackgroundCheckpointIO()
    writer.save_checkpoint({}, tmp_path / "file/next.ckpt")
    writer.remove_checkpoint(tmp_path / "before.ckpt")
    with pytest.raises(OSError, match=r"next.ckpt"):
        writer.save_checkpoint({}, tmp_path / "later.ckpt")
    writer.teardown()
    assert (tmp_path / "before.ckpt").exists() and not (tmp_path / "later.ckpt").exists()


@pytest.mark.slow
def test_a_run_leaves_whole_checkpoints(tmp_path: Path) -> None:
    each = ["--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.every_n_train_steps=1"]
    each += ["--trainer.callbacks.save_top_k=-1", "--trainer.callbacks.filename={step:07d}", "--trainer.max_steps=2"]
    run = fit(tmp_path, RECIPE, *each, "--trainer.val_check_interval=2", "--background_checkpoints=true")
    found = sorted((run / "checkpoints").iterdir())
    assert [path.name for path in found] == ["step=0000001.ckpt", "step=0000002.ckpt"] and all(map(is_complete, found))
    first, second = (torch.load(path, weights_only=True) for path in found)
    assert (first["global_step"], second["global_step"]) == (1, 2)
    name = "encoder.blocks.0.attn.qkv.weight"
    assert not torch.equal(first["state_dict"][name], second["state_dict"][name])


def test_only_strategies_that_can_write_in_the_background() -> None:
    for strategy in ("deepspeed", "fsdp", ModelParallelStrategy()):
        assert not isinstance(checkpoint_io(None, {"strategy": strategy}), BackgroundCheckpointIO)
        with pytest.raises(
            MisconfigurationException, match="the folders of FSDP2Strategy are written in the background"
        ):
            checkpoint_io(True, {"strategy": strategy})
    for strategy in ("ddp", FSDP2Strategy()):
        assert isinstance(checkpoint_io(True, {"strategy": strategy}), BackgroundCheckpointIO)
        assert not isinstance(checkpoint_io(False, {"strategy": strategy}), BackgroundCheckpointIO)
