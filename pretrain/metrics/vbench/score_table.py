"""The append-only table of scores: a run that is killed anywhere goes on without computing a video twice.

A line is a JSON object: the settings first, then a score each. A score is found by the content of its video, its
prompt, the dimension and the version of the scorer, so videos may move and scorers may change.
"""

import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, NamedTuple

from pretrain.metrics.vbench.video_score import VideoScore


class Key(NamedTuple):
    """What a stored score is valid for."""

    content: str
    prompt: str
    dimension: str
    version: int


def content_hash(path: str | Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class ScoreTable:
    """Scores in a file. One process at a time writes to it (the caller holds the lock of the folder).

    Args:
        path: made at the first score.
        settings: what all scores of a table share: weights, models, modes.

    Raises:
        ValueError: the table is of other settings, or a line other than the last is damaged.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = Path(path), json.loads(json.dumps(settings))
        self.scores: dict[Key, VideoScore] = {}
        self._whole = 0  # bytes up to the end of the last whole line
        if self.path.exists():
            self._read()

    def _read(self) -> None:
        content = self.path.read_bytes()
        self._whole = content.rfind(b"\n") + 1  # a killed writer leaves a part of a line, which is computed again
        for number, line in enumerate(content[: self._whole].splitlines(), 1):
            try:
                row = json.loads(line)
            except ValueError:
                raise ValueError(f"{self.path}, line {number} is damaged: remove the line") from None
            if number == 1:
                if row.get("settings") != self.settings:
                    raise ValueError(
                        f"{self.path} holds scores of other settings ({row.get('settings')}, now {self.settings}): "
                        "choose another folder"
                    )
                continue
            value = math.nan if row["value"] is None else row["value"]
            key = Key(row["content"], row["prompt"], row["dimension"], row["version"])
            self.scores[key] = VideoScore(value, row["total"], row["count"], row["details"], row["reason"])

    def add(self, key: Key, video: str, score: VideoScore) -> None:
        """Append a score; it is on the disk when this returns."""
        value = score.value if score.count else None
        row = {**key._asdict(), "video": video, "value": value, "total": score.total, "count": score.count}
        lines = [] if self._whole else [{"settings": self.settings}]
        text = "".join(
            json.dumps(line) + "\n" for line in (*lines, row | {"details": score.details, "reason": score.reason})
        )
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "r+b" if self.path.exists() else "wb") as file:
            file.truncate(self._whole)
            file.seek(self._whole)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
            self._whole = file.tell()
        self.scores[key] = score
