"""What a run says when it has ended: validation figures, its folder and checkpoints, and the commands that are next."""

import os
import shlex
from pathlib import Path

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from pretrain.engine.background_checkpoint import BackgroundCheckpointIO
from pretrain.engine.checkpoint import checkpoint_folder, regular_checkpoint, step_path
from pretrain.engine.short_options import recipes_folder


class RunSummary(pl.Callback):
    """Prints the summary after `fit`; a run that failed or was stopped prints none.

    Args:
        words: of the command, from which the recipes of the next commands are taken.
    """

    def __init__(self, words: list[str]) -> None:
        self.words = words

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        regular, writer = regular_checkpoint(trainer), trainer.strategy.checkpoint_io
        if isinstance(writer, BackgroundCheckpointIO):
            writer.wait()
        recipe = Path(_from_here(trainer.log_dir or "."), "config.yaml")  # a collective call
        debugging = trainer.fast_dev_run  # pyrefly: ignore[missing-attribute] Lightning sets it from outside the class
        if trainer.is_global_zero and regular is not None and not debugging:
            rank_zero_info("\n".join(self.lines(trainer, pl_module, regular, recipe)))

    def lines(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, regular: ModelCheckpoint, recipe: Path
    ) -> list[str]:
        """The summary, a line each; `recipe` is the run's own."""
        figures = {n: float(v) for n, v in trainer.callback_metrics.items() if n.startswith("val/")}
        folder = checkpoint_folder(trainer)
        run = Path(_from_here(folder.parent if folder.name == "checkpoints" else folder))
        newest = Path(step_path(regular, trainer.global_step))
        found = [f"the run has ended at step {trainer.global_step}"]
        if figures:
            found.append(
                "  validation   " + ", ".join(f"{name} {value:.4g}" for name, value in sorted(figures.items()))
            )
        found.append(f"  folder       {run}")
        if newest.exists():
            found.append(f"  checkpoint   {_from_here(newest)}")
        for each in trainer.checkpoint_callbacks:
            if isinstance(each, ModelCheckpoint) and each.monitor not in (None, "step") and each.best_model_path:
                found.append(f"  best         {_from_here(each.best_model_path)} by {each.monitor}")
        found += [f"  {name.ljust(12)} {words}" for name, words in self._next(trainer, pl_module, run, recipe).items()]
        return found

    def _next(self, trainer: pl.Trainer, pl_module: pl.LightningModule, run: Path, recipe: Path) -> dict[str, str]:
        """The commands that this model and its data have."""
        recipes, where, data = self._recipes(recipe), shlex.quote(str(run)), getattr(trainer, "datamodule", None)
        found = {}
        if getattr(data, "val", None) is not None or getattr(data, "val_sets", None):
            found["evaluate"] = f"tubelet validate {recipes} --ckpt_path {where}"
        if getattr(data, "test", None) is not None:
            found["test"] = f"tubelet test {recipes} --ckpt_path {where}"
        classifies = hasattr(pl_module, "model") and getattr(pl_module, "row_encoder", None) is None
        if hasattr(pl_module, "encoder") or classifies:
            found["features"] = f"tubelet predict {recipes} my/videos --ckpt_path {where} --out features"
        found["export"] = f"tubelet export --ckpt {where} --to safetensors --out my-model"
        return found

    def _recipes(self, own: Path) -> str:
        """`-c` with each recipe of the command, ours by name; or the run's own, if options changed the recipes."""
        files, others, words = [], [], iter(self.words[1:])
        for word in words:
            if word in ("-c", "--config"):
                files.append(next(words))
            else:
                others.append(word)
        if any(word.startswith(("--model", "--data")) for word in others) or not files:
            return f"-c {shlex.quote(str(own))}"
        return " ".join(f"-c {shlex.quote(_short(file))}" for file in files)


def _short(file: str) -> str:
    ours = recipes_folder()
    path = Path(file).resolve()
    return path.relative_to(ours).with_suffix("").as_posix() if path.is_relative_to(ours) else file


def _from_here(path: str | Path) -> str:
    """A path as one would type it: relative below the current folder, else absolute."""
    relative = os.path.relpath(path)
    return os.path.abspath(path) if relative.startswith("..") else relative
