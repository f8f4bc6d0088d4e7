"""Short forms of a command: recipes by name, data and weights by path, written out as the parser takes them.

tubelet fit -c videomae_b --data my/videos --weights umt_b
tubelet predict -c viclip_b my/videos --weights viclip_l --out my-index
"""

import itertools
import os
import re
import site
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from pretrain.parser import nearest

ROOT = Path(__file__).resolve().parents[2]
_INSTALLED = Path("share", "tubelet", "recipes")  # of the folders that pip installs data files in
_FLAGS = ("-h", "--help", "--debug", "--print_config")  # options without a value
_SOURCES = ("train", "val", "test", "predict", "images")  # of the data module
_GOES_THROUGH = {
    "fit": "train",
    "plan": "train",
    "show": "train",
    "validate": "val",
    "test": "test",
    "predict": "predict",
}
_LISTS = (".csv", ".tsv", ".jsonl", ".txt", ".parquet")


def recipes_folder() -> Path:
    """The folder of recipes: of the checkout, or of the installed package.

    Raises:
        FileNotFoundError: there is none.
    """
    places = [ROOT / "recipes", Path(sysconfig.get_path("data")) / _INSTALLED, Path(site.getuserbase()) / _INSTALLED]
    found = next((place for place in places if place.is_dir()), None)
    if found is None:
        raise FileNotFoundError(f"no recipes at {', '.join(map(str, places))}: install the package again")
    return found


def recipe_path(name: str) -> str:
    """A recipe's file: as named, or of ours, by name ("videomae_b", "data/shards") or path ("recipes/videomae_b.yaml").

    Raises:
        FileNotFoundError: neither; the message has the nearest names.
    """
    if os.path.exists(name):
        return name
    folder, stem = recipes_folder(), name.removeprefix("recipes/").removesuffix(".yaml")
    if (folder / f"{stem}.yaml").is_file():
        return str(folder / f"{stem}.yaml")
    known = sorted(path.relative_to(folder).as_posix().removesuffix(".yaml") for path in folder.rglob("*.yaml"))
    raise FileNotFoundError(f"no recipe {name}" + (nearest(stem, known, 3, 0.5) or f" in {folder}"))


def run_name(words: list[str]) -> str:
    """The name of a run that no logger names: of its first recipe, or of the run whose config.yaml that is."""
    for option, file in itertools.pairwise(words):
        if option in ("-c", "--config") and not file.lstrip().startswith("{"):
            path = Path(file)
            return path.resolve().parent.name if path.name == "config.yaml" else path.stem
    return "run"


def source_of(path: str) -> str:
    """The class of the source that fits a path: `Shards` for tars and addresses, `Latents`, else `Files`."""
    where = Path(path)
    if path.startswith("pipe:") or ("://" in path and not path.lower().endswith(_LISTS)) or where.suffix == ".tar":
        return "Shards"
    if (where / "latents.json").is_file():
        return "Latents"
    return "Shards" if where.is_dir() and next(where.glob("*.tar"), None) else "Files"


def is_place(value: object) -> bool:
    """Whether the value of a source is a path or an address, not the name of a class."""
    if not isinstance(value, str) or not value or value.startswith(("${", "{", "[")):
        return False
    named = value.startswith(("pipe:", "~", ".")) or value.lower().endswith(_LISTS)
    return named or "://" in value or "/" in value or Path(value).exists()


def written_out(words: list[str]) -> list[str]:
    """The words of a command with short forms written out.

    Raises:
        FileNotFoundError: no recipe of a name.
        ValueError: a word too many.
    """
    command = words[0] if words else ""
    if command not in _GOES_THROUGH:
        return words
    found, places = [command], []
    for option, value, word in _options(words[1:]):
        if option in ("-c", "--config") and value is not None and not value.lstrip().startswith("{"):
            found += ["-c", recipe_path(value)]
        elif option == "--data" and is_place(value):
            places.append(str(value))
        elif (name := _source_name(option)) is not None and is_place(value):
            found += _source(name, str(value))
        elif option == "--weights" and value is not None:
            found += ["--model.weights", value]
        elif option == "--out" and command == "predict" and value is not None:
            found += ["--features.folder", value]
        elif option:
            found += word
        else:
            places.append(word[0])
    if len(places) > 1:
        raise ValueError(f"{command} takes one place of data, not {' and '.join(places)}")
    if places:
        name = _GOES_THROUGH[command]
        own = (f"--data.{name}.", f"--data.init_args.{name}.")  # settings of the source follow its class
        first = next((at for at, word in enumerate(found) if word.startswith(own)), len(found))
        found[first:first] = _source(name, places[0])
        given = {_setting(word).split(".")[0].partition("=")[0] for word in found}
        if name == "train" and "val" not in given:  # that of the recipe is of other data
            found.append("--data.val=null")
            if "val_sets" not in given:
                rank_zero_info(f"{command} on {places[0]} without a validation set: --data.val PATH names one")
    return found


def _setting(option: str) -> str:
    """The setting of the data module that an option is of, with what follows; "" if it is of none."""
    return option.removeprefix("--data.").removeprefix("init_args.") if option.startswith("--data.") else ""


def _source_name(option: str) -> str | None:
    """The source that an option is of: "train", "val_sets.NAME"; None: it is of none, or of a part of one."""
    name = _setting(option)
    return name if name in _SOURCES or re.fullmatch(r"val_sets\.[^.]+", name) else None


def with_places(recipe: Any) -> Any:
    """A recipe in which sources that are plain paths have their class, and files of ours the path at which they lie.

    Sources are those of the data module, its `val_sets`, and what a source or a callback has as `source` or `sources`.
    """
    recipe = _found_files(recipe)
    if not isinstance(recipe, dict):
        return recipe
    recipe = {name: _with_inner(part) if name in ("data", "trainer") else part for name, part in recipe.items()}
    data = recipe.get("data")
    if not isinstance(data, dict) or not isinstance(data.get("init_args", {}), dict):
        return recipe
    settings = data.get("init_args", data)
    found = {name: _as_source(value) if name in _SOURCES else value for name, value in settings.items()}
    if isinstance(settings.get("val_sets"), dict):
        found["val_sets"] = {name: _as_source(value) for name, value in settings["val_sets"].items()}
    return {**recipe, "data": {**data, "init_args": found} if "init_args" in data else found}


def _with_inner(part: Any) -> Any:
    if isinstance(part, list):
        return [_with_inner(value) for value in part]
    if not isinstance(part, dict):
        return part
    found = {name: _with_inner(value) for name, value in part.items()}
    if "source" in found:
        found["source"] = _as_source(found["source"])
    if isinstance(found.get("sources"), list):
        found["sources"] = [_as_source(value) for value in found["sources"]]
    return found


def _as_source(value: Any) -> Any:
    return {"class_path": source_of(value), "init_args": {"path": value}} if is_place(value) else value


def _found_files(part: Any) -> Any:
    if isinstance(part, dict):
        return {name: _found_files(value) for name, value in part.items()}
    if isinstance(part, list):
        return [_found_files(value) for value in part]
    if isinstance(part, str) and part.startswith("recipes/") and not os.path.exists(part):
        ours = recipes_folder() / part.removeprefix("recipes/")
        return str(ours) if ours.exists() else part
    return part


def _source(name: str, path: str) -> list[str]:
    return [f"--data.{name}={source_of(path)}", f"--data.{name}.path={path}"]


def _options(words: list[str]) -> Iterator[tuple[str, str | None, list[str]]]:
    """Each option with its value and its words; a word that belongs to none has the option ""."""
    at = 0
    while at < len(words):
        word = words[at]
        option, equals, value = word.partition("=")
        if not word.startswith("-"):
            yield "", None, [word]
        elif equals or option.partition(".")[0] in _FLAGS or at + 1 == len(words) or _is_option(words[at + 1]):
            yield option, value if equals else None, [word]
        else:
            yield option, words[at + 1], words[at : at + 2]
            at += 1
        at += 1


def _is_option(word: str) -> bool:
    return word.startswith("-") and not word.lstrip("-")[:1].isdigit()
