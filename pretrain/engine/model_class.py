"""Another class of objective than the recipe's: the recipe keeps the settings that the class takes.

The parser would check the settings while they still refer to each other (`${...}`), and drop most of them.
"""

import importlib
import inspect
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info


def with_model_class(words: list[str], recipes: dict[int, Any], known: dict[str, type]) -> dict[int, Any]:
    """The recipes of a command, all with the class of objective that comes last, be it from a recipe or from
    `--model CLASS`; settings that this class does not take are left out, and named.

    Args:
        words: of the command.
        recipes: by the number of the word that names each.
        known: classes by their short names.
    """
    named = [(at, name) for at, recipe in recipes.items() if isinstance(name := _part(recipe).get("class_path"), str)]
    for at, word in enumerate(words):
        value = word.removeprefix("--model=") if word.startswith("--model=") else None
        if word == "--model" and at + 1 < len(words):
            value = words[at + 1]
        if value and not value.lstrip().startswith("{"):
            named.append((len(words), value))
    if len(named) < 2:
        return recipes  # the one is the class
    kind = _find(named[-1][1], known)
    if kind is None or all(_find(name, known) in (kind, None) for _, name in named):
        return recipes
    takes, found = parameters(kind), dict(recipes)
    for at, recipe in recipes.items():
        model = _part(recipe)
        if "class_path" not in model or _find(model["class_path"], known) is kind:
            continue
        settings = model.get("init_args") or {}
        left_out = [name for name in settings if name not in takes]
        if left_out:
            rank_zero_info(f"{named[-1][1]} takes no {', '.join(left_out)}: left out of {words[at]:.200}")
        kept = {name: value for name, value in settings.items() if name in takes}
        found[at] = {**recipe, "model": {**model, "class_path": named[-1][1], "init_args": kept}}
    return found


def _part(recipe: Any) -> dict[str, Any]:
    model = recipe.get("model") if isinstance(recipe, dict) else None
    return model if isinstance(model, dict) else {}


def _find(name: Any, known: dict[str, type]) -> type | None:
    """The class of a name; None: there is none, which the parser says."""
    if not isinstance(name, str):
        return None
    module, _, attribute = name.rpartition(".")
    if not module:
        return known.get(name)
    try:
        found = getattr(importlib.import_module(module), attribute, None)
    except ImportError:
        return None
    return found if isinstance(found, type) else None


def parameters(kind: type) -> set[str]:
    """Names of the arguments of a class and of those that it passes on to its bases."""
    names: set[str] = set()
    for each in kind.__mro__:
        if "__init__" not in vars(each) or each is object:
            continue
        parameters = inspect.signature(each.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)} - {"self"}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return names
