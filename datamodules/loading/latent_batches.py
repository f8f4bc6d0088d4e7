"""Map-style datasets of latents: micro-batches of posterior moments and text states instead of videos.

A batch is a dict of `latents` float32 [B, 2C, T, h, w] (means, then log variances, before the VAE's scaling),
`text_states` float32 [B, L, D] if all samples have captions, `encoders` (B times the hash of what made them), `name`,
`skipped`, and `text` and `label` as in a batch of videos. Of several captions training draws one, evaluation takes the
first.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from datamodules.decoding.contract import DecodeError
from datamodules.loading import heartbeat, reading
from datamodules.loading.batches import read_or_substitute
from datamodules.loading.collate import all_skipped, annotations, without_content
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.read_ahead import Read
from datamodules.loading.rows import Memory, RowBatches
from datamodules.sources.buckets import Bucket
from datamodules.sources.latents import Latent, read_latent
from datamodules.sources.order import SampleOrder, mix
from datamodules.sources.source import Sample, Source


class TrainLatents(RowBatches):
    """Training micro-batches of one rank; item k is a pure function of the arguments and k. All samples have one size.

    The arguments are those of `TrainBatches`.
    """

    def __init__(self, source: Source, order: SampleOrder, seed: int, part: GlobalBatch) -> None:
        self.source, self.order, self.seed, self.part = source, order, seed, part

    def __len__(self) -> int:
        """Micro-batches in one pass over the data. A larger k belongs to a later pass."""
        return self.part.micro_batches(len(self.source))

    def rows(self, index: int) -> int:
        return len(self.part.numbers(index))

    def shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        """None: a latent is small, and is sent as it is stored."""
        return {}

    def reads(self, index: int, row: int) -> list[Read]:
        return [Read(self.source, self.order(self.part.numbers(index)[row])[1])]

    def make(self, index: int, row: int, memory: Memory) -> dict[str, Any]:
        n, skipped = self.part.numbers(index)[row], []
        sample, latent = read_or_substitute(self.source, self.order, self.seed, n, self._read, skipped)
        return {**_row(sample, latent, mix(self.seed, n, -1)), "skipped": skipped}

    def batch(self, index: int, memory: Memory, made: list[dict[str, Any]]) -> dict:
        return {**collate_latents(self.source, made), "skipped": all_skipped(made)}

    def _read(self, sample: Sample, n: int) -> Latent:
        return read(sample, self.source)


class EvalLatents(RowBatches):
    """Evaluation batches of one rank over all of a source, grouped by the size of the latents.

    Within a group sample i belongs to rank i % W. Rows beyond a group's end repeat earlier samples; samples that cannot
    be read have the latents of another one. Both have `weight` 0.
    """

    def __init__(self, source: Source, rank: int, world: int, micro: int) -> None:
        self.source, self.rank, self.world, self.micro = source, rank, world, micro
        shapes, group = np.unique(_sizes(source), axis=0, return_inverse=True)
        self.groups = [np.flatnonzero(group.ravel() == g) for g in range(len(shapes))]
        self.ends = np.cumsum([-(-len(numbers) // (world * micro)) for numbers in self.groups])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def rows(self, index: int) -> int:
        return self.micro

    def shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        """None: a latent is small, and is sent as it is stored."""
        return {}

    def reads(self, index: int, row: int) -> list[Read]:
        return [Read(self.source, self._number(index, row)[0])]

    def make(self, index: int, row: int, memory: Memory) -> dict[str, Any]:
        """A row; without `moments` if the sample cannot be read."""
        number, padding = self._number(index, row)
        sample, skipped = Sample("", b"", "", 0), []
        try:
            sample = reading.read(self.source, number)
            with heartbeat.decoding(sample.name):
                made = _row(sample, read(sample, self.source), 0)
        except DecodeError as error:
            if not padding:  # it would be named twice
                skipped.append((error.name, error.reason))
            sample = replace(without_content(sample), name=error.name, text=_caption(sample, 0))
            return {"sample": sample, "weight": 0.0, "skipped": skipped}
        return {**made, "weight": float(not padding), "skipped": skipped}

    def batch(self, index: int, memory: Memory, made: list[dict[str, Any]]) -> dict:
        other = next((row for row in made if "moments" in row), None) or self._any(index)
        rows = [row if "moments" in row else {**other, "sample": row["sample"]} for row in made]
        weight = torch.tensor([row["weight"] for row in made])
        return {**collate_latents(self.source, rows), "weight": weight, "skipped": all_skipped(made)}

    def _number(self, index: int, row: int) -> tuple[int, bool]:
        """The number of a row's sample in the source, and whether the row only fills up the batch."""
        g = int(np.searchsorted(self.ends, index, side="right"))
        numbers, batch = self.groups[g], index - (int(self.ends[g - 1]) if g else 0)
        n = (batch * self.micro + row) * self.world + self.rank
        return int(numbers[n % len(numbers)]), n >= len(numbers)

    def _any(self, index: int) -> dict[str, Any]:
        """The first row of a group that can be read, for the shape of a batch in which none can."""
        numbers = self.groups[int(np.searchsorted(self.ends, index, side="right"))]
        for number in numbers.tolist():
            try:
                sample = reading.read(self.source, number)
                return _row(sample, read(sample, self.source), 0)
            except DecodeError:  # it is named with its own batch
                continue
        raise RuntimeError(f"none of {len(numbers)} latents of one size can be read; is the storage there?")


def read(sample: Sample, source: Source) -> Latent:
    """The latent of a sample of a source of latents; DecodeError if it is damaged."""
    assert isinstance(sample.content, bytes) and source.latents is not None  # the caller has checked the source
    latent = read_latent(sample.content, sample.name, source.latents)
    captions = len(sample.text) if isinstance(sample.text, list) else 1
    if latent.text is not None and len(latent.text) != captions:
        raise DecodeError(sample.name, f"it has states of {len(latent.text)} captions, and its json has {captions}")
    return latent


def collate_latents(source: Source, rows: list[dict[str, Any]]) -> dict:
    """The fields of a batch that depend on its samples, of rows with `sample`, `moments` and perhaps `text_states`."""
    moments = torch.from_numpy(np.stack([row["moments"] for row in rows]).astype(np.float32))
    batch: dict[str, object] = {"latents": moments}  # [B, 2C, T, h, w]
    texts = [row["text_states"] for row in rows if "text_states" in row]
    if len(texts) == len(rows):
        batch["text_states"] = torch.from_numpy(np.stack(texts).astype(np.float32))  # [B, L, D]
    batch["encoders"] = [source.latents] * len(rows)
    return {**batch, **annotations(source, [row["sample"] for row in rows])}


def latent_buckets(source: Source) -> list[Bucket]:
    """The one bucket of latents that all have the same size; none for videos.

    Raises:
        ValueError: the latents are of several sizes.
    """
    if source.latents is None:
        return []
    sizes, counts = np.unique(_sizes(source), axis=0, return_counts=True)
    if len(sizes) > 1:
        found = ", ".join(f"{row} ({count} samples)" for row, count in zip(sizes.tolist(), counts, strict=True))
        raise ValueError(
            f"the latents are of several sizes (frames, height, width): {found}. Set data.buckets to a list "
            "of those that the run shall use, each with a weight"
        )
    return [Bucket(*sizes[0].tolist())]


def _row(sample: Sample, latent: Latent, draw: int) -> dict[str, Any]:
    """`sample` with one of its captions, `moments` [2C, T, h, w], and `text_states` [L, D] of that caption if it has
    some."""
    which = draw % len(sample.text) if isinstance(sample.text, list) else 0
    states = {} if latent.text is None else {"text_states": latent.text[which]}
    sample = replace(without_content(sample), text=_caption(sample, which))
    return {"sample": sample, "moments": latent.moments, **states}


def _caption(sample: Sample, which: int) -> str | None:
    return sample.text[which] if isinstance(sample.text, list) else sample.text


def _sizes(source: Source) -> np.ndarray:
    sizes = source.sizes()
    assert sizes is not None  # latents know their sizes
    return sizes
