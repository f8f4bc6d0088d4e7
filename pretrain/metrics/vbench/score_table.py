"""The append-only table of scores: a run that is killed anywhere goes on without computing a video twice.

A line is a JSON object with one score. It is found by the content of its video, its prompt, the dimension, the version
of the scorer and its models, so videos may move, and scorers and weights may change.
"""

import json
import math
import os
from pathlib import Path
from typing import NamedTuple

from pretrain.metrics.vbench.video_score import VideoScore


class Key(NamedTuple):
    """What a stored score is valid for. models: the weights and modes of the scorer, in any words."""

    content: str
    prompt: str
    dimension: str
    version: int
    models: str


class ScoreTable:
    """Scores in a file. One process at a time writes to it (the caller holds the lock of the folder).

    Args:
        path: made at the first score.

    Raises:
        ValueError: a line other than the last is damaged.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.scores: dict[Key, VideoScore] = {}
        self.videos: dict[Key, str] = {}  # names of the videos
        self._whole = 0  # bytes up to the end of the last whole line
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        content = self.path.read_bytes()
        self._whole = content.rfind(b"\n") + 1  # a killed writer leaves a part of a line, which is computed again
        for number, line in enumerate(content[: self._whole].splitlines(), 1):
            try:
                row = json.loads(line)
                value = math.nan if row["value"] is None else row["value"]
                key = Key(*(row[name] for name in Key._fields))
                self.videos[key] = row["video"]
                self.scores[key] = VideoScore(value, row["total"], row["count"], row["details"], row["reason"])
            except (ValueError, KeyError, TypeError, RecursionError):
                raise ValueError(f"{self.path}, line {number} is damaged: remove the line") from None

    def add(self, key: Key, video: str, score: VideoScore) -> None:
        """Append a score; it is on the disk when this returns."""
        row = {**key._asdict(), "video": video, "value": score.value if score.count else None}
        row |= {"total": score.total, "count": score.count, "details": score.details, "reason": score.reason}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "r+b" if self.path.exists() else "wb") as file:
            file.truncate(self._whole)
            file.seek(self._whole)
            file.write((json.dumps(row) + "\n").encode())
            file.flush()
            os.fsync(file.fileno())
            self._whole = file.tell()
        self.scores[key], self.videos[key] = score, video
