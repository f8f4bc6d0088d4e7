"""Short runs that record their batches: a module of one weight, a quiet trainer, and moving shapes as data."""

import logging
from collections import Counter

import torch
from lightning import LightningModule, Trainer

from datamodules import Synthetic, VideoData
from datamodules.sources.source import Source


class RecordingModule(LightningModule):
    """Records each training batch: (batch_idx, step, names, sum of the pixels)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen, self.evaluated = torch.nn.Parameter(torch.zeros(1)), [], []

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        self.seen.append((batch_idx, self.global_step, tuple(batch["name"]), int(batch["video"].long().sum())))
        return (self.weight * batch["video"].float().mean()).sum()

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        self.evaluated.append(batch)

    def test_step(self, batch: dict, batch_idx: int) -> None:
        self.evaluated.append(batch)

    def predict_step(self, batch: dict, batch_idx: int) -> dict:
        return batch

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 1e-3)


def trainer(**options: object) -> Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
    }
    steps = {"max_steps": 12, "check_val_every_n_epoch": None, "val_check_interval": 3, "num_sanity_val_steps": 0}
    return Trainer(**{"accelerator": "cpu", **quiet, **steps, **options})


def data(train: Source | None = None, **options: object) -> VideoData:
    train = train or Synthetic(50, size=32)
    small = {"global_batch": 6, "micro_batch": 2, "size": 32, "views": 2, "workers": 0, "flip": 0.5}
    return VideoData(train, Synthetic(10, size=32, seed=1), **{**small, **options})


def by_name(seen: list[tuple]) -> list[Counter]:
    """The videos of each step, regardless of its division into micro-batches."""
    steps = {}
    for _, step, names, _ in seen:
        steps.setdefault(step, Counter()).update(names)
    return list(steps.values())
