"""Features per video: safetensors files with a row per video, and the names in the metadata.

`names` are the videos' own names; where the source has others (members of shards), these are `keys`.
"""

import json
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from datamodules.storage.counted import counted
from datamodules.storage.whole_files import whole_path
from pretrain.features.index import describe, open_index


class VideoFeatureWriter:
    """Collects rows of videos, and writes a file whenever `rows` of them have arrived.

    Args:
        folder, rows, outputs: see `Features`.
        settings: the `model` and `data` parts of the resolved recipe; without them no index is written.
    """

    def __init__(self, folder: Path, rows: int, outputs: list[str] | None, settings: dict[str, Any]) -> None:
        self.folder, self.rows, self.outputs, self.settings = folder, rows, outputs, settings
        self.names: list[str] = []
        self.keys: list[str] = []
        self.batches: list[dict[str, Tensor]] = []
        self.files = self.written = 0

    def start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.rank, self.world_size = trainer.global_rank, trainer.world_size
        if self.settings:
            about = describe(self.settings, trainer, pl_module)  # a collective call if the model is sharded
            if trainer.is_global_zero:
                open_index(self.folder, about)
            trainer.strategy.barrier("index")

    def add(self, names: list[str], outputs: dict[str, Tensor], batch: dict[str, Any]) -> None:
        self.keys += names
        self.names += _own_names(names, batch)
        self.batches.append({name: tensor.cpu() for name, tensor in select(outputs, self.outputs).items()})
        if len(self.names) >= self.rows:
            self._write()

    def close(self) -> None:
        if self.names:
            self._write()

    def _write(self) -> None:
        rank = f"-rank{self.rank}" if self.world_size > 1 else ""
        path = self.folder / f"features{rank}-{self.files:05d}.safetensors"
        tensors = {name: torch.cat([batch[name] for batch in self.batches]).contiguous() for name in self.batches[0]}
        place = {"rank": self.rank, "world": self.world_size, "before": self.written}
        metadata = {"names": json.dumps(self.names), "place": json.dumps(place)}
        metadata |= {"keys": json.dumps(self.keys)} if self.keys != self.names else {}
        with whole_path(path) as draft:
            save_file(tensors, draft, metadata=metadata)
        print(f"{counted(len(self.names), 'video')}: {path}")
        self.written += len(self.names)
        self.names, self.keys, self.batches, self.files = [], [], [], self.files + 1


def _own_names(names: list[str], batch: dict[str, Any]) -> list[str]:
    """The own names of a batch's videos, without the rows that pad it."""
    if "origin" not in batch:
        return names
    weight = batch.get("weight")
    rows = range(len(names)) if weight is None else weight.nonzero()[:, 0].tolist()[: len(names)]
    return [batch["origin"][row] for row in rows]


def select(outputs: dict[str, Tensor], wanted: list[str] | None) -> dict[str, Tensor]:
    """The outputs named in `wanted`; None: all but `tokens`. MisconfigurationException if one does not exist."""
    names = wanted if wanted is not None else [name for name in outputs if name != "tokens"]
    missing = [name for name in names if name not in outputs]
    if missing:
        raise MisconfigurationException(
            f"features.outputs names {missing[0]!r}, and the model predicts {', '.join(outputs)}"
        )
    return {name: outputs[name] for name in names}


def read_features(path: str | Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """The videos' own names and the tensors of one file of a `VideoFeatureWriter`."""
    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["names"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
