"""Training batches by buckets: a step has clips of one size and length on all ranks, chosen by arithmetic."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules.clips.rectangles import CentreRectangle, Rectangle
from datamodules.clips.sampling import Dense, Span
from datamodules.loading.batches import TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.latent_batches import TrainLatents
from datamodules.loading.read_ahead import Read
from datamodules.loading.rows import Memory, RowBatches, by_rows
from datamodules.loading.text_rows import Encode
from datamodules.sources.buckets import Bucket, check_members, digest, members, subset
from datamodules.sources.mixture import MixedOrder
from datamodules.sources.order import mix
from datamodules.sources.source import Source
from datamodules.storage.json_text import json_text
from datamodules.storage.whole_files import write_whole

log = logging.getLogger(__name__)

REPORT = "buckets.json"
_NAMED = 1000  # clips without a bucket that the report names; it counts all


@dataclass
class Division:
    """The samples of a source by bucket.

    Args:
        source: all samples.
        buckets: those of the recipe.
        sizes: frames, height and width of every sample, int [N, 3].
        clip: how clips are cut of videos; its frames and size are those of the bucket.

    Raises:
        ValueError: a bucket has no sample.
    """

    source: Source
    buckets: list[Bucket]
    sizes: np.ndarray
    clip: Clip

    def __post_init__(self) -> None:
        spans = None if self.source.latents else [frames_needed(self.clip, bucket) for bucket in self.buckets]
        self.members = members(self.buckets, self.sizes, spans)
        check_members(self.buckets, self.members, self.sizes)
        inside = np.zeros(len(self.sizes), bool)
        inside[np.concatenate(self.members)] = True
        self.unreadable = int((self.sizes[:, 0] == 0).sum())
        self.left_out = np.flatnonzero(~inside & (self.sizes[:, 0] > 0))

    def digest(self) -> str:
        return digest(self.members)

    def batches(
        self,
        seed: int,
        lanes: int,
        part: GlobalBatch,
        encode: Encode | None = None,
    ) -> "BucketBatches":
        """The micro-batches of one rank; a bucket with a `micro_batch` of its own has so many videos in one."""
        parts: list[TrainBatches | TrainLatents] = []
        for j, (bucket, numbers) in enumerate(zip(self.buckets, self.members, strict=True)):
            source, own = subset(self.source, numbers), mix(seed, j)
            order, share = source.order(own, lanes), replace(part, micro=bucket.micro_batch or part.micro)
            latents = self.source.latents is not None
            parts.append(
                TrainLatents(source, order, own, share)
                if latents
                else TrainBatches(source, order, bucket_clip(self.clip, bucket), own, share, encode)
            )
        return BucketBatches(parts, [bucket.weight for bucket in self.buckets], part.accumulate)

    def report(self, folder: str | None) -> None:
        """Logs the number of samples of each bucket, and writes them to `buckets.json` with those that have none."""
        counts = {str(b): len(numbers) for b, numbers in zip(self.buckets, self.members, strict=True)}
        log.info("samples by bucket: %s", ", ".join(f"{bucket} {count}" for bucket, count in counts.items()))
        if len(self.left_out):
            log.warning(
                "%d of %d samples belong to no bucket and are not used%s",
                len(self.left_out),
                len(self.sizes),
                f": {Path(folder, REPORT)} names them" if folder else "",
            )
        if folder is None:
            return
        named = [
            {"name": self.source[int(i)].name, "size": "x".join(map(str, self.sizes[i]))}
            for i in self.left_out[:_NAMED]
        ]
        about = {"buckets": counts, "unreadable": self.unreadable, "no bucket": len(self.left_out), "of these": named}
        write_whole(Path(folder, REPORT), json_text(about, indent=1) + "\n")


def divide(source: Source, buckets: list[Bucket], sizes: np.ndarray, clip: Clip, resumed: str | None) -> Division:
    """The training samples by bucket; see `Division`.

    Args:
        resumed: the digest of the division that the checkpoint was trained with.

    Raises:
        MisconfigurationException: that was another one, or latents are to be augmented.
    """
    if source.latents and (clip.views > 1 or clip.flip or clip.augment):
        raise MisconfigurationException("latents are not augmented: leave data.views at 1, flip at 0 and augment unset")
    division = Division(source, buckets, sizes, clip)
    if resumed not in (None, division.digest()):
        raise MisconfigurationException(
            "the checkpoint was trained with other samples in its buckets (other videos, or some that could or "
            "cannot be read): its order cannot continue. Restore the data, or start a new run from its weights"
        )
    return division


class BucketBatches(RowBatches):
    """Training micro-batches of one rank; item k is a pure function of the arguments and k.

    A batch has `videos`, the number of them, besides the fields of `TrainBatches` or `TrainLatents`.

    Args:
        parts: the micro-batches of each bucket.
        weights: of the buckets, by which steps are divided among them.
        accumulate: micro-batches of a step, which all are of one bucket.
    """

    def __init__(self, parts: list[TrainBatches | TrainLatents], weights: list[float], accumulate: int) -> None:
        self.parts, self.accumulate = [by_rows(part) for part in parts], accumulate
        self.micro, self.lengths = [batches.part.micro for batches in parts], [len(part) for part in parts]
        self.steps = MixedOrder([part.order for part in parts], weights)

    def __len__(self) -> int:
        """Micro-batches in one pass over the data. A larger k belongs to a later pass."""
        return sum(self.lengths)

    def rows(self, index: int) -> int:
        batches, own = self._part(index)
        return batches.rows(own)

    def shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        batches, own = self._part(index)
        return batches.shapes(own)

    def reads(self, index: int, row: int) -> list[Read]:
        batches, own = self._part(index)
        return batches.reads(own, row)

    def make(self, index: int, row: int, memory: Memory) -> dict[str, Any]:
        batches, own = self._part(index)
        return batches.make(own, row, memory)

    def batch(self, index: int, memory: Memory, made: list[dict[str, Any]]) -> dict:
        batches, own = self._part(index)
        return {**batches.batch(own, memory, made), "videos": self.micro[self.parts.index(batches)]}

    def _part(self, index: int) -> tuple[RowBatches, int]:
        """The batches of the bucket of a micro-batch, and its number among them."""
        step, part = divmod(index, self.accumulate)
        bucket, before = self.steps.place(step)
        return self.parts[bucket], before * self.accumulate + part


def bucket_clip(clip: Clip, bucket: Bucket) -> Clip:
    """The clip with a bucket's frames and size; the largest box of its shape is cut from the frames."""
    size = bucket.height, bucket.width
    return replace(clip, frames=bucket.frames, size=size, crop=Rectangle(), view=CentreRectangle())


def frames_needed(clip: Clip, bucket: Bucket) -> int:
    """Frames of a video from which the sampler takes the bucket's clip without repeating one."""
    strided = isinstance(clip.sampler, Dense | Span) and bucket.frames > 1
    return bucket.frames * clip.stride if strided else bucket.frames


def check_batches(buckets: list[Bucket], global_batch: int, micro_batch: int | None) -> list[list[float]]:
    """Rows of frames, height, width, weight and videos of a step for each bucket, which determine the order.

    A bucket's own `micro_batch` changes the videos of its steps, since every step has equally many micro-batches.

    Raises:
        MisconfigurationException: a bucket has a `micro_batch` and the data module none.
    """
    if micro_batch is None and any(bucket.micro_batch for bucket in buckets):
        raise MisconfigurationException(
            "a bucket with a micro_batch of its own needs data.micro_batch too: a step of the bucket has "
            "global_batch * bucket's micro_batch / micro_batch videos"
        )
    parts = global_batch // (micro_batch or global_batch)  # micro-batches of a step, over all ranks
    return [[b.frames, b.height, b.width, b.weight, parts * (b.micro_batch or global_batch // parts)] for b in buckets]
