"""A small MVBench of moving shapes, written in the published layout: 20 tasks for tests and first runs."""

import random
from fractions import Fraction
from pathlib import Path

import numpy as np

from datamodules.sources.synthetic import COLOURS, DIRECTIONS, Synthetic
from datamodules.storage.json_text import json_text
from datamodules.storage.whole_files import write_whole
from pretrain.questions.mvbench import FRAME_FOLDER_FPS, TASKS, Task

FPS = 8
_LENGTH = 32  # frames of a part


def write_synthetic(folder: str | Path, questions: int = 4, size: int = 64, seed: int = 0) -> None:
    """Write `json/` and `video/` of 20 tasks with so many questions each.

    Questions are about the colour and, in turn, the direction of a shape. In tasks with a start and an end the video
    has two shapes, one after the other, and the question is about the part in between.

    Args:
        size: of the frames in pixels.
        seed: of the shapes and the order of options.

    Raises:
        ValueError: fewer than one question.
    """
    if questions < 1:
        raise ValueError(f"a task has one question or more, not {questions}")
    shapes = Synthetic(4 * questions * len(TASKS), _LENGTH, size, seed, texture=0.0, noise=0, fps=FPS)
    order = list(range(len(shapes)))
    rng = random.Random(seed)
    rng.shuffle(order)
    numbers = iter(order)
    for task in TASKS:
        items = []
        for number in range(questions):
            parts = [shapes[next(numbers)] for _ in range(2 if task.bounded else 1)]
            words = [str(part.text).split() for part in parts]  # a COLOUR SHAPE moves DIRECTION
            chosen = rng.randrange(len(parts))
            colour, direction = words[chosen][1], words[chosen][4]
            about, answer, others = ("colour", colour, COLOURS) if number % 2 == 0 else ("way", direction, DIRECTIONS)
            frames = np.concatenate([part.content.frames(range(_LENGTH)) for part in parts])  # pyrefly: ignore
            name = f"shape_{number}" + ("" if task.frames else ".mp4")
            _write_video(Path(folder) / "video" / task.folder, task, f"{task.short}_{name}", frames)
            asked = {"colour": "What colour is the shape?", "way": "Which way does the shape move?"}[about]
            wrong = [text for text in others if text != answer]
            rng.shuffle(wrong)
            candidates = [answer, *wrong[: 2 if number % 4 > 1 else 3]]
            rng.shuffle(candidates)
            item = {"video": f"{task.short}_{name}", "question": asked, "candidates": candidates, "answer": answer}
            if task.bounded:
                rate = FRAME_FOLDER_FPS if task.frames else FPS
                start, end = chosen * _LENGTH / rate, ((chosen + 1) * _LENGTH - 1) / rate
                item |= {"start": round(start, 3), "end": round(end, 3)}
            items.append(item)
        write_whole(Path(folder) / "json" / task.file, json_text(items, indent=1))


def _write_video(folder: Path, task: Task, name: str, frames: np.ndarray) -> None:
    """frames: uint8 `[T, H, W, 3]`."""
    folder.mkdir(parents=True, exist_ok=True)
    if task.frames:
        from PIL import Image

        (folder / name).mkdir(exist_ok=True)
        for i, frame in enumerate(frames, 1):
            Image.fromarray(frame).save(folder / name / f"{i:05d}.jpg", quality=95)
        return
    import av

    with av.open(str(folder / name), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.codec_context.thread_count = "yuv420p", 1
        stream.codec_context.bit_rate = 2_000_000
        for i, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
