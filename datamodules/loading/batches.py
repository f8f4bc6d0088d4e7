"""Map-style datasets whose items are whole micro-batches: the work of a worker process.

Letters: `m` videos, `V` views of each, `B = V m` rows in view-major order (all videos' view 0, then view 1, ...).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.clips import crops
from datamodules.clips.augment import Augment
from datamodules.clips.eval_views import EvalView, Squares
from datamodules.clips.sampling import Sampler
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder
from datamodules.loading import buffers, heartbeat
from datamodules.sources.order import SampleOrder, SampleRng, mix, slots
from datamodules.sources.source import Sample, Source

Read = TypeVar("Read")
ATTEMPTS = 8  # substitutes for one unreadable sample before the run stops


@dataclass
class Clip:
    """How a clip is cut from a video: numbers and rules, the same for every sample."""

    frames: int
    stride: int
    size: crops.Size
    views: int
    flip: float
    sampler: Sampler
    crop: crops.Crop
    decoder: Decoder
    view: EvalView = Squares()  # noqa: RUF009 (it has no state)
    augment: Augment | None = None


class TrainBatches(Dataset):
    """Training micro-batches of one rank; item k is a pure function of the arguments and k."""

    def __init__(
        self,
        source: Source,
        order: SampleOrder,
        clip: Clip,
        seed: int,
        rank: int,
        world: int,
        micro: int,
        accumulate: int,
    ) -> None:
        self.source, self.order, self.clip, self.seed = source, order, clip, seed
        self.rank, self.world, self.micro, self.accumulate = rank, world, micro, accumulate

    def __len__(self) -> int:
        """Micro-batches in one pass over the data. A larger k belongs to a later pass."""
        return -(-len(self.source) // (self.world * self.micro))

    def __getitem__(self, index: int) -> dict:
        """`video` uint8 [B, C, T, H, W], `name`, `skipped`, and `text` and `label` if the source has them."""
        clip, skipped, samples = self.clip, [], []
        video = empty_video(clip.views, self.micro, clip.frames, clip.size)
        for i, n in enumerate(slots(index, self.rank, self.world, self.micro, self.accumulate)):
            sample, frames = read_or_substitute(self.source, self.order, self.seed, n, self._frames, skipped)
            if isinstance(sample.text, list):
                sample = replace(sample, text=sample.text[mix(self.seed, n, -1) % len(sample.text)])
            samples.append(sample)
            for view in range(clip.views):
                rng = SampleRng(self.seed, n, 1 + view)
                clip.crop(frames, clip.size, rng, video[view, i])
                if clip.flip > 0 and rng.python.random() < clip.flip:
                    crops.flip(video[view, i].numpy())
                if clip.augment is not None:
                    clip.augment(video[view, i].numpy(), rng)
        return {**collate(video, self.source, samples), "skipped": skipped}

    def _frames(self, sample: Sample, n: int) -> np.ndarray:
        """uint8 [T, H, W, 3]."""
        with sample.open(self.clip.decoder) as video:
            length, rng = sample.length(video), SampleRng(self.seed, n, 0)
            return video.frames(self.clip.sampler.draw(length, self.clip.frames, self.clip.stride, rng))


def read_or_substitute(
    source: Source,
    order: SampleOrder,
    seed: int,
    n: int,
    read: Callable[[Sample, int], Read],
    skipped: list[tuple[str, str]],
) -> tuple[Sample, Read]:
    """Sample n of training and what `read` makes of it; if unreadable, a substitute that depends on (seed, n) only."""
    index = order(n)[1]
    for attempt in range(1 + ATTEMPTS):
        try:
            heartbeat.begin(source.describe(index))
            sample = source[index]
            with heartbeat.decoding(sample.name):
                return sample, read(sample, n)
        except DecodeError as error:
            skipped.append((error.name, error.reason))
            index = mix(seed, n, attempt) % len(source)
    last = "; ".join(f"{name}: {reason}" for name, reason in skipped[-ATTEMPTS - 1 :])
    raise RuntimeError(f"sample {n} and {ATTEMPTS} substitutes for it cannot be read; is the storage there? {last}")


class EvalBatches(Dataset):
    """Evaluation batches of one rank over a source in its own order.

    Sample i belongs to rank i % W, and all ranks have equally many batches. Rows beyond the end repeat earlier samples;
    videos that cannot be read have pixels of 0. Both have `weight` 0.
    """

    def __init__(self, source: Source, clip: Clip, clips: int, crops: int, rank: int, world: int, micro: int) -> None:
        self.source, self.clip, self.clips, self.crops = source, clip, clips, crops
        self.rank, self.world, self.micro = rank, world, micro

    def __len__(self) -> int:
        return -(-len(self.source) // (self.world * self.micro))

    def __getitem__(self, index: int) -> dict:
        """`video` uint8 [B, C, T, H, W] with V = clips * crops fixed views of each video, and `weight` float [B]."""
        clip, skipped, samples = self.clip, [], []
        video = empty_video(self.clips * self.crops, self.micro, clip.frames, clip.size)
        weight = torch.ones(self.clips * self.crops, self.micro)
        for i in range(self.micro):
            n = (index * self.micro + i) * self.world + self.rank
            if n >= len(self.source):
                weight[:, i] = 0
            sample = Sample("", "", "", 0)  # for a sample that the source cannot read either
            try:
                heartbeat.begin(self.source.describe(n % len(self.source)))
                sample = self.source[n % len(self.source)]
                self._fill(video[:, i], sample)
            except DecodeError as error:
                if n < len(self.source):  # a padding row would be named twice
                    skipped.append((error.name, error.reason))
                sample.name = error.name
                video[:, i], weight[:, i] = 0, 0
            samples.append(sample)
        return {**collate(video, self.source, samples), "weight": weight.flatten(), "skipped": skipped}

    def _fill(self, out: torch.Tensor, sample: Sample) -> None:
        """Writes a sample's views to `out` [V, T, H, W, 3], clips outermost."""
        clip = self.clip
        with heartbeat.decoding(sample.name), sample.open(clip.decoder) as video:
            length = sample.length(video)
            wanted = [clip.sampler.view(length, clip.frames, clip.stride, c, self.clips) for c in range(self.clips)]
            frames = video.frames(np.concatenate(wanted))
        for c, part in enumerate(np.split(frames, self.clips)):
            for s in range(self.crops):
                picture = clip.view(part, clip.size, s, self.crops)
                out[c * self.crops + s] = torch.from_numpy(np.ascontiguousarray(picture))


def empty_video(views: int, micro: int, frames: int, size: crops.Size) -> torch.Tensor:
    """uint8 [V, m, T, H, W, C], uninitialized; in a worker in shared memory, so that sending it copies nothing."""
    return buffers.empty((views, micro, frames, *crops.sides(size), 3))


def collate(video: torch.Tensor, source: Source, samples: list[Sample]) -> dict:
    """Batch with rows in view-major order. `video` [B, C, T, H, W] is a view of the buffer, channels-last in memory."""
    return {"video": video.flatten(0, 1).permute(0, 4, 1, 2, 3), **annotations(source, samples, len(video))}


def annotations(source: Source, samples: list[Sample], views: int = 1) -> dict:
    """`name`, and `text` and `label` if the source has them."""
    total = len(source)
    batch: dict[str, object] = {"name": [s.name for s in samples] * views}
    if source.texts == total:
        batch["text"] = [s.text for s in samples] * views
    if source.labels == total:
        batch["label"] = torch.tensor([s.label for s in samples] * views)
    return batch
