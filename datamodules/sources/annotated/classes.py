"""The names of a data set's classes, in the order of their numbers, from the files that publish them."""

import difflib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from datamodules.sources.annotated.tables import Table, read_json
from datamodules.sources.annotated.templates import Template


def read_classes(file: str, label: Template | None, gone: dict[int, None]) -> list[str]:
    """Names by number.

    Args:
        file: json with names and their numbers (Something-Something's labels), or a list of names (lists of answers);
            a table of `id` and `name`; a name a line; or a whole annotation file whose rows fill `label`: then its
            distinct names in alphabetical order (Kinetics).
        label: the template of a row's name.
        gone: characters taken out of such names, as `str.maketrans` has them.

    Raises:
        ValueError: none of these, no name, a name twice, or numbers that do not go 0, 1, 2, ...
    """
    found = read_json(file) if Path(file).suffix.lower() == ".json" else None
    if isinstance(found, dict) and found and not any(isinstance(value, (dict, list)) for value in found.values()):
        names = _by_number(file, found.items())
    elif isinstance(found, list) and found and all(isinstance(value, str) for value in found):
        names = found
    else:
        rows = [row for _, row in Table(file).rows()]
        fields = set(rows[0]) if rows else set()
        if label is not None and set(label.fields) <= fields:
            names = sorted({label(row).translate(gone) for row in rows} - {""})
        elif fields == {"id", "name"}:
            names = _by_number(file, ((row["name"], row["id"]) for row in rows))
        elif fields == {"value"}:
            names = [str(row["value"]) for row in rows]
        else:
            raise ValueError(
                f"{file} is no list of classes: it has {', '.join(sorted(fields)) or 'no row'}. Give names and numbers "
                f"(json), a name a line (txt), columns id and name (csv), or a table with the fields of the label"
            )
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise ValueError(f"{file} names the class {twice[0]!r} twice")
    return names


def _by_number(file: str, pairs: Iterable[tuple[str, object]]) -> list[str]:
    try:
        numbered = sorted((int(number), name) for name, number in pairs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: the number of a class is none ({error})") from None
    wrong = [(number, name) for i, (number, name) in enumerate(numbered) if number != i]
    if wrong:
        raise ValueError(f"{file}: classes are numbered from 0 without a gap, and {wrong[0][1]!r} has {wrong[0][0]}")
    return [name for _, name in numbered]


def nearest(label: str, classes: list[str]) -> str:
    """What to tell about a label that is no class."""
    close = difflib.get_close_matches(label, classes, n=1)
    return f"the nearest is {close[0]!r}" if close else f"the first is {classes[0]!r}"
