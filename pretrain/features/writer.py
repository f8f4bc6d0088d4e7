"""What `predict` yields, written to files: a row a video in safetensors, or a row a window in one .npy a video."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors.torch import save_file
from torch import Tensor

from pretrain.features.dense import DenseFolder, DenseWriter, settings_of
from pretrain.features.index import describe, open_index


class Features(BasePredictionWriter):
    """Writes what `predict` yields to safetensors: each tensor a row a video, the names in the file's metadata.

    Beside them `index.json` says of which model and videos they are, so that `tools/search.py` needs nothing else.

    Where the data are windows over whole videos (`data.init_args.window_step`) it writes one .npy file a video in their
    place, a row a window; videos that are done already are left out (`pretrain/features/dense.py`).

    Args:
        folder: where to; the run folder's `features/` by default.
        rows: videos a file; files are written as they fill, so that memory does not grow with the data.
        outputs: which tensors; all by default, but for `tokens`, which take a thousand times the room. Of windows it is
            one, `features` by default.
    """

    def __init__(self, folder: str | None = None, rows: int = 10_000, outputs: list[str] | None = None) -> None:
        super().__init__("batch")
        self.folder, self.rows, self.outputs = folder, rows, outputs
        self.settings: dict = {}  # the `model` and `data` parts of the resolved recipe, from the command line
        self.names: list[str] = []
        self.parts: list[dict[str, Tensor]] = []
        self.files = self.written = 0
        self.dense: DenseWriter | None = None

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """In windows: says to the data, when they are asked for, which videos are done."""
        super().setup(trainer, pl_module, stage)
        if stage != "predict" or getattr(trainer.datamodule, "window_step", None) is None:
            return
        self.folder = self.folder or str(Path(trainer.log_dir or ".") / "features")  # log_dir asks all ranks
        if len(self.outputs or []) > 1:
            raise MisconfigurationException(
                f"features of windows are one array a video: name one of {', '.join(self.outputs)} by features.outputs"
            )
        self.output = (self.outputs or ["features"])[0]

        def begin() -> Callable[[str], bool]:
            about = settings_of(self.settings, self.output, str(trainer.precision), pl_module)
            self.place = DenseFolder(Path(self.folder), about)
            if trainer.is_global_zero:
                self.place.open()
            trainer.strategy.barrier("dense")
            return self.place.holds

        trainer.datamodule.before_survey = begin

    def on_predict_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        data = trainer.datamodule
        if getattr(data, "window_step", None) is not None:
            self.place.check_names(video.name for video in data.surveyed)
            self.dense = DenseWriter(self.place, self.output, data.surveyed, data.windows)
            return
        self.folder = self.folder or str(Path(trainer.log_dir or ".") / "features")  # log_dir asks all ranks
        if self.settings:
            about = describe(self.settings, trainer, pl_module)  # asks all ranks where a model is in parts
            if trainer.is_global_zero:
                open_index(Path(self.folder), about)
            trainer.strategy.barrier("index")

    def write_on_batch_end(
        self, trainer: pl.Trainer, pl_module, prediction, batch_indices: Sequence[int] | None, batch: dict, *_: object
    ) -> None:
        names, tensors = prediction
        if self.dense is not None:
            if names:
                self.dense.add(batch["window"][batch["weight"] > 0], tensors)
            return
        self.names += names
        self.parts.append({name: tensor.cpu() for name, tensor in self._chosen(tensors).items()})
        if len(self.names) >= self.rows:
            self._write(trainer)

    def _chosen(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        wanted = self.outputs if self.outputs is not None else [name for name in tensors if name != "tokens"]
        lost = [name for name in wanted if name not in tensors]
        if lost:
            raise MisconfigurationException(
                f"features.outputs names {lost[0]!r}, and the model predicts {', '.join(tensors)}"
            )
        return {name: tensors[name] for name in wanted}

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.dense is not None:
            self.dense.close()
            data = trainer.datamodule
            failed = {name for name, _ in data.failed.get("predict", [])}
            done = sum(video.done for video in data.surveyed)
            print(
                f"{self.dense.written} videos written to {self.folder}, {done} were done before"
                + (f"; unreadable: {', '.join(sorted(failed))}" if failed else "")
            )
        elif self.names:
            self._write(trainer)

    def _write(self, trainer: pl.Trainer) -> None:
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        rank = f"-rank{trainer.global_rank}" if trainer.world_size > 1 else ""
        path = folder / f"features{rank}-{self.files:05d}.safetensors"
        tensors = {name: torch.cat([part[name] for part in self.parts]).contiguous() for name in self.parts[0]}
        place = {"rank": trainer.global_rank, "world": trainer.world_size, "before": self.written}
        metadata = {"names": json.dumps(self.names), "place": json.dumps(place)}
        draft = path.with_suffix(".draft")
        save_file(tensors, draft, metadata=metadata)
        draft.replace(path)
        print(f"{len(self.names)} videos: {path}")
        self.written += len(self.names)
        self.names, self.parts, self.files = [], [], self.files + 1


def read_features(path: str | Path) -> tuple[list[str], dict[str, np.ndarray]]:
    """The names and tensors that `Features` wrote to one file."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["names"]), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
