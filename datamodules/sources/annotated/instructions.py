"""Instructions: conversations about videos or images in the json layout that VideoChat and VideoChat2 publish."""

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.decoding.frame_folder import FrameFolder
from datamodules.decoding.limits import Limits
from datamodules.sources.lists import check_size
from datamodules.sources.source import Exchange, Sample, Source, Strings
from datamodules.storage.json_text import parse_json

log = logging.getLogger(__name__)
_KINDS = ("video", "image")


class Instructions(Source):
    """A list of `{"video" or "image": path, "QA": [{"i": instruction, "q": question, "a": answer}, ...]}`.

    `start` and `end` in an entry are the seconds of its part of the video. The instruction may be absent or empty, and
    the question empty (a caption). A path that names a folder is a video of its pictures.

    Args:
        file: the json.
        media: the folder that its paths refer to.
        fps: frames a second of folders of pictures.
        allow_missing: leave out the entries whose file is not there, and log their number.
        home: the origin of the data, for error messages about missing files.
        limits: what the files may cost; by default those of `Limits`.

    Raises:
        FileNotFoundError: no such file, or one that an entry names is missing.
        ValueError: the json has another layout; the error names the entry.
    """

    def __init__(
        self,
        file: str,
        media: str,
        fps: float = 3.0,
        allow_missing: bool = False,
        home: str = "",
        limits: Limits | None = None,
    ) -> None:
        if not os.path.isfile(file):
            source = f"It comes from {home}" if home else "Give the path of the json as it was published"
            raise FileNotFoundError(f"no annotation file {file}. {source}.")
        self.limits = limits or Limits()
        check_size(Path(file), "json_bytes", limits)
        try:
            entries = parse_json(Path(file).read_bytes())
        except ValueError as error:
            raise ValueError(f"{file} is no JSON: {error}") from error
        if not isinstance(entries, list) or not entries:
            raise ValueError(f"{file} is no list of conversations: an entry has `video` or `image`, and `QA`")
        parsed = [_parse(entry, f"{file}, entry {i}") for i, entry in enumerate(entries)]
        found = [os.path.exists(os.path.join(media, path)) for path, *_ in parsed]
        if not all(found):
            lost = [path for (path, *_), there in zip(parsed, found, strict=True) if not there]
            what = f"{len(lost)} of {len(parsed)} files of {file} are not in {media}: {', '.join(lost[:3])}"
            if not allow_missing or not any(found):
                raise FileNotFoundError(f"{what}. Put them there, or leave them out (allow_missing: true)")
            log.warning("%s; they are left out", what)
        parsed = [entry for entry, there in zip(parsed, found, strict=True) if there]
        self.media, self.fps = media, fps
        self.counts = len(parsed)
        self.paths = Strings(path for path, *_ in parsed)
        self.parts = np.array([part for _, part, _ in parsed])  # start and end in seconds, NaN if there is none
        self.texts_of_turns = Strings(text for *_, turns in parsed for turn in turns for text in turn)
        self.first_turns = np.cumsum([0, *(len(turns) for *_, turns in parsed)])

    def __getitem__(self, index: int) -> Sample:
        index = range(self.counts)[index]
        place = self.place(index)
        start, end = (None if np.isnan(bound) else float(bound) for bound in self.parts[index])
        turns = range(*self.first_turns[index : index + 2])
        chat = [Exchange(*(self.texts_of_turns[3 * turn + i] for i in range(3))) for turn in turns]
        name = self.paths[index]
        if start is not None or end is not None:
            name += f" from {start or 0:g} s" + ("" if end is None else f" to {end:g} s")
        content: Any = FrameFolder(place, self.fps, self.limits) if os.path.isdir(place) else place
        return Sample(name, content, end=end, start=start, chat=chat)

    def place(self, index: int) -> str:
        return os.path.join(self.media, self.paths[index])


def _parse(entry: Any, where: str) -> tuple[str, tuple[float, float], list[tuple[str, str, str]]]:
    """The path, the start and end, and (question, answer, instruction) of each turn; ValueError names the entry."""
    if not isinstance(entry, dict) or sum(kind in entry for kind in _KINDS) != 1:
        raise ValueError(f"{where}: it needs one of `video` and `image`")
    path, turns = next(entry[kind] for kind in _KINDS if kind in entry), entry.get("QA")
    if not isinstance(path, str) or not path:
        raise ValueError(f"{where}: its path is {path!r}")
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"{where} ({path}): its `QA` is no list of questions and answers")
    made = [_turn(turn, f"{where} ({path})") for turn in turns]
    start, end = (_seconds(entry.get(key), f"{where} ({path})", key) for key in ("start", "end"))
    if end <= start:
        raise ValueError(f"{where} ({path}): its part ends at {end:g} s, and starts at {start:g} s")
    return path, (start, end), made


def _turn(turn: Any, where: str) -> tuple[str, str, str]:
    """Question, answer and instruction."""
    question, answer, instruction = (turn.get(key, "") if isinstance(turn, dict) else None for key in ("q", "a", "i"))
    if not (isinstance(question, str) and isinstance(answer, str) and isinstance(instruction, str)):
        raise ValueError(f"{where}: a turn needs the texts `q`, `a` and perhaps `i`: {turn!r:.80}")
    if not answer.strip():
        raise ValueError(f"{where}: an answer is empty, and nothing could be learnt from it: remove it")
    return question, answer, instruction


def _seconds(value: Any, where: str, key: str) -> float:
    if value is None:
        return float("nan")
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{where}: its {key} is {value!r}, and should be seconds") from None
    if not 0 <= seconds < float("inf"):
        raise ValueError(f"{where}: its {key} is {value!r}, and should be seconds from 0 on")
    return seconds
