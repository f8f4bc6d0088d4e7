"""Features: the callback that writes the outputs of `predict` to files, per video or per window."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from datamodules.storage.lock import Lock, lock_folder
from datamodules.video import VideoData
from pretrain.engine.rank_zero import on_rank_zero
from pretrain.features.videos import VideoFeatureWriter
from pretrain.features.windows import WindowFeatureWriter


class FeatureWriter(Protocol):
    """Writes the features of one `predict` run on one rank."""

    def start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called on all ranks before the first batch."""

    def add(self, names: list[str], outputs: dict[str, Tensor], batch: dict[str, Any]) -> None:
        """Takes the names and the outputs of a batch's videos or windows, without the rows that pad it."""

    def close(self) -> None:
        """Called after the last batch."""


class Features(BasePredictionWriter):
    """Writes the outputs of `predict` to safetensors files, a row per video, with the names in the file's metadata.

    `index.json` beside them describes the model and the videos; `tools/search.py` needs nothing else.

    If the data are windows over whole videos (`data.window_step`), each video gets an .npy file with a row
    per window instead; finished videos are skipped (`pretrain/features/dense.py`).

    Args:
        folder: where to write; by default `features/` in the run folder.
        rows: videos per file; full files are written at once, hence memory does not grow with the data.
        outputs: names of the tensors to write; by default all but `tokens`, which are a thousand times larger. For
            windows it is one name, by default `features`.
    """

    def __init__(self, folder: str | None = None, rows: int = 10_000, outputs: list[str] | None = None) -> None:
        super().__init__("batch")
        self.folder, self.rows, self.outputs = folder, rows, outputs
        self.settings: dict[str, Any] = {}  # `model` and `data` of the resolved recipe, set by the command line
        self.writer: FeatureWriter | None = None
        self.lock: Lock | None = None  # of the folder, on rank 0: a second `predict` into it is refused

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        if stage != "predict":
            return
        folder = Path(self.folder or Path(trainer.log_dir or ".") / "features")  # log_dir is a collective call

        def lock() -> None:
            self.lock = lock_folder(folder)

        on_rank_zero(trainer, pl_module, lock)
        data = getattr(trainer, "datamodule", None)
        if isinstance(data, VideoData) and data.window_step is not None:
            self.writer = WindowFeatureWriter(folder, self.outputs, self.settings, data, trainer, pl_module)
        else:
            self.writer = VideoFeatureWriter(folder, self.rows, self.outputs, self.settings)

    def on_predict_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.writer is not None  # `setup` has made it
        self.writer.start(trainer, pl_module)

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        assert self.writer is not None
        names, outputs = prediction
        self.writer.add(names, outputs, batch)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert self.writer is not None
        self.writer.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._release()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        self._release()

    def _release(self) -> None:
        if self.lock is not None:
            self.lock.release()
        self.lock = None
