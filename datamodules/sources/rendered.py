"""Frames of a generated source, drawn once into one file and read from there: for many passes over the same videos."""

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from datamodules.decoding.contract import Video
from datamodules.sources.source import Sample, Source
from datamodules.storage.lock import Lock
from datamodules.storage.whole_files import whole_path, write_whole


class Rendered(Source):
    """The samples of another source with frames from a file, which is drawn at first use.

    Args:
        source: the source, whose videos are equally long and large. Its texts and labels are its own.
        path: the file, `.npy`, uint8 `[N, T, H, W, 3]`; a `.json` beside it says what it holds. It may be shared by
            sources that differ in labels only.
        every: frames of the source per stored frame.
        processes: that draw the file.

    Raises:
        ValueError: the file is of other videos, or the source has files instead of generated videos.
    """

    def __init__(self, source: Source, path: str, every: int = 1, processes: int = 1) -> None:
        self.source = source
        self.counts, self.texts, self.labels = len(source), source.texts, source.labels
        self.classes = source.classes
        self.file, first = Path(path), source[0].content
        if not isinstance(first, Video) or every < 1:
            raise ValueError(
                f"Rendered takes a source that generates its videos, not {type(source).__name__}, and every >= 1"
            )
        self._every, self._length, self._size = every, -(-len(first) // every), first.size
        self.fps = first.fps / every
        holds = {"samples": len(source), "first": source[0].name, "last": source[len(source) - 1].name, "every": every}
        note = self.file.with_suffix(".json")
        with Lock(self.file.with_suffix(".lock"), self.file, wait=3600):
            if not self.file.is_file() or not note.is_file():
                self._draw(processes)
                write_whole(note, json.dumps(holds) + "\n")
        self._frames = np.load(self.file, mmap_mode="r")
        same = json.loads(note.read_text()) == holds and self._frames.shape[1:4] == (self._length, *self._size)
        if not same or not np.array_equal(self._frames[0], _drawn(source, 0, every)):
            raise ValueError(f"{self.file} holds other videos than {type(source).__name__} makes: delete it")

    def _draw(self, processes: int) -> None:
        shape = (len(self.source), self._length, *self._size, 3)
        with whole_path(self.file) as draft:
            np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=shape).flush()
            parts = [(self.source, self._every, draft, start, processes) for start in range(processes)]
            if processes == 1:
                _draw_part(*parts[0])
                return
            with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
                list(pool.map(_draw_part, *zip(*parts, strict=True)))  # the list is where an error comes out

    def __getitem__(self, index: int) -> Sample:
        index = range(self.counts)[index]
        sample = self.source[index]
        sample.content = StoredVideo(sample.name, self._frames[index], self.fps)
        return sample


class StoredVideo(Video):
    """A video whose frames `[T, H, W, 3]` lie in memory or in a mapped file."""

    def __init__(self, name: str, frames: np.ndarray, fps: float) -> None:
        self.name, self.fps, self.size, self._frames = name, fps, (frames.shape[1], frames.shape[2]), frames

    def __len__(self) -> int:
        return len(self._frames)

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self._frames[wanted])


def _drawn(source: Source, index: int, every: int) -> np.ndarray:
    """The frames of a video that are stored, uint8 `[T, H, W, 3]`."""
    video = source[index].content
    assert isinstance(video, Video)
    return video.frames(np.arange(0, len(video), every))


def _draw_part(source: Source, every: int, file: Path, start: int, step: int) -> None:
    """Draws every `step`-th video from number `start` on into its place in the file."""
    frames = np.load(file, mmap_mode="r+")
    for index in range(start, len(source), step):
        frames[index] = _drawn(source, index, every)
    frames.flush()
