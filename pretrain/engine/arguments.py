"""The words of a command as the parser gets them: recipes in new names, of one class, with whole paths; nulls as
fragments."""

import itertools
import os
import re
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from pretrain.engine.model_class import with_model_class
from pretrain.engine.old_names import with_new_names
from pretrain.engine.short_options import with_places

_DICTS = ("options", "optimizer_options", "config")  # of any values, among which jsonargparse reads null


def with_recipes(words: list[str], known: dict[str, type]) -> list[str]:
    """Words of a command in which each recipe, a file or a fragment in YAML, stands in the form that the parser takes:
    in new names (`pretrain.engine.old_names`), with classes for plain paths of sources, and with the class of objective
    that comes last. A recipe that has this form stays as it is.

    Args:
        known: classes of objectives by their short names.

    Raises:
        ValueError: a recipe is no YAML.
    """
    words = [part for word in words for part in _apart(word)]
    given = {at: _read(words[at]) for at in range(1, len(words)) if words[at - 1] in ("-c", "--config")}
    read = {at: with_new_names(recipe) for at, recipe in given.items()}
    for at, recipe in read.items():
        if recipe != given[at]:
            rank_zero_info(f"{words[at]:.200} uses old names of classes or arguments; it is read with their new names")
    read = with_model_class(words, {at: with_places(recipe) for at, recipe in read.items()}, known)
    for at, recipe in read.items():
        if recipe != given[at]:
            words[at] = yaml.safe_dump(recipe, default_flow_style=True, sort_keys=False)
    return words


def _apart(word: str) -> list[str]:
    """`--config=FILE` as two words."""
    return ["-c", word.removeprefix("--config=")] if word.startswith("--config=") else [word]


def _read(word: str) -> Any:
    """The content of a recipe; a word that is neither a file nor a mapping in YAML stays, and the parser says so."""
    try:
        return yaml.safe_load(Path(word).read_text(encoding="utf-8") if os.path.isfile(word) else word)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"the recipe {word:.200} is no YAML: {error}") from error


def with_nulls(args: list[str]) -> list[str]:
    """Arguments with `--model.teacher.weights=null` (or `... null`), with or without `init_args`, replaced by a `-c`
    fragment: jsonargparse reads null as the string "None" for arguments of a class inside a class."""
    found, rest = [], iter(args)
    for arg in rest:
        key, equals, value = arg.partition("=")
        short = key.replace(".init_args.", ".")
        if not re.fullmatch(r"--(model|data)(\.\w+){2,}", short) or short.split(".")[-2] in _DICTS:
            found.append(arg)
            continue
        option = [arg] if equals else [arg, *itertools.islice(rest, 1)]
        if (value if equals else option[-1]) != "null":
            found += option
            continue
        fragment: Any = None
        for part in reversed(key.removeprefix("--").split(".")):
            fragment = {part: fragment}
        found += ["-c", yaml.safe_dump(fragment, default_flow_style=True)]
    return found
