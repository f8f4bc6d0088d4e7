"""JSON and printed text for names of files that are not UTF-8 (Python's surrogate escapes)."""

import json
from pathlib import Path
from typing import Any


class Damaged(ValueError):
    """A file of ours that does not hold what was written."""


def json_text(content: Any, indent: int | None = None) -> str:
    """JSON in readable letters; in escapes of ASCII if a string cannot be written as UTF-8."""
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    return text if is_utf8(text) else json.dumps(content, indent=indent)


def read_json(file: Path) -> Any:
    """The contents of a JSON file; `Damaged` names the file if it is cut off, no JSON, or no regular file."""
    if file.exists() and not file.is_file():
        raise Damaged(f"{file} is not a regular file")  # a pipe or a device may never end
    try:
        return parse_json(file.read_bytes())
    except ValueError as error:
        raise Damaged(f"{file} is cut off or damaged ({error})") from None


def parse_json(content: str | bytes) -> Any:
    """JSON that somebody else may have written; ValueError also if it is nested too deeply for Python's reader."""
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def printable(text: str) -> str:
    """The text with bytes that are not UTF-8 as `\\xff`, for a terminal, a log or a page."""
    return text if is_utf8(text) else text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def is_utf8(text: str) -> bool:
    """Whether the text can be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
