"""Features per window: an .npy file per video with a row per window; finished videos are skipped."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor

from datamodules.storage.counted import counted
from datamodules.video import VideoData
from pretrain.features.dense import DenseFolder, DenseWriter, feature_settings


class WindowFeatureWriter:
    """Connects the data module, which skips finished videos, with the `DenseWriter` that writes the others.

    Args:
        folder, outputs: see `Features`.
        settings: the `model` and `data` parts of the resolved recipe.
    """

    def __init__(
        self,
        folder: Path,
        outputs: list[str] | None,
        settings: dict[str, Any],
        data: VideoData,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
    ) -> None:
        if outputs and len(outputs) > 1:
            raise MisconfigurationException(
                f"features of windows are one array a video: name one of {', '.join(outputs)} by features.outputs"
            )
        self.path, self.data = folder, data
        self.output = (outputs or ["features"])[0]

        def open_folder() -> Callable[[str], bool]:
            about = feature_settings(settings, self.output, str(trainer.precision), pl_module)
            self.folder = DenseFolder(folder, about)
            if trainer.is_global_zero:
                self.folder.open()
            trainer.strategy.barrier("dense")
            return self.folder.is_done

        data.before_survey = open_folder  # not now: the settings contain a fingerprint of the loaded weights

    def start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.folder.check_names(video.name for video in self.data.surveyed)
        self.writer = DenseWriter(self.folder, self.output, self.data.surveyed, self.data.windows)

    def add(self, names: list[str], outputs: dict[str, Tensor], batch: dict[str, Any]) -> None:
        if names:
            self.writer.add(batch["window"][batch["weight"] > 0], outputs)

    def close(self) -> None:
        self.writer.close()
        failed = {name for name, _ in self.data.failures.failed.get("predict", [])}
        done = sum(video.done for video in self.data.surveyed)
        print(
            f"{counted(self.writer.written, 'video')} written to {self.path}, {done} done before"
            + (f"; unreadable: {', '.join(sorted(failed))}" if failed else "")
        )
