"""The names of a data set's classes, in the order of their numbers, from the files that publish them."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datamodules.sources.annotated.tables import Table, read_json
from datamodules.sources.annotated.templates import Template


def read_classes(file: str, label: Template | None, deleted: dict[int, int | None]) -> list[str]:
    """The class names in the order of their numbers.

    Args:
        file: json with names and their numbers (Something-Something's labels) or with a list of names (answers); a
            table with columns `id` and `name`; one name per line; or an annotation file with the fields of `label`:
            then its distinct names in alphabetical order (Kinetics).
        label: the template of a row's class name.
        deleted: the characters to remove from names made by `label`, as a table of `str.maketrans`.

    Raises:
        ValueError: another format, no name, a duplicate name, or numbers other than 0, 1, 2, ...
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
            names = sorted({label(row).translate(deleted) for row in rows} - {""})
        elif fields == {"id", "name"}:
            names = _by_number(file, ((row["name"], row["id"]) for row in rows))
        elif fields == {"value"}:
            names = [str(row["value"]) for row in rows]
        else:
            raise ValueError(
                f"{file} is not a list of classes: it has {', '.join(sorted(fields)) or 'no row'}. Give names and "
                "numbers (json), one name per line (txt), columns id and name (csv), or a table with the fields of the "
                "label"
            )
    duplicates = [name for name, times in Counter(names).items() if times > 1]
    if duplicates:
        raise ValueError(f"{file} contains the class {duplicates[0]!r} twice")
    return names


def _by_number(file: str, pairs: Iterable[tuple[str, Any]]) -> list[str]:
    try:
        numbered = sorted((int(number), name) for name, number in pairs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: a class number is not a number ({error})") from None
    wrong = [(number, name) for i, (number, name) in enumerate(numbered) if number != i]
    if wrong:
        raise ValueError(
            f"{file}: classes must be numbered from 0 without a gap, and {wrong[0][1]!r} has {wrong[0][0]}"
        )
    return [name for _, name in numbered]
