"""Micro-batches of conversations with about equally many tokens, for rows without padding: packs by arithmetic."""

import functools
import hashlib
import heapq
from pathlib import Path

import numpy as np
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules.clips.crops import sides
from datamodules.decoding.contract import DecodeError
from datamodules.loading.batches import TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.text_rows import Encode, Shown
from datamodules.sources.order import SampleOrder, mix
from datamodules.sources.source import Source
from datamodules.storage.whole_files import whole_file

_PROBES = 64  # samples whose names show that stored counts are of this source


class PackedBatches(TrainBatches):
    """Training micro-batches of one rank, each a pack; item k is a pure function of the arguments and k.

    The samples of a block of steps are distributed among its packs, the longest first, each to the pack with the fewest
    tokens. So the packs of a block depend on the seed and the block only; ranks and workers take them in turn. A step
    has about, and a block exactly, the global batch of samples for each step.

    Args:
        counts: tokens of every sample of the source.
        block: steps of a block.
        others: see `TrainBatches`; `part.micro` is the number of samples of a pack on average.
    """

    def __init__(
        self,
        source: Source,
        order: SampleOrder,
        clip: Clip,
        seed: int,
        part: GlobalBatch,
        encode: Encode | None,
        counts: np.ndarray,
        block: int,
    ) -> None:
        super().__init__(source, order, clip, seed, part, encode)
        self.counts, self.block = counts, block

    def numbers(self, index: int) -> list[int]:
        (block, inside), part = divmod(index, self.block * self.part.accumulate), self.part
        return self._packs(block)[inside * part.world + part.rank]

    @functools.lru_cache(maxsize=2)  # noqa: B019 lives as long as the loading process
    def _packs(self, block: int) -> list[list[int]]:
        """The numbers of the samples in each pack of a block, in the order of the steps."""
        bins = self.block * self.part.accumulate * self.part.world
        count = bins * self.part.micro
        lengths = {n: int(self.counts[self.order(n)[1]]) for n in range(block * count, (block + 1) * count)}
        packs: list[list[int]] = [[] for _ in range(bins)]
        least = [(0, i) for i in range(bins)]
        for n in sorted(lengths, key=lambda n: (-lengths[n], n)):
            total, i = heapq.heappop(least)
            packs[i].append(n)
            heapq.heappush(least, (total + lengths[n], i))
        turn = sorted(range(bins), key=lambda i: mix(self.seed, block, i))
        return [sorted(packs[i]) for i in turn]


def train_batches(
    source: Source,
    order: SampleOrder,
    clip: Clip,
    seed: int,
    part: GlobalBatch,
    encode: Encode | None,
    block: int | None,
    file: str | None,
) -> TrainBatches:
    """Packs by the tokens of every sample, or without `block` batches of equally many samples.

    Args:
        file: keeps the counts of tokens; see `token_counts`.
        others: see `PackedBatches`.

    Raises:
        MisconfigurationException: the method makes no rows of texts, and packs are wanted.
        ValueError: the file is damaged, or of another source.
    """
    if block is None:
        return TrainBatches(source, order, clip, seed, part, encode)
    if encode is None:
        raise MisconfigurationException("pack_steps is for chat models: leave it out of this recipe")
    return PackedBatches(source, order, clip, seed, part, encode, token_counts(source, encode, clip, file), block)


def token_counts(source: Source, encode: Encode, clip: Clip, file: str | None) -> np.ndarray:
    """Tokens of every sample, uint32 `[N]`, by its texts and the number of visual tokens; no video is opened.

    Args:
        file: an npz file that keeps the counts; it is written if it is not there.

    Raises:
        ValueError: the file is damaged, or of another source.
    """
    if file is not None and Path(file).is_file():
        return _read(source, file)
    shown = Shown([0.0] * clip.frames, sides(clip.size), False)
    counts = np.ones(len(source), np.uint32)
    for i in range(len(source)):
        try:
            counts[i] = len(encode(source[i], shown, None)["ids"])
        except (DecodeError, ValueError):  # training substitutes it, and counts and names it
            continue
    if file is not None:
        with whole_file(file, "wb") as stream:
            np.savez(stream, counts=counts, names=_digest(source))
    return counts


def _read(source: Source, file: str) -> np.ndarray:
    try:
        with np.load(file, allow_pickle=False) as table:
            counts, names = table["counts"], str(table["names"])
    except Exception as error:  # numpy raises errors of zipfile, zlib and its own
        raise ValueError(f"the counts of tokens in {file} are damaged ({error}): delete it, to make it again") from None
    if len(counts) != len(source) or names != _digest(source):
        raise ValueError(f"the counts of tokens in {file} are of other data: delete it, or set another file")
    return counts


def _digest(source: Source) -> str:
    """A hash of the names of samples that are spread over the source."""
    digest = hashlib.sha256()
    for index in np.unique(np.linspace(0, len(source) - 1, _PROBES).astype(np.int64)).tolist():
        try:
            name = source[index].name
        except DecodeError as error:
            name = error.name
        digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
    return digest.hexdigest()[:16]
