"""Videos that hang, crash, fail or are slow when they are decoded, and batches of them."""

import ctypes
import os
import signal
import time

import numpy as np

from datamodules import PyAV, Synthetic
from datamodules.clips.crops import CentreCrop
from datamodules.clips.sampling import Dense
from datamodules.decoding.contract import DecodeError, Video
from datamodules.loading.batches import TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.workers import Workers
from datamodules.sources.order import Order
from datamodules.sources.source import Sample

LIMIT = 3.0  # seconds; on a busy machine a process may wait one second for its turn


class FaultyVideo(Video):
    """A video whose decoding fails in the way named by `what`; a hang is in native code and holds the GIL.

    `what` is hang, broken, bug, slow, a signal that the worker sends itself, or the path of a file: then every other
    decoding kills the worker.
    """

    fps = 24.0

    def __init__(self, video: Video, what: str) -> None:
        self.video, self.what, self.name, self.size = video, what, video.name, video.size

    def __len__(self) -> int:
        return len(self.video)

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        if self.what == "hang":
            ctypes.PyDLL(None).pause()
        elif self.what == "broken":
            raise DecodeError(self.name, "broken")
        elif self.what == "bug":
            raise ZeroDivisionError("a bug")
        elif self.what.startswith("/"):  # the file counts the decodings
            with open(self.what, "ab") as file:
                file.write(b".")
            if os.path.getsize(self.what) % 2:
                os.kill(os.getpid(), signal.SIGKILL)
        elif self.what == "slow":
            time.sleep(LIMIT / 3)
        else:
            os.kill(os.getpid(), getattr(signal, self.what))
        return self.video._decode(wanted)


class FaultyVideos(Synthetic):
    """Generated videos, some of which fail: `trouble` has the kind of failure by index."""

    def __init__(self, trouble: dict[int, str], samples: int = 24) -> None:
        super().__init__(samples, size=16)
        self.trouble = trouble

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        if what := self.trouble.get(index):
            sample.content = FaultyVideo(sample.content, what)
        return sample


def batches(trouble: dict[int, str]) -> TrainBatches:
    source = FaultyVideos(trouble)
    clip = Clip(4, 4, 16, 2, 0.5, Dense(), CentreCrop(), PyAV())
    return TrainBatches(source, Order(len(source), 0), clip, 0, GlobalBatch(0, 1, 4, 1))


def load(trouble: dict[int, str], count: int = 6, workers: int = 2, limit: float | None = LIMIT) -> list[dict]:
    crew = Workers(batches(trouble), workers, 2, limit)
    try:
        return list(crew.run(range(count)))
    finally:
        crew.close()


def same(a: list[dict], b: list[dict]) -> None:
    assert [x["name"] for x in a] == [x["name"] for x in b]
    assert all((x["video"] == y["video"]).all() for x, y in zip(a, b, strict=True))
