"""Map-style datasets whose items are micro-batches, made row by row: the work of the worker processes.

Letters: `m` videos, `V` views of each, `B = V m` rows in view-major order (all videos' view 0, then view 1, ...).
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch

from datamodules.clips import crops
from datamodules.clips.frame_by_frame import distinct_frames
from datamodules.decoding.contract import DecodeError
from datamodules.loading import reading
from datamodules.loading.cadence_check import check_cadence
from datamodules.loading.clip import Clip, video_shape
from datamodules.loading.collate import all_skipped, collate, without_content
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.read_ahead import Read
from datamodules.loading.rows import Memory, RowBatches
from datamodules.loading.text_rows import Encode, Shown, encoded, shown
from datamodules.sources.order import SampleOrder, SampleRng, mix
from datamodules.sources.source import Sample, Source

T = TypeVar("T")
ATTEMPTS = 8  # substitutes for one unreadable sample before the run stops


class TrainBatches(RowBatches):
    """Training micro-batches of one rank; item k is a pure function of the arguments and k.

    Args:
        part: of each step, what this rank makes.
        encode: makes a row of each sample's texts; None: the batch has the texts themselves.
    """

    def __init__(
        self,
        source: Source,
        order: SampleOrder,
        clip: Clip,
        seed: int,
        part: GlobalBatch,
        encode: Encode | None = None,
    ) -> None:
        self.source, self.order, self.clip, self.seed = source, order, clip, seed
        self.part, self.encode = part, encode

    def __len__(self) -> int:
        """Micro-batches in one pass over the data. A larger k belongs to a later pass."""
        return self.part.micro_batches(len(self.source))

    def numbers(self, index: int) -> Sequence[int]:
        """Global numbers of the samples of micro-batch `index`."""
        return self.part.numbers(index)

    def rows(self, index: int) -> int:
        return len(self.numbers(index))

    def shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        return {"video": video_shape(self.clip.views, self.rows(index), self.clip)}

    def reads(self, index: int, row: int) -> list[Read]:
        return [Read(self.source, self.order(self.numbers(index)[row])[1])]

    def make(self, index: int, row: int, memory: Memory) -> dict[str, Any]:
        """Writes a sample's views; returns `sample` without its content, `skipped`, and the row of `encode`."""
        clip, skipped, n = self.clip, [], self.numbers(index)[row]
        out = memory["video"][:, row]
        read = partial(self._read, out=out)
        sample, (encoded_row, draws) = read_or_substitute(self.source, self.order, self.seed, n, read, skipped)
        for view, rng in enumerate(draws):
            if clip.augment is not None:
                clip.augment(out[view].numpy(), rng)
        sample = replace(without_content(sample), text=self._caption(sample, n))
        return {"sample": sample, "skipped": skipped, "chat": encoded_row}

    def batch(self, index: int, memory: Memory, made: list[dict[str, Any]]) -> dict:
        """`video` uint8 [B, C, T, H, W], `name`, `skipped`, and `text` and `label` if the source has them; with
        `encode`, `chat`, a row of each sample."""
        batch = {**collate(memory["video"], self.source, [row["sample"] for row in made]), "skipped": all_skipped(made)}
        return batch if self.encode is None else {**batch, "chat": [row["chat"] for row in made] * self.clip.views}

    def _caption(self, sample: Sample, n: int) -> str | None:
        """One of the sample's captions."""
        return sample.text[mix(self.seed, n, -1) % len(sample.text)] if isinstance(sample.text, list) else sample.text

    def _read(self, sample: Sample, n: int, out: torch.Tensor) -> tuple[dict | None, list[SampleRng]]:
        """Writes a sample's crops to `out` [V, T, H, W, 3]; returns the row of its texts, and the generator of each
        view after its crop and flip."""
        clip = self.clip
        check_cadence(sample, clip.stride if clip.sampler.strided else 1)
        with sample.open(clip.decoder) as video:
            (first, end), rng = sample.part(video), SampleRng(self.seed, n, 0)
            indices = first + clip.sampler.draw(end - first, clip.frames, clip.stride, rng)
            height, width = video.size
            rngs = [SampleRng(self.seed, n, 1 + view) for view in range(clip.views)]
            # In this order: the box of a view is drawn before its flip.
            boxes = [clip.crop.place(width, height, clip.size, draws) for draws in rngs]
            flips = [clip.flip > 0 and draws.python.random() < clip.flip for draws in rngs]
            for times, frame in distinct_frames(video, indices):
                for view, (box, flip) in enumerate(zip(boxes, flips, strict=True)):
                    clip.crop.cut(frame, box, clip.size, out[view, times[0] : times[0] + 1], flip)
                    for time in times[1:]:
                        out[view, time] = out[view, times[0]]
            row = None
            if self.encode is not None:
                sample = replace(sample, text=self._caption(sample, n))
                row = encoded(self.encode, sample, shown(video, indices, clip.size), mix(self.seed, n, -2))
        return row, rngs


def read_or_substitute(
    source: Source,
    order: SampleOrder,
    seed: int,
    n: int,
    read: Callable[[Sample, int], T],
    skipped: list[tuple[str, str]],
) -> tuple[Sample, T]:
    """Sample n of training and what `read` makes of it; if unreadable, a substitute that depends on (seed, n) only."""
    index = order(n)[1]
    for attempt in range(1 + ATTEMPTS):
        try:
            sample = reading.read(source, index)
            return sample, reading.decode(sample.name, reading.file_of(sample), partial(read, sample, n))
        except DecodeError as error:
            skipped.append((error.name, error.reason))
            index = mix(seed, n, attempt) % len(source)
    last = "; ".join(f"{name}: {reason}" for name, reason in skipped[-ATTEMPTS - 1 :])
    raise RuntimeError(f"sample {n} and {ATTEMPTS} substitutes for it cannot be read; is the storage there? {last}")


class EvalBatches(RowBatches):
    """Evaluation batches of one rank over a source in its own order.

    Sample i belongs to rank i % W, and all ranks have equally many batches. Rows beyond the end repeat earlier samples;
    videos that cannot be read have pixels of 0. Both have `weight` 0.
    """

    def __init__(
        self,
        source: Source,
        clip: Clip,
        clips: int,
        crops: int,
        rank: int,
        world: int,
        micro: int,
        encode: Encode | None = None,
    ) -> None:
        self.source, self.clip, self.clips, self.crops = source, clip, clips, crops
        self.rank, self.world, self.micro, self.encode = rank, world, micro, encode

    def __len__(self) -> int:
        return -(-len(self.source) // (self.world * self.micro))

    def rows(self, index: int) -> int:
        return self.micro

    def shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        return {"video": video_shape(self.clips * self.crops, self.micro, self.clip)}

    def reads(self, index: int, row: int) -> list[Read]:
        return [Read(self.source, self._number(index, row) % len(self.source))]

    def make(self, index: int, row: int, memory: Memory) -> dict[str, Any]:
        """Writes a sample's views; returns `sample` without its content, `weight`, `skipped`, and a row of `encode`
        for each clip."""
        n, out = self._number(index, row), memory["video"][:, row]
        number, weight, skipped = n % len(self.source), float(n < len(self.source)), []
        sample, rows = Sample("", "", "", 0), []  # for a sample that the source cannot read either
        try:
            sample = reading.read(self.source, number)
            rows = reading.decode(sample.name, reading.file_of(sample), partial(self._fill, out, sample))
        except DecodeError as error:
            if n < len(self.source):  # a padding row would be named twice
                skipped.append((error.name, error.reason))
            sample.name = error.name
            out.zero_()
            weight = 0.0
            if self.encode is not None:
                rows = [self.encode.blank(Shown([], crops.sides(self.clip.size), False))] * self.clips
        return {"sample": without_content(sample), "weight": weight, "skipped": skipped, "chat": rows}

    def batch(self, index: int, memory: Memory, made: list[dict[str, Any]]) -> dict:
        """`video` uint8 [B, C, T, H, W] with V = clips * crops fixed views of each video, and `weight` float [B]."""
        views = self.clips * self.crops
        weight = torch.tensor([row["weight"] for row in made] * views)
        batch = {**collate(memory["video"], self.source, [row["sample"] for row in made]), "weight": weight}
        batch["skipped"] = all_skipped(made)
        if self.encode is None:
            return batch
        return {**batch, "chat": [row["chat"][c] for c in range(self.clips) for _ in range(self.crops) for row in made]}

    def _number(self, index: int, row: int) -> int:
        """Beyond the source in a row that fills up the last batches."""
        return (index * self.micro + row) * self.world + self.rank

    def _fill(self, out: torch.Tensor, sample: Sample) -> list[dict]:
        """Writes a sample's views to `out` [V, T, H, W, 3], clips outermost; returns the row of its texts for each
        clip."""
        clip = self.clip
        check_cadence(sample, clip.stride if clip.sampler.strided else 1)
        with sample.open(clip.decoder) as video:
            (first, end), made = sample.part(video), range(self.clips)
            wanted = [first + clip.sampler.view(end - first, clip.frames, clip.stride, c, self.clips) for c in made]
            for times, frame in distinct_frames(video, np.concatenate(wanted)):
                for s in range(self.crops):
                    picture = torch.from_numpy(np.ascontiguousarray(clip.view(frame, clip.size, s, self.crops)[0]))
                    for c, t in (divmod(time, clip.frames) for time in times):
                        out[c * self.crops + s, t] = picture
            about = [shown(video, indices, clip.size) for indices in wanted]
        return [] if self.encode is None else [encoded(self.encode, sample, each, None) for each in about]
