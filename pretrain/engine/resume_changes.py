"""A resumed run says which settings differ from those of the checkpoint: learning rate, length, paths of the data."""

from collections.abc import Iterator
from typing import Any

import lightning.pytorch as pl
import yaml
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from pretrain.engine.old_names import with_new_names

# They concern a start, or what is shown, and not the run.
_OF_THE_START = ("ckpt_path", "wait_for_run", "background_checkpoints", "enable_progress_bar", "enable_model_summary")
_SHOWN = 12  # settings


class ResumeChanges(pl.Callback):
    """Prints the settings that changed, when `fit` goes on from a checkpoint.

    Args:
        recipe: the resolved recipe of this start, in YAML.
    """

    def __init__(self, recipe: str) -> None:
        self.recipe = recipe

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        before = (checkpoint.get("recipe") or {}).get("yaml")
        if trainer.state.fn != TrainerFn.FITTING or not before:
            return
        found = list(changes(with_new_names(yaml.safe_load(before)), yaml.safe_load(self.recipe)))
        step = checkpoint.get("global_step")
        if found:
            more = [f"  and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []
            rank_zero_info("\n".join([f"resumed at step {step} with other settings:", *found[:_SHOWN], *more]))
        else:
            rank_zero_info(f"resumed at step {step} with the same settings")


def changes(before: Any, now: Any, place: str = "") -> Iterator[str]:
    """A line for each setting that both have, with another value; of another class only the class.

    Args:
        before, now: recipes in plain values, or parts of them.
        place: where the parts are.
    """
    if isinstance(before, dict) and isinstance(now, dict):
        names = ["class_path"] if before.get("class_path") != now.get("class_path") else list(now)
        for name in names:
            if name in before and name in now and name not in _OF_THE_START:
                inner = place if name == "init_args" else f"{place}.{name}".lstrip(".")
                yield from changes(before[name], now[name], inner)
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for number, parts in enumerate(zip(before, now, strict=True)):
            yield from changes(*parts, f"{place}[{number}]")
    elif before != now:
        yield f"  {place}: {_short(before)}, now {_short(now)}"


def _short(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()
    return text if len(text) <= 80 else f"{text[:77]}..."
