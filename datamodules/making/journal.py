"""Results appended to a file as they come, one line each, so that a killed job continues after the last whole line."""

import json
import os
import time
from pathlib import Path
from typing import Self

from datamodules.storage.json_text import parse_json
from datamodules.storage.lock import lock_file
from datamodules.storage.whole_files import write_whole

_SYNC_SECONDS = 1.0  # between two syncs: one a record takes longer than many a record's work


class Journal:
    """Records by key in a hidden file beside the result; the file is deleted when the result is written.

    Use it as a context manager: until its end the result is locked against another writer.

    Args:
        result: the file that the job writes at its end.
        settings: those of the job.

    Raises:
        ValueError: the job was begun with other settings, or another process writes the result.
    """

    def __init__(self, result: Path, settings: dict) -> None:
        self.path = result.with_name(f".{result.name}.journal")
        self.result, self.records, self.next_sync = result, {}, 0.0
        self.lock = lock_file(result)
        try:
            self._open(settings)
        except BaseException:
            self.lock.release()
            raise

    def _open(self, settings: dict) -> None:
        settings = json.loads(json.dumps(settings))
        whole = 0
        if self.path.exists():
            rows, whole = _whole_lines(self.path)
            if rows and rows[0] != settings:
                raise ValueError(
                    f"{self.result} was begun with other settings: {rows[0]} then, {settings} now. "
                    f"Use the earlier settings to finish it, or delete {self.path} to start again."
                )
            if wrong := next((i for i, row in enumerate(rows[1:], 2) if not _is_record(row)), None):
                raise ValueError(f"{self.path}, line {wrong} is no record: delete the file to start again")
            self.records = dict(rows[1:])
        self.file = open(self.path, "ab")  # noqa: SIM115 (closed by `__exit__`)
        self.file.truncate(whole)
        if not whole:
            self._write(settings)

    def add(self, key: str, record: object) -> None:
        """Writes a record, which a killed process does not lose; it is synced to the disk within a second or so."""
        self.records[key] = record
        self._write([key, record])

    def _write(self, content: object) -> None:
        self.file.write(json.dumps(content).encode() + b"\n")
        self.file.flush()
        if time.monotonic() >= self.next_sync:
            self._sync()

    def _sync(self) -> None:
        os.fsync(self.file.fileno())
        self.next_sync = time.monotonic() + _SYNC_SECONDS

    def finish(self, text: str) -> None:
        """Writes the result atomically and deletes the journal."""
        write_whole(self.result, text)
        self.file.close()
        self.path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.file.closed:
            self._sync()
            self.file.close()
        self.lock.release()


def _is_record(row: object) -> bool:
    return isinstance(row, list) and len(row) == 2 and isinstance(row[0], str)


def _whole_lines(file: Path) -> tuple[list, int]:
    """The records before the first line that is cut off or damaged, and their bytes."""
    rows, whole = [], 0
    for line in file.read_bytes().splitlines(keepends=True):
        try:
            rows.append(parse_json(line))
        except ValueError:
            break
        if not line.endswith(b"\n"):
            return rows[:-1], whole
        whole += len(line)
    return rows, whole
