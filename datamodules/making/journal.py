"""Results appended to a file as they come, one line each, so that a killed job continues after the last whole line."""

import json
import os
from pathlib import Path


class Journal:
    """Records by key in a hidden file beside the result; the file is deleted when the result is written.

    Args:
        result: the file that the job writes at its end.
        settings: those of the job. A journal with other settings is a ValueError.
    """

    def __init__(self, result: Path, settings: dict) -> None:
        self.path = result.with_name(f".{result.name}.journal")
        self.result, self.records = result, {}
        result.parent.mkdir(parents=True, exist_ok=True)
        settings = json.loads(json.dumps(settings))
        whole = 0
        if self.path.exists():
            lines = self.path.read_bytes().splitlines(keepends=True)
            rows = [json.loads(line) for line in lines if line.endswith(b"\n")]
            whole = sum(len(line) for line in lines if line.endswith(b"\n"))
            if rows and rows[0] != settings:
                raise ValueError(
                    f"{result} was begun with other settings: {rows[0]} then, {settings} now. "
                    f"Use the earlier settings to finish it, or delete {self.path} to start again."
                )
            self.records = dict(rows[1:])
        self.file = open(self.path, "ab")  # noqa: SIM115 (closed by `finish`)
        self.file.truncate(whole)
        if not whole:
            self._write(settings)

    def add(self, key: str, record: object) -> None:
        """Writes a record to disk."""
        self.records[key] = record
        self._write([key, record])

    def _write(self, content: object) -> None:
        self.file.write(json.dumps(content).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def finish(self, text: str) -> None:
        """Writes the result atomically and deletes the journal."""
        partial = self.result.with_name(f".{self.result.name}.partial")
        with open(partial, "w", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, self.result)
        self.file.close()
        self.path.unlink()
