"""The tool that reads text in a frame, all or what was pointed at, by RapidOCR, whose package holds its models."""

import importlib.util
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import Field

from pretrain.assistant.tools.tool import Arguments, CannotDo, Context, Made, Tool, film_of, mask_at
from pretrain.chat.rle import box_of


@dataclass(frozen=True)
class Line:
    """A line of text: what it says, how sure that is, 0 to 1, and its corners (x, y), float `[4, 2]` in pixels."""

    text: str
    score: float
    corners: np.ndarray

    def holds(self, x: float, y: float) -> bool:
        """Whether a place lies in the box around it."""
        (left, top), (right, bottom) = self.corners.min(0), self.corners.max(0)
        return bool(left <= x <= right and top <= y <= bottom)


Reader = Callable[[np.ndarray], list[Line]]  # of a frame uint8 [H, W, 3]


class RapidReader:
    """RapidOCR on the CPU, loaded at its first use. It reads Chinese and English."""

    def __init__(self) -> None:
        self.engine = None
        self.turn = threading.Lock()

    def __call__(self, rgb: np.ndarray) -> list[Line]:
        import logging

        from rapidocr import RapidOCR  # pyrefly: ignore

        with self.turn:
            if self.engine is None:
                self.engine = RapidOCR(params={"Global.log_level": "error"})
                logging.getLogger("RapidOCR").setLevel(logging.ERROR)
            found: Any = self.engine(np.ascontiguousarray(rgb[..., ::-1]))  # OpenCV's order of channels
        if found.txts is None:
            return []
        return [
            Line(*each) for each in zip(found.txts, map(float, found.scores), map(np.array, found.boxes), strict=True)
        ]


class ReadArguments(Arguments):
    """Where to read."""

    frame: int | None = Field(None, ge=0, description="the frame that is shown if left out")
    point: tuple[float, float] | None = Field(None, description="only the text at this x and y", strict=False)
    object: str | None = Field(None, description="only the text on this object")


def read_text(context: Context, a: ReadArguments, reader: Reader) -> Made:
    """The lines of text in a frame, from the top."""
    film = film_of(context)
    frame = context.shown if a.frame is None else a.frame
    box = None if a.object is None else box_of(mask_at(context, a.object, frame))
    if frame >= film.frames:
        raise CannotDo(f"There is no frame {frame}: the film has frames 0 to {film.frames - 1}.")
    with context.open() as video:
        lines = reader(video.frames([frame])[0])
    if a.point is not None:
        lines = [line for line in lines if line.holds(*a.point)]
    if box is not None:
        left, top, right, bottom = box
        middles = [(line, line.corners.mean(0)) for line in lines]
        lines = [line for line, (x, y) in middles if left <= x < right and top <= y < bottom]
    where = f"at frame {frame}" + (" there" if a.point is not None or a.object is not None else "")
    if not lines:
        return Made(f"No text was found {where}.")
    text = "\n".join(line.text for line in sorted(lines, key=lambda line: float(line.corners[:, 1].min())))
    made = context.session.add(
        "text",
        ".txt",
        lambda path: path.write_text(text + "\n", encoding="utf-8"),
        parents=(film.artefact,),
        tool="read_text",
        about=f"text {where}",
        object_id=a.object,
    )
    return Made(f"The text {where}: {text}", (made,))


def tools(reader: Reader | None = None) -> tuple[Tool, ...]:
    """The tool of this file. reader: by default RapidOCR, if it is installed."""
    there = all(importlib.util.find_spec(name) is not None for name in ("rapidocr", "onnxruntime"))
    missing = "" if reader or there else "Text is read by rapidocr, which is missing: pip install -e '.[assistant]'."
    reads = reader or RapidReader()
    about = "Reads the text in a frame: all, or what stands at a point or on an object."
    return (
        Tool("read_text", about, ReadArguments, lambda context, a: read_text(context, a, reads), ("text",), missing),
    )
