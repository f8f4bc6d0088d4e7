"""`python -m pretrain replay`: runs one step of a run again, alone, if wanted with a profiler or for anomalies."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn
from torch import Tensor

from datamodules.storage.counted import counted
from models.convert.sharded import is_sharded, read_sharded
from pretrain.engine.checkpoint import is_complete, load_plain
from pretrain.parser import Parser


def main(args: list[str], run: Callable[[list[str]], None]) -> None:
    """The command; see `--help`.

    Args:
        args: arguments after `replay`.
        run: runs a command of the command line.
    """
    parser = Parser(prog="python -m pretrain replay", description=__doc__)
    parser.add_argument("--ckpt_path", type=Path, required=True, help="a run folder, or one of its checkpoints")
    parser.add_argument(
        "--step", type=int, required=True, help="number of the step in the log: so many steps before it"
    )
    parser.add_argument(
        "--profile", type=Path, help="profile the step and write its trace (Chrome's format) to this file"
    )
    parser.add_argument("--detect_anomaly", action="store_true", help="name the operation whose gradient becomes NaN")
    parser.epilog = "Further options are as in `fit`; the recipe is the run's. The run itself is not changed."
    options, rest = parser.parse_known_args(args)
    recipe = run_recipe(options.ckpt_path)
    start = checkpoint_before(options.ckpt_path, options.step)
    first = 0 if start is None else saved_step(start)
    more = "" if first == options.step else f", which takes the {options.step - first} steps before it"
    if getattr(rank_zero_only, "rank", 0) == 0:  # ranks that Lightning starts run this command again
        print(f"step {options.step}, from {start or 'the start of the run'}{more}")
    replay = {"step": options.step, "profile": None if options.profile is None else str(options.profile)}
    replay["processes"] = processes_of(options.ckpt_path if start is None else start)
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "callbacks": [{"class_path": "pretrain.engine.replay.ReplayStep", "init_args": replay}],
            **{"logger": False, "enable_checkpointing": False, "enable_progress_bar": False},
            **{"enable_model_summary": False, "limit_val_batches": 0, "num_sanity_val_steps": 0},
            **{"default_root_dir": folder, "detect_anomaly": options.detect_anomaly},
        }
        fragment = Path(folder) / "replay.yaml"
        fragment.write_text(yaml.safe_dump({"trainer": settings, "ckpt_path": None if start is None else str(start)}))
        run(["fit", "-c", str(recipe), "-c", str(fragment), *rest])


def run_recipe(path: Path) -> Path:
    """The recipe of the run that a folder or a checkpoint belongs to; MisconfigurationException if there is none."""
    for folder in (path, *path.absolute().parents[:3]):
        if (folder / "config.yaml").is_file():
            return folder / "config.yaml"
    raise MisconfigurationException(f"there is no config.yaml of a run in {path} or above it: name a run's folder")


def checkpoint_before(path: Path, step: int) -> Path | None:
    """The last complete checkpoint of at most `step` steps in a run folder, or `path` itself if it is a checkpoint;
    None: there is none, and the run starts anew.

    MisconfigurationException: `path` is a checkpoint of a later step.
    """
    if path.is_file() or is_sharded(path):
        if saved_step(path) > step:
            raise MisconfigurationException(
                f"{path} is of step {saved_step(path)}, after step {step}: name the run folder"
            )
        return path
    found = [file for file in path.rglob("*.ckpt") if is_complete(file)]
    return max((file for file in found if saved_step(file) <= step), key=saved_step, default=None)


def saved_step(path: Path) -> int:
    """The steps before a checkpoint."""
    return int(_saved(path)["global_step"])


def _saved(path: Path) -> dict[str, Any]:
    """A checkpoint without its tensors, which stay in a file until they are used."""
    return read_sharded(path, lambda part: False) if path.is_dir() else load_plain(path, str(path), "cpu", mmap=True)


def processes_of(path: Path) -> int | None:
    """In how many processes a run wrote a checkpoint, or any checkpoint of its folder; None: unknown."""
    if path.is_file() or is_sharded(path):
        found = [path]
    else:
        found = [file for file in path.rglob("*.ckpt") if is_complete(file)]
    return _saved(found[0]).get("recipe", {}).get("processes") if found else None


class ReplayStep(pl.Callback):
    """Prints the losses of a step, and ends the run after it.

    Args:
        step: so many steps before it.
        profile: file for the trace of the profiler; None: it is not profiled.
        processes: of the run; None: unknown.
    """

    def __init__(self, step: int, profile: str | None = None, processes: int | None = None) -> None:
        self.step, self.profile, self.processes = step, profile, processes
        self.profiler: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.processes not in (None, trainer.world_size):
            of_run = counted(cast(int, self.processes), "process", "processes")
            rank_zero_warn(
                f"the run had {of_run} and this replay has {trainer.world_size}: the samples are the same, the losses "
                "are of other shares of them than the log's. Start as many as the run had (--trainer.devices, torchrun)"
            )

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self.step and self.profile is not None and self.profiler is None:
            self.profiler = torch.profiler.profile(profile_memory=True)
            self.profiler.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        key: Any = pl_module.random_key
        if key.step != self.step:
            return
        figures = {name: float(x) for name, x in trainer.callback_metrics.items() if isinstance(x, Tensor)}
        losses = "  ".join(f"{name} {x:.9g}" for name, x in figures.items() if name.startswith("train/"))
        if trainer.is_global_zero:
            print(f"micro-batch {key.part + 1} of {key.parts}: {losses}")
        if key.part + 1 < key.parts:
            return
        if trainer.is_global_zero and "grad_norm" in figures:
            print(f"grad_norm {figures['grad_norm']:.9g}")
        if self.profiler is not None and self.profile is not None:
            self.profiler.stop()
            if trainer.is_global_zero:
                self.profiler.export_chrome_trace(self.profile)
                print(self.profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=15))
                print(f"the trace is in {self.profile}")
        trainer.should_stop = True
