"""The masks of one object through a film, in an SQLite file: any frame is read alone, and a change is whole or not."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np

from pretrain.chat.rle import pack, unpack


class MaskFile:
    """Masks by frame. Reading sees the last whole change while another thread writes the next one.

    Args:
        path: of the file, which `create` made.
        size: (height, width) of the masks.

    Raises:
        ValueError: it is no such file.
    """

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self.path, self.size = path, size
        self.writing = threading.Lock()
        with closing(self._open()) as file:
            try:
                file.execute("SELECT frame, runs FROM masks LIMIT 1").fetchall()
            except sqlite3.DatabaseError as error:
                raise ValueError(f"{path} holds no masks: {error}") from None

    @staticmethod
    def create(path: Path) -> None:
        """Make an empty file."""
        with closing(sqlite3.connect(path)) as file:
            file.execute("PRAGMA journal_mode=WAL")  # readers are not held up by a writer
            file.execute("CREATE TABLE masks (frame INTEGER PRIMARY KEY, runs BLOB NOT NULL)")
            file.commit()

    def _open(self) -> sqlite3.Connection:
        if not self.path.is_file():
            raise ValueError(f"{self.path} is not there any more")
        return sqlite3.connect(self.path, timeout=30, isolation_level=None)

    def get(self, frame: int) -> np.ndarray | None:
        """bool `[H, W]`, or None where there is none."""
        with closing(self._open()) as file:
            row = file.execute("SELECT runs FROM masks WHERE frame = ?", (frame,)).fetchone()
        return None if row is None else unpack(row[0], self.size)

    def frames(self) -> list[int]:
        """The frames that have a mask, in order."""
        with closing(self._open()) as file:
            return [row[0] for row in file.execute("SELECT frame FROM masks ORDER BY frame")]

    def read(self, first: int = 0, stop: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
        """Masks in the order of frames, from `first` to `stop`, exclusive; one at a time in memory."""
        with closing(self._open()) as file:
            where = (first, stop if stop is not None else 2**62)
            rows = file.execute("SELECT frame, runs FROM masks WHERE frame >= ? AND frame < ? ORDER BY frame", where)
            for frame, runs in rows:
                yield frame, unpack(runs, self.size)

    @contextmanager
    def change(self) -> Iterator[Callable[[int, np.ndarray], None]]:
        """Yields a function that stores a frame's mask; all are kept after the block, none if it raises."""
        with self.writing, closing(self._open()) as file:
            file.execute("BEGIN IMMEDIATE")
            try:
                yield lambda frame, mask: self._put(file, frame, mask)
                file.execute("COMMIT")
            except BaseException:
                file.execute("ROLLBACK")
                raise

    def _put(self, file: sqlite3.Connection, frame: int, mask: np.ndarray) -> None:
        if mask.shape != self.size:
            raise ValueError(f"a mask of {mask.shape} for a film of {self.size} pixels")
        file.execute("INSERT OR REPLACE INTO masks VALUES (?, ?)", (frame, pack(mask)))
