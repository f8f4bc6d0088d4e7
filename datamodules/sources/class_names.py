"""Classes by name: words become numbers, in the order of the alphabet or of given names."""

import difflib
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger(__name__)
_NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?", re.I)
_LONGEST = 200  # characters of a class's name
_LARGEST = 2**24  # bytes of a file of names; 710 names of Kinetics take 12,000


def is_class_name(given: object) -> bool:
    """Whether a label is the name of a class: text that is no number, of at most 200 characters."""
    return isinstance(given, str) and 0 < len(given.strip()) <= _LONGEST and not _NUMBER.fullmatch(given.strip())


def class_of_folder(file: Path, folder: Path) -> str:
    """The class of a video in a folder of folders: the one under `folder`; ValueError if it lies in none."""
    inside = file.relative_to(folder).parts
    if len(inside) < 2:
        raise ValueError(
            f"{file} lies in no folder of a class: with `labels: folders`, {folder} holds a folder for each class, "
            "with its videos"
        )
    return inside[0]


def read_class_names(given: Sequence[str] | str) -> list[str]:
    """The names in the order of their numbers.

    Args:
        given: names, or a text file with a name per line.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there is no name, or one twice; or the file is too large, or no UTF-8.
    """
    if isinstance(given, str):
        if not Path(given).is_file():
            raise FileNotFoundError(f"no list of classes at {given}: give a file with one name per line, or the names")
        if Path(given).stat().st_size > _LARGEST:
            raise ValueError(f"{given} is larger than {_LARGEST} bytes: it is no list of classes")
        given = [line.strip() for line in Path(given).read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    twice = sorted(name for name, times in Counter(given).items() if times > 1)
    if twice or not given:
        raise ValueError(f"classes: the class {twice[0]!r} is named twice" if twice else "classes: there is no name")
    return list(given)


def same_class_names(files: Sequence[str]) -> list[str] | None:
    """The names that these files list, each in the same order; None: none of them is a list of names.

    Raises:
        ValueError: two files number the classes differently.
    """
    found = {}
    for file in files:
        try:
            found[file] = read_class_names(file)
        except ValueError as error:  # a file of another tool
            log.warning("%s is not read: %s", file, error)
    first = next(iter(found), None)
    for file, names in found.items():
        if first is not None and names != found[first]:
            raise ValueError(f"{file} numbers the classes in another way than {first}")
    return found[first] if first is not None else None


def number_of(names: Sequence[str], label: str, whose: str) -> int:
    """The number of a class by its name; ValueError says `whose` it is if it is none of `names`."""
    if label in names:
        return list(names).index(label)
    raise ValueError(
        f"{whose} has the class {label!r}, which is none of the {len(names)} classes ({class_hint(names, label)})"
    )


def class_hint(names: Sequence[str], label: str) -> str:
    """What an error says about a label that is none of the classes: the nearest of them, or what they are like."""
    near = difflib.get_close_matches(label, names, n=1)
    return f"the nearest is {near[0]!r}" if near else f"they are {', '.join(map(repr, names[:5]))}"


def renumbered(names: Sequence[str], others: Sequence[str], whose: str) -> list[int]:
    """The numbers in `others` of the classes `names`; ValueError for a class that is not among them."""
    return [number_of(others, name, whose) for name in names]


def number_rows(rows: Sequence[dict], path: str, given: Sequence[str] | str | None = None) -> list[str] | None:
    """Replaces names of classes in the rows of a list by numbers; returns the names, None if there are none.

    Args:
        rows: with `label` (a number or a name) or `labels` (a list of either), all of one kind.
        path: of the list, for messages.
        given: names in the order of their numbers, or a file of them; by default those of the rows, in the order of the
            alphabet.

    Raises:
        ValueError: a class is not among the given names; or a name is given for fewer classes than there are numbers.
    """
    found = {label for row in rows for label in _labels(row) if isinstance(label, str)}
    names = read_class_names(given) if given is not None else sorted(found) or None
    if names is None:
        return None
    number = {name: k for k, name in enumerate(names)}
    for row in rows:
        for label in _labels(row):
            if label not in number and isinstance(label, str):
                number_of(names, label, f"{path}: {row['path']}")
            if isinstance(label, int) and label >= len(names):
                raise ValueError(f"{path}: {row['path']} has the class {label}, and {len(names)} classes have names")
        if "label" in row:
            row["label"] = number.get(row["label"], row["label"])
        if "labels" in row:
            row["labels"] = [number.get(label, label) for label in row["labels"]]
    return names


def _labels(row: dict) -> list:
    return [row["label"]] if "label" in row else row.get("labels", [])
