"""The append-only table of scores: a run that is killed anywhere goes on without computing a video twice.

A line is a JSON object with one score. It is found by the content of its video, its prompt, the dimension, the version
of the scorer and its models, so videos may move, and scorers and weights may change.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

from datamodules.storage.append_lines import AppendedLines
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
        self.file = AppendedLines(path)
        self.scores: dict[Key, VideoScore] = {}
        self.videos: dict[Key, str] = {}  # names of the videos
        for key, video, score in self.file.read(_understood):
            self.scores[key], self.videos[key] = score, video

    def add(self, key: Key, video: str, score: VideoScore) -> None:
        """Append a score; it is on the disk when this returns."""
        row = {**key._asdict(), "video": video, "value": score.value if score.count else None}
        row |= {"total": score.total, "count": score.count, "details": score.details, "reason": score.reason}
        self.file.add(row)
        self.scores[key], self.videos[key] = score, video


def _understood(row: Any) -> tuple[Key, str, VideoScore]:
    value = math.nan if row["value"] is None else row["value"]
    score = VideoScore(value, row["total"], row["count"], row["details"], row["reason"])
    return Key(*(row[name] for name in Key._fields)), row["video"], score
