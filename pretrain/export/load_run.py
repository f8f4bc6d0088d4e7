"""Loads a trained objective, built from the recipe in its checkpoint."""

from pathlib import Path
from typing import Any

import jsonargparse
import torch
import yaml

from models.convert.sharded import is_sharded, read_sharded
from pretrain.engine.checkpoint import is_complete, newest_checkpoint
from pretrain.engine.old_names import with_new_names
from pretrain.objectives import Classify, Objective


def load_objective(path: str, ema: bool | None = None) -> tuple[Objective, dict[str, Any]]:
    """The trained objective of a checkpoint, in eval mode, and the facts of its training: step, checkpoint, recipe.

    Args:
        path: a checkpoint, a file or a sharded folder, or a run folder (its newest checkpoint).
        ema: load the averaged weights (see `pretrain.engine.ema`); None: if the checkpoint holds them.

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: it is damaged, or holds no recipe, or no averaged weights.
    """
    file = Path(path)
    newest = newest_checkpoint(file) if file.is_dir() and not is_sharded(file) else None  # of a run folder
    file = newest or file
    if not file.is_file() and not is_sharded(file):
        raise FileNotFoundError(f"no checkpoint at {path}")
    if newest is None and not is_complete(file):
        raise ValueError(f"{file} is cut or damaged")
    if file.is_dir():
        saved = read_sharded(file, lambda part: part in ("state_dict", "ema"))
    else:
        saved = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    if "recipe" not in saved:
        raise ValueError(f"{file} carries no recipe: only checkpoints of `python -m pretrain fit` can be exported")
    settings = with_new_names(yaml.safe_load(saved["recipe"]["model"]))
    model = build(settings)
    model.load_state_dict(saved["state_dict"])
    if isinstance(model, Classify):
        model.names = saved["recipe"].get("classes")
    if ema is None:
        ema = "ema" in saved
    if ema:
        if "ema" not in saved:
            raise ValueError(f"{file} holds no averaged weights: the run had no EMA among trainer.callbacks")
        model.load_state_dict(saved["ema"], strict=False)
    recipe = {"recipe": saved["recipe"]["yaml"], "model": settings}
    facts = {"step": saved["global_step"], "checkpoint": file.name, **recipe}
    return model.eval(), facts


def build(settings: dict[str, Any]) -> Objective:
    """The objective of a recipe's `model` part; the weights to start from are not loaded."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Objective, "model")
    return parser.instantiate_classes(parser.parse_object({"model": with_new_names(settings)}))["model"]
