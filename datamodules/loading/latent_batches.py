"""Map-style datasets of latents: micro-batches of posterior moments and text states instead of videos.

A batch is a dict of `latents` float32 [B, 2C, T, h, w] (means, then log variances, before the VAE's scaling),
`text_states` float32 [B, L, D] if all samples have captions, `encoders` (B times the hash of what made them), `name`,
`skipped`, and `text` and `label` as in a batch of videos. Of several captions training draws one, evaluation takes the
first.
"""

from dataclasses import replace

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.decoding.contract import DecodeError
from datamodules.loading import heartbeat, reading
from datamodules.loading.batches import annotations, read_or_substitute
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.read_ahead import Read
from datamodules.sources.buckets import Bucket
from datamodules.sources.latents import Latent, read_latent
from datamodules.sources.order import SampleOrder, mix
from datamodules.sources.source import Sample, Source


class TrainLatents(Dataset):
    """Training micro-batches of one rank; item k is a pure function of the arguments and k. All samples have one size.

    The arguments are those of `TrainBatches`.
    """

    def __init__(self, source: Source, order: SampleOrder, seed: int, part: GlobalBatch) -> None:
        self.source, self.order, self.seed, self.part = source, order, seed, part

    def __len__(self) -> int:
        """Micro-batches in one pass over the data. A larger k belongs to a later pass."""
        return self.part.micro_batches(len(self.source))

    def reads(self, index: int, row: int) -> list[Read]:
        """The samples of micro-batch `index`, which is made as a whole."""
        return [Read(self.source, self.order(n)[1]) for n in self.part.numbers(index)]

    def __getitem__(self, index: int) -> dict:
        skipped: list[tuple[str, str]] = []
        rows = []
        for n in self.part.numbers(index):
            sample, latent = read_or_substitute(self.source, self.order, self.seed, n, self._read, skipped)
            rows.append(_with_caption(sample, latent, mix(self.seed, n, -1)))
        return {**collate_latents(self.source, rows), "skipped": skipped}

    def _read(self, sample: Sample, n: int) -> Latent:
        return read(sample, self.source)


class EvalLatents(Dataset):
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

    def __getitem__(self, index: int) -> dict:
        g = int(np.searchsorted(self.ends, index, side="right"))
        numbers, batch = self.groups[g], index - (int(self.ends[g - 1]) if g else 0)
        skipped, weight = [], torch.ones(self.micro)
        rows: list[tuple[Sample, Latent | None]] = []
        for i in range(self.micro):
            n = (batch * self.micro + i) * self.world + self.rank
            number = int(numbers[n % len(numbers)])
            sample, latent = Sample("", b"", "", 0), None
            try:
                sample = reading.read(self.source, number)
                with heartbeat.decoding(sample.name):
                    sample, latent = _with_caption(sample, read(sample, self.source), 0)
            except DecodeError as error:
                if n < len(numbers):  # a padding row would be named twice
                    skipped.append((error.name, error.reason))
                sample = replace(sample, name=error.name, text=_caption(sample, 0))
            weight[i] = latent is not None and n < len(numbers)
            rows.append((sample, latent))
        other = next((latent for _, latent in rows if latent is not None), None) or self._any(numbers)
        filled = [(sample, latent or other) for sample, latent in rows]
        return {**collate_latents(self.source, filled), "weight": weight, "skipped": skipped}

    def _any(self, numbers: np.ndarray) -> Latent:
        """The first latent of a group that can be read, for the shape of a batch in which none can."""
        for number in numbers.tolist():
            try:
                sample = reading.read(self.source, number)
                return _with_caption(sample, read(sample, self.source), 0)[1]
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


def collate_latents(source: Source, rows: list[tuple[Sample, Latent]]) -> dict:
    """The fields of a batch that depend on its samples."""
    moments = torch.from_numpy(np.stack([latent.moments for _, latent in rows]).astype(np.float32))
    batch: dict[str, object] = {"latents": moments}  # [B, 2C, T, h, w]
    texts = [latent.text for _, latent in rows if latent.text is not None]
    if len(texts) == len(rows):
        batch["text_states"] = torch.from_numpy(np.stack(texts).astype(np.float32))  # [B, L, D]
    batch["encoders"] = [source.latents] * len(rows)
    return {**batch, **annotations(source, [sample for sample, _ in rows])}


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


def _with_caption(sample: Sample, latent: Latent, draw: int) -> tuple[Sample, Latent]:
    """The sample with one of its captions, and the latent with that caption's states [L, D]."""
    which = draw % len(sample.text) if isinstance(sample.text, list) else 0
    states = None if latent.text is None else latent.text[which]
    return replace(sample, text=_caption(sample, which)), replace(latent, text=states)


def _caption(sample: Sample, which: int) -> str | None:
    return sample.text[which] if isinstance(sample.text, list) else sample.text


def _sizes(source: Source) -> np.ndarray:
    sizes = source.sizes()
    assert sizes is not None  # latents know their sizes
    return sizes
