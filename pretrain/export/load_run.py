"""Loads a trained objective, built from the recipe in its checkpoint."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jsonargparse

from models.convert.sharded import is_sharded, read_sharded
from pretrain.engine.checkpoint import damage, load_plain, newest_checkpoint
from pretrain.engine.old_names import with_new_names
from pretrain.export.embedded_recipe import instantiate_embedded, read_embedded
from pretrain.objectives import Classify, Objective


def load_objective(path: str, ema: bool | None = None, trust: Sequence[str] = ()) -> tuple[Objective, dict[str, Any]]:
    """The trained objective of a checkpoint, in eval mode, and the facts of its training: step, checkpoint, recipe.

    Args:
        path: a checkpoint, a file or a sharded folder, or a run folder (its newest checkpoint).
        ema: load the averaged weights (see `pretrain.engine.ema`); None: if the checkpoint holds them.
        trust: full names of classes that the checkpoint's recipe may use besides ours (see `embedded_recipe`).

    Raises:
        FileNotFoundError: no such checkpoint.
        ValueError: it is damaged, or holds no recipe, or no averaged weights, or a recipe with other classes.
    """
    file = Path(path)
    newest = newest_checkpoint(file) if file.is_dir() and not is_sharded(file) else None  # of a run folder
    file = newest or file
    if not file.is_file() and not is_sharded(file):
        raise FileNotFoundError(f"no checkpoint at {path}")
    if newest is None and (reason := damage(file)):
        raise ValueError(f"{file} is cut or damaged: {reason}")
    saved = read_checkpoint(file, lambda part: part in ("state_dict", "ema"))
    settings = model_settings(saved, str(file))
    model = instantiate_embedded(Objective, settings, str(file), trust)
    _load_state(model, saved.get("state_dict"), True, str(file))
    if isinstance(model, Classify):
        model.names = saved["recipe"].get("classes")
    if ema is None:
        ema = "ema" in saved
    if ema:
        if "ema" not in saved:
            raise ValueError(f"{file} holds no averaged weights: the run had no EMA among trainer.callbacks")
        _load_state(model, saved["ema"], False, str(file))
    recipe = {"recipe": saved["recipe"].get("yaml", ""), "model": settings}
    facts = {"step": saved.get("global_step"), "checkpoint": file, **recipe}
    return model.eval(), facts


def read_checkpoint(file: Path, wanted: Callable[[str], bool] = lambda part: True) -> dict[str, Any]:
    """The content of a checkpoint, a file or a sharded folder (its entries of tensors that are `wanted`), on the CPU.

    Raises:
        ValueError: it holds anything but tensors and plain values, or no table of them.
    """
    if file.is_dir():
        return read_sharded(file, wanted)
    saved = load_plain(file, str(file), "cpu", mmap=True)
    if not isinstance(saved, dict):
        raise ValueError(f"{file} is no checkpoint of a run: it holds a {type(saved).__name__}")
    return saved


def model_settings(saved: dict[str, Any], where: str) -> dict[str, Any]:
    """The `model` part of the recipe in a checkpoint, read by `read_embedded`; ValueError if there is none."""
    recipe = saved.get("recipe")
    if not isinstance(recipe, dict) or "model" not in recipe:
        raise ValueError(f"{where} carries no recipe: only checkpoints of `python -m pretrain fit` can be exported")
    return read_embedded(recipe["model"], where)


def _load_state(model: Objective, state: Any, strict: bool, where: str) -> None:
    try:
        model.load_state_dict(state, strict=strict)
    except (RuntimeError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"the weights in {where} are not of the model in its recipe: {reason}") from error


def build(settings: dict[str, Any]) -> Objective:
    """The objective of the `model` part of the user's own recipe; the weights to start from are not loaded."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Objective, "model")
    return parser.instantiate_classes(parser.parse_object({"model": with_new_names(settings)}))["model"]
