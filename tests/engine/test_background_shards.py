"""Folders of FSDP2 in the background: each whole or absent, one after the other, and failures raised by all ranks."""

import os
import signal
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import TorchElasticEnvironment
from torch.distributed.checkpoint import FileSystemWriter
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.multiprocessing import ProcessExitedException

from models.convert.sharded import read_sharded
from pretrain.cli import main
from pretrain.engine import sharded_checkpoint
from pretrain.engine.background_checkpoint import BackgroundCheckpointIO
from pretrain.engine.checkpoint import is_complete, newest_checkpoint
from pretrain.engine.strategies import FSDP2Strategy
from tests.helpers.ranks import in_ranks
from tests.helpers.runs import SendSignal, arguments


class Writer:
    """A strategy in one of two ranks, and what it saves: a sharded tensor, a scalar of each kind, a plain number."""

    def __init__(self, rank: int, folder: Path) -> None:
        dist.init_process_group("gloo")
        mesh = init_device_mesh("cpu", (2,))
        self.rank, self.folder = rank, folder
        self.weight = distribute_tensor(torch.zeros(5, 3), mesh, [Shard(0)])
        self.replica = distribute_tensor(torch.tensor(0.0), mesh, [Replicate()])
        self.scalar, self.loops = torch.tensor(0.0), {"step": 0}
        self.strategy = FSDP2Strategy()
        self.strategy.cluster_environment = TorchElasticEnvironment()
        self.strategy.checkpoint_io = BackgroundCheckpointIO()

    def save(self, name: str) -> Path:
        state = {"weight": self.weight, "replica": self.replica, "scalar": self.scalar}
        path = self.folder / name
        self.strategy.save_checkpoint({"state_dict": state, "loops": self.loops}, path)
        return path

    def step(self) -> None:
        for tensor in (self.weight, self.replica, self.scalar):
            tensor += 1
        self.loops["step"] += 1

    def gate(self) -> Path:
        """A file that both ranks wait for when their parts are written."""
        opened, entries = self.folder / "opened", sharded_checkpoint._manifest_entries

        def wait(draft: Path) -> dict:
            while not opened.exists():
                time.sleep(0.01)
            return entries(draft)

        sharded_checkpoint._manifest_entries = wait
        return opened


def in_order(rank: int, folder: Path) -> None:
    writer = Writer(rank, folder)
    opened, write = writer.gate(), FileSystemWriter.write_data

    def wait(*given: object) -> object:
        while not opened.exists():
            time.sleep(0.01)
        return write(*given)

    FileSystemWriter.write_data = wait  # tensors, too, are read after the step below
    first = writer.save("1.ckpt")
    writer.step()  # after the copy
    dist.barrier()
    assert newest_checkpoint(folder) is None, "the step waited for the disk"
    if rank == 1:
        opened.touch()
    second = writer.save("2.ckpt")  # waits for the first
    assert is_complete(first)
    saved = read_sharded(first)
    assert saved["loops"] == {"step": 0} and saved["state_dict"]["weight"].unique().tolist() == [0]
    assert [saved["state_dict"][name].item() for name in ("replica", "scalar")] == [0, 0]
    dist.barrier()
    writer.strategy.remove_checkpoint(first)
    writer.strategy.checkpoint_io.teardown()
    dist.barrier()
    assert not first.exists() and is_complete(second)
    saved = read_sharded(second)
    assert saved["loops"] == {"step": 1} and saved["state_dict"]["weight"].unique().tolist() == [1]
    assert [saved["state_dict"][name].item() for name in ("replica", "scalar")] == [1, 1]
    dist.destroy_process_group()


def test_each_has_the_values_of_its_step_and_the_one_before_is_removed_last(tmp_path: Path) -> None:
    in_ranks(in_order, tmp_path, seconds=60)


def with_a_full_disk(rank: int, folder: Path) -> None:
    writer = Writer(rank, folder)
    first = writer.save("1.ckpt")
    writer.strategy.checkpoint_io.wait()
    entries = sharded_checkpoint._manifest_entries

    def full(draft: Path) -> dict:
        raise OSError("no space left on device")

    sharded_checkpoint._manifest_entries = full if rank == 1 else entries
    writer.save("2.ckpt")
    writer.strategy.remove_checkpoint(first)
    with pytest.raises(OSError, match=r"2.ckpt \(OSError: no space left on device\)"):
        writer.save("3.ckpt")
    writer.strategy.checkpoint_io.teardown()
    dist.barrier()
    assert [path.name for path in folder.iterdir()] == ["1.ckpt"] and is_complete(first)
    dist.destroy_process_group()


def test_a_failure_of_one_rank_is_raised_by_all_and_nothing_is_removed(tmp_path: Path) -> None:
    in_ranks(with_a_full_disk, tmp_path, seconds=60)


def killed(rank: int, folder: Path) -> None:
    writer = Writer(rank, folder)
    first = writer.save("1.ckpt")
    writer.strategy.checkpoint_io.wait()
    writer.step()
    writer.gate()
    writer.save("2.ckpt")
    writer.strategy.remove_checkpoint(first)
    while len(list(folder.glob(".2.ckpt.draft/__*"))) < 2:
        time.sleep(0.01)
    dist.barrier()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_kill_while_it_is_written_leaves_the_one_before(tmp_path: Path) -> None:
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        in_ranks(killed, tmp_path, seconds=60)
    assert newest_checkpoint(tmp_path) == tmp_path / "1.ckpt" and not (tmp_path / "2.ckpt").exists()
    assert read_sharded(tmp_path / "1.ckpt")["state_dict"]["weight"].unique().tolist() == [0]


@pytest.mark.slow
def test_a_terminated_run_waits_for_its_folder(tmp_path: Path) -> None:
    """And says so by its exit code; the run goes on from there."""
    place = [f"--trainer.callbacks+={SendSignal.__module__}.SendSignal", "--trainer.callbacks.step=1"]
    words = arguments(tmp_path, ["-c", "recipes/videomae_tiny.yaml", "-c", "recipes/trainer/fsdp.yaml"])
    words += ["--trainer.devices=2", "--trainer.precision=32-true", "--background_checkpoints=true"]
    in_ranks(terminated, [*words, *place, "--trainer.callbacks.name=SIGTERM"])
    newest = newest_checkpoint(tmp_path)
    assert newest is not None and 2 <= read_sharded(newest)["global_step"] <= 6
    assert not list(tmp_path.rglob(".*.draft"))


def terminated(rank: int, words: list[str]) -> None:
    entries = sharded_checkpoint._manifest_entries

    def slow(draft: Path) -> dict:
        time.sleep(1)
        return entries(draft)

    sharded_checkpoint._manifest_entries = slow
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 128 + signal.SIGTERM
