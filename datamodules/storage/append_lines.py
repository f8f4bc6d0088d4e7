"""A file of JSON lines that only grows: a writer that is killed anywhere leaves whole lines, and half a one at most."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from datamodules.storage.json_text import parse_json

Row = TypeVar("Row")


class AppendedLines:
    """A JSON object a line. One process at a time writes (the caller holds a lock, or has a file of its own).

    Args:
        path: made with its folder at the first row.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._whole = 0  # bytes up to the end of the last whole line

    def read(self, understand: Callable[[Any], Row]) -> list[Row]:
        """All rows so far, each as `understand` makes it; half a line at the end is written over by the next row.

        Raises:
            ValueError: a whole line is no JSON, or `understand` raises a ValueError, KeyError or TypeError.
        """
        if not self.path.exists():
            return []
        content = self.path.read_bytes()
        self._whole = content.rfind(b"\n") + 1
        rows = []
        for number, line in enumerate(content[: self._whole].splitlines(), 1):
            try:
                rows.append(understand(parse_json(line)))
            except (ValueError, KeyError, TypeError):
                raise ValueError(f"{self.path}, line {number} is damaged: remove the line") from None
        return rows

    def add(self, *rows: dict[str, Any]) -> None:
        """Append rows; they are on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "r+b" if self.path.exists() else "wb") as file:
            file.truncate(self._whole)
            file.seek(self._whole)
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
            file.flush()
            os.fsync(file.fileno())
            self._whole = file.tell()
