"""Frames of a generated source, drawn once into one file and read from there: for many passes over the same videos."""

import json
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

    Raises:
        ValueError: the file is of other videos, or the source has files instead of generated videos.
    """

    def __init__(self, source: Source, path: str, every: int = 1) -> None:
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
                self._draw()
                write_whole(note, json.dumps(holds) + "\n")
        self._frames = np.load(self.file, mmap_mode="r")
        same = json.loads(note.read_text()) == holds and self._frames.shape[1:4] == (self._length, *self._size)
        if not same or not np.array_equal(self._frames[0], self._drawn(0)):
            raise ValueError(f"{self.file} holds other videos than {type(source).__name__} makes: delete it")

    def _drawn(self, index: int) -> np.ndarray:
        video = self.source[index].content
        assert isinstance(video, Video)
        return video.frames(np.arange(0, len(video), self._every))

    def _draw(self) -> None:
        shape = (len(self.source), self._length, *self._size, 3)
        with whole_path(self.file) as draft:
            frames = np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=shape)
            for index in range(len(self.source)):
                frames[index] = self._drawn(index)
            frames.flush()

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
