"""What rank 0 does for all ranks, each of them learns: the result, or the error."""

import os
from pathlib import Path

import pytest
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy

from datamodules.storage.lock import lock_folder
from pretrain.engine.rank_zero import on_rank_zero
from tests.helpers.ranks import in_ranks


def _trainer(**options: object) -> Trainer:
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "barebones": False}
    return Trainer(accelerator="cpu", **quiet, **options)


def _rank(rank: int, folder: Path, launcher: str) -> None:
    """Writes down what this rank learns of four works. `launcher` is who starts the ranks: torchrun sets TORCHELASTIC,
    Lightning's own has started them once there is a process group."""
    if launcher == "lightning":
        for name in ("RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "TORCHELASTIC_RUN_ID"):
            del os.environ[name]
    trainer, model = _trainer(devices=2, strategy=DDPStrategy(process_group_backend="gloo")), LightningModule()
    if launcher == "lightning":
        trainer.strategy.connect(model)
        trainer.strategy.setup_environment()
    held, learnt = [], []

    def fail(error: Exception) -> None:
        raise error

    def lock() -> None:
        held.append(lock_folder(folder / "locked"))

    for work in (lambda: os.getpid(), lock, lock, lambda: fail(KeyError("a mistake of ours"))):
        try:
            learnt.append(str(on_rank_zero(trainer, model, work)))
        except Exception as error:
            learnt.append(f"{type(error).__name__}: {error}")
    (folder / f"{rank}.txt").write_text("\n".join([*learnt, str(len(held)), str(os.getpid())]))
    dist.destroy_process_group()


@pytest.mark.parametrize("launcher", ["torchrun", "lightning"])
def test_all_ranks_learn_the_result_or_the_error(tmp_path: Path, launcher: str) -> None:
    in_ranks(_rank, tmp_path, launcher)
    first, second = ((tmp_path / f"{rank}.txt").read_text().splitlines() for rank in (0, 1))
    result, locked, refused, failed, held, process = first
    assert result == second[0] == process != second[5]
    assert locked == second[1] == "None" and (held, second[4]) == ("1", "0")
    assert refused.startswith("InUse: ") and "is in use by process " in refused
    assert second[2] == refused.replace("InUse", "MisconfigurationException")
    assert failed == "KeyError: 'a mistake of ours'" == second[3].replace("MisconfigurationException", "KeyError")


def test_a_process_whose_ranks_are_not_started_yet_does_the_work_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    for options in ({"devices": 1}, {"devices": 2, "strategy": "ddp"}):
        on_rank_zero(_trainer(**options), LightningModule(), lambda: done.append(dist.is_initialized()))
    assert done == [False, False]
