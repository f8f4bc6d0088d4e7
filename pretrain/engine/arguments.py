"""The words of a command as the parser gets them: recipes in new names and with whole paths, nulls as fragments."""

import itertools
import os
import re
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from pretrain.engine.old_names import with_new_names
from pretrain.engine.short_options import with_places


def with_new_recipes(words: list[str]) -> list[str]:
    """Words of a command in which each recipe that uses old names (`pretrain.engine.old_names`) stands in new ones, and
    each with plain paths of sources in the form that the parser takes."""
    found: list[str] = []
    for word in words:
        option, _, path = word.rpartition("=") if word.startswith("--config=") else ("", "", word)
        if not (option or (found and found[-1] in ("-c", "--config"))) or not os.path.isfile(path):
            found.append(word)
            continue
        try:
            given = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
            renamed = with_new_names(given)
            read = with_places(renamed)
        except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
            raise ValueError(f"the recipe {path} is no YAML: {error}") from error
        if read == given:
            found.append(word)
            continue
        if renamed != given:
            rank_zero_info(f"{path} uses old names of classes or arguments; it is read with their new names")
        text = yaml.safe_dump(read, default_flow_style=True, sort_keys=False)
        found += [f"{option}={text}" if option else text]
    return found


def with_nulls(args: list[str]) -> list[str]:
    """Arguments with `--model.init_args.teacher.init_args.weights=null` (or `... null`) replaced by a `-c` fragment:
    jsonargparse reads null as the string "None" for arguments of a class inside a class."""
    found, rest = [], iter(args)
    for arg in rest:
        key, equals, value = arg.partition("=")
        if not re.fullmatch(r"--(model|data)((\.init_args\.\w+){2,}|\.init_args\.optim\.\w+)", key):
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
