"""Another class of objective than the recipe's: the recipe keeps the settings that the class takes.

The parser would check the settings while they still refer to each other (`${...}`), and drop most of them.
"""

import importlib
import inspect
import os
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_info


def with_model_class(words: list[str], known: dict[str, type]) -> list[str]:
    """The words of a command in which all recipes have the class of objective that comes last, be it from a recipe or
    from `--model CLASS`; settings that this class does not take are left out, and named.

    Args:
        words: with `-c` before each recipe, a file or a fragment in YAML.
        known: classes by their short names.
    """
    places = [at + 1 for at, word in enumerate(words[:-1]) if word in ("-c", "--config")]
    if len(places) + sum(word == "--model" or word.startswith("--model=") for word in words) < 2:
        return words  # one place for a class: it is the class, and no recipe needs to be read again
    recipes = {at: _read(words[at]) for at in places}
    named = [(at, name) for at, recipe in recipes.items() if isinstance(name := _part(recipe).get("class_path"), str)]
    for at, word in enumerate(words):
        value = word.removeprefix("--model=") if word.startswith("--model=") else None
        if word == "--model" and at + 1 < len(words):
            value = words[at + 1]
        if value and not value.lstrip().startswith("{"):
            named.append((len(words), value))
    kind = _find(named[-1][1], known) if named else None
    if kind is None or all(_find(name, known) in (kind, None) for _, name in named):
        return words
    words, takes = list(words), _parameters(kind)
    for at, recipe in recipes.items():
        model = _part(recipe)
        if "class_path" not in model or _find(model["class_path"], known) is kind:
            continue
        settings = model.get("init_args") or {}
        left_out = [name for name in settings if name not in takes]
        if left_out:
            rank_zero_info(f"{named[-1][1]} takes no {', '.join(left_out)}: left out of {words[at]:.200}")
        kept = {name: value for name, value in settings.items() if name in takes}
        whole = {**recipe, "model": {**model, "class_path": named[-1][1], "init_args": kept}}
        words[at] = yaml.safe_dump(whole, default_flow_style=True, sort_keys=False)
    return words


def _read(word: str) -> Any:
    try:
        return yaml.safe_load(Path(word).read_text(encoding="utf-8") if os.path.isfile(word) else word)
    except (yaml.YAMLError, UnicodeDecodeError):
        return None  # the parser says what is wrong with it


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


def _parameters(kind: type) -> set[str]:
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
