"""VBench's prompts: read from the `vbench` package or a file, and found by the names of videos.

The suite is not part of this project: `pip install --no-deps vbench` brings it (0.4 MB), or give the path of a
`VBench_full_info.json`.
"""

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datamodules.storage.json_text import parse_json

FILE = "VBench_full_info.json"


@dataclass(frozen=True)
class Prompt:
    """A prompt, the dimensions that it is for, and their `auxiliary_info`."""

    text: str
    dimensions: tuple[str, ...]
    auxiliary: dict[str, Any] = field(default_factory=dict)


def prompt_of(path: str | Path) -> str:
    """The prompt in a file's name: without its suffix and a last "-3" (VBench `utils.py: get_prompt_from_filename`)."""
    return re.sub(r"-\d+$", "", Path(path).stem)


def package_folder() -> Path | None:
    """The folder of the installed `vbench` package, found by its file, not by its name, and not imported; None without
    it."""
    places = (Path(entry) / "vbench" for entry in sys.path)
    return next((place for place in places if (place / FILE).is_file()), None)


def read_json_file(path: Path) -> Any:
    """The contents of a JSON file that somebody else may have written; ValueError with its name if it is none."""
    try:
        return parse_json(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None


def read_suite(path: str | Path | None = None) -> list[Prompt]:
    """The prompts of a suite.

    Args:
        path: a `VBench_full_info.json`; None: the one of the `vbench` package.

    Raises:
        FileNotFoundError: there is no such file, or no package.
        ValueError: the file is not in VBench's format.
    """
    folder = package_folder()
    if path is None and folder is None:
        raise FileNotFoundError(
            f"VBench's prompts are not part of this project: pip install --no-deps vbench, or give the path of a {FILE}"
        )
    file = Path(path) if path is not None else Path(str(folder)) / FILE
    if not file.is_file():
        raise FileNotFoundError(f"no prompts at {file}: give the path of a {FILE}")
    entries = read_json_file(file)
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        raise ValueError(f"{file} is no list of VBench's entries, each with `prompt_en` and `dimension`")
    return [Prompt(e["prompt_en"], tuple(e["dimension"]), e.get("auxiliary_info", {})) for e in entries]


def _is_entry(entry: object) -> bool:
    """Whether an entry has the kinds of values that VBench's have."""
    if not isinstance(entry, dict) or not isinstance(entry.get("auxiliary_info", {}), dict):
        return False
    text, dimensions = entry.get("prompt_en"), entry.get("dimension")
    return isinstance(text, str) and isinstance(dimensions, list) and all(isinstance(d, str) for d in dimensions)


def by_text(prompts: Iterable[Prompt]) -> dict[str, Prompt]:
    """Prompts by their text; one that stands in two groups has the dimensions of both."""
    found: dict[str, Prompt] = {}
    for prompt in prompts:
        old = found.get(prompt.text, Prompt(prompt.text, ()))
        dimensions = tuple(dict.fromkeys(old.dimensions + prompt.dimensions))
        found[prompt.text] = Prompt(prompt.text, dimensions, {**old.auxiliary, **prompt.auxiliary})
    return found


def category_prompts(category: str, folder: str | Path) -> list[Prompt]:
    """The prompts of a content category, from VBench's `prompts_per_category` folder; they are for no dimension."""
    file = Path(folder) / f"{category}.txt"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in Path(folder).glob("*.txt"))) or "none"
        raise FileNotFoundError(f"no category {category!r} in {folder}: there are {known}")
    return [Prompt(line.strip(), ()) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def prompts_of_files(paths: Iterable[str | Path], given: Mapping[str, str] | None = None) -> dict[Path, str]:
    """The prompt of each video: from a mapping of file names or paths to prompts, else from its name.

    Raises:
        ValueError: the mapping lacks a video.
    """
    found: dict[Path, str] = {}
    for path in map(Path, paths):
        if given is None:
            found[path] = prompt_of(path)
        elif (key := next((key for key in (str(path), path.name) if key in given), None)) is not None:
            found[path] = given[key]
        else:
            raise ValueError(
                f"{path}: the file of prompts does not name it: add it, or leave the prompts to file names"
            )
    return found


def collisions(paths: Iterable[str | Path]) -> list[list[str]]:
    """Names that differ in case only: on some file systems they are one file."""
    groups: dict[str, list[str]] = {}
    for path in map(Path, paths):
        groups.setdefault(path.name.casefold(), []).append(path.name)
    return [sorted(names) for names in groups.values() if len(set(names)) > 1]
