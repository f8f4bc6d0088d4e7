"""Prompts for films from a text file (one a line) or a csv file (prompt, and where given seed, frames and size)."""

import csv
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain.generation.settings import Request

_NUMBERS = ("seed", "frames", "height", "width")


def read_prompts(file: Path, default: Request) -> dict[str, Request]:
    """The films of a file by name, in its order; `default` gives what a line does not.

    A csv file has a header with `prompt` and perhaps `seed`, `frames`, `height`, `width` and `name`. Lines of a text
    file are prompts. Without a name a film is called by its number and its prompt.

    Raises:
        ValueError: a line is empty or wrong, or two films have the same name; the message has the line's number.
    """
    if file.exists() and not file.is_file():
        raise ValueError(f"{file} is not a regular file")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is no text in UTF-8: {error}") from None
    rows = list(_csv_rows(text, file) if file.suffix.lower() == ".csv" else _lines(text))
    found: dict[str, Request] = {}
    for index, (line, row) in enumerate(rows):
        where = f"{file}, line {line}"
        try:
            numbers: dict[str, Any] = {key: int(row[key]) for key in _NUMBERS if row.get(key)}
            request = replace(default, prompt=row["prompt"], **numbers)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        name = row.get("name") or f"{index:04d}-{file_name(request.prompt)}"
        if Path(name).name != name or name.startswith("."):
            raise ValueError(f"{where}: {name!r} is no name of a file")
        if name in found:
            raise ValueError(f"{where}: a second film is called {name}")
        found[name] = request
    if not found:
        raise ValueError(f"{file} has no prompt")
    return found


def file_name(prompt: str, length: int = 60) -> str:
    """A prompt as part of a file name: letters and digits with hyphens between them."""
    return re.sub(r"\W+", "-", prompt.lower()).strip("-")[:length].strip("-") or "film"


def _lines(text: str) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield number, {"prompt": line.strip()}


def _csv_rows(text: str, file: Path) -> Iterator[tuple[int, dict[str, str]]]:
    reader = csv.DictReader(text.splitlines(keepends=True))
    columns = reader.fieldnames or []
    if "prompt" not in columns:
        raise ValueError(f"{file} needs a header line with `prompt`; its first line is {', '.join(columns)!r}")
    if unknown := [name for name in columns if name not in ("prompt", "name", *_NUMBERS)]:
        raise ValueError(f"{file} has a column {unknown[0]!r}: there are prompt, name, {', '.join(_NUMBERS)}")
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"{file}, line {reader.line_num}: not as many values as the header has columns")
            yield reader.line_num, {key: (value or "").strip() for key, value in row.items()}
    except csv.Error as error:
        raise ValueError(f"{file}, after line {reader.line_num}: {error}") from None
