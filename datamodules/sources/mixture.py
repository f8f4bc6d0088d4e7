"""Several sources mixed by weights, in an order that is still a pure function of (seed, number), without state."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from datamodules.sources.order import SampleOrder, mix
from datamodules.sources.source import Sample, Source


class Mixture(Source):
    """Samples of several sources in proportion to weights.

    Each source keeps its own order: none of its samples repeats before all of them have been used. So the sources
    finish their epochs at different times. An epoch of the mixture is a count of `len(mixture)` samples, the total of
    all sources, of which source j contributes the share w_j / sum(w). By default the weights are the numbers of
    samples; an epoch of the mixture is then one epoch of each source (to within `strip`).

    Args:
        sources: the sources; images are videos of one frame (`Files` and `Shards` read them).
        weights: one per source, of any scale, above 0; by default the sources' lengths.
        strip: the number of consecutive sample numbers from one source. If the world size divides `strip`, each shard
            is read by one rank only, and the ranks' shares of each source are equal at every step. By default the
            largest divisor of the lanes that is at most their square root.

    Raises:
        ValueError: no source, a number of weights other than that of sources, or a weight that is not above 0.
    """

    def __init__(self, sources: list[Source], weights: list[float] | None = None, strip: int | None = None) -> None:
        if not sources:
            raise ValueError("Mixture got no source; give it a list of them")
        if weights is not None and len(weights) != len(sources):
            raise ValueError(f"Mixture got {len(sources)} sources and {len(weights)} weights; give one per source")
        if any(weight <= 0 for weight in weights or ()):
            raise ValueError(f"Mixture got the weights {weights}; each must be above 0 (or remove the source)")
        self.sources, self.weights, self.strip = sources, weights or [len(source) for source in sources], strip
        self.by_length = weights is None
        kinds = {source.latents for source in sources}
        if len(kinds) > 1:
            raise ValueError(
                "Mixture got videos and latents, or latents of different encoders, and a run trains on one kind: "
                "encode all sources with the same encoders (tools/latents.py)"
            )
        self.latents = kinds.pop()
        self.ends = np.cumsum([len(source) for source in sources])
        parts = [source.counts for source in sources]
        sharded = any(isinstance(part, np.ndarray) for part in parts)
        self.counts = np.concatenate([np.atleast_1d(part) for part in parts]) if sharded else int(self.ends[-1])
        self.texts = sum(source.texts for source in sources)
        self.labels = sum(source.labels for source in sources)
        named = [source for source in sources if source.classes]
        given = [source.classes for source in named if not source.numbered_here]
        if named:
            self.number_like(given[0] or [] if given else sorted({n for source in named for n in source.classes or []}))

    def number_like(self, classes: Sequence[str]) -> None:
        for source in self.sources:
            source.number_like(classes)
        found = [source.classes for source in self.sources if source.classes]
        self.classes = list(classes) if found and all(names == list(classes) for names in found) else None

    def lacks(self, field: str) -> str:
        return next((found for source in self.sources if (found := source.lacks(field))), "")

    def __getitem__(self, index: int) -> Sample:
        """Sample `index` of the concatenated sources."""
        source, own = self._locate(index)
        return source[own]

    def place(self, index: int) -> str | None:
        source, own = self._locate(index)
        return source.place(own)

    def _locate(self, index: int) -> tuple[Source, int]:
        """The source of a sample, and its number there."""
        index = range(len(self))[index]
        j = int(np.searchsorted(self.ends, index, side="right"))
        return self.sources[j], index - int(self.ends[j]) + len(self.sources[j])

    def sizes(self) -> np.ndarray | None:
        """Of the concatenated sources; None if one of them does not know its own."""
        parts = [sizes for source in self.sources if (sizes := source.sizes()) is not None]
        return np.concatenate(parts) if len(parts) == len(self.sources) else None

    def order(self, seed: int, lanes: int) -> "MixedOrder":
        """The weighted order; each source's own order is seeded by its position in the list."""
        strip = self.strip or max(d for d in range(1, lanes + 1) if lanes % d == 0 and d * d <= lanes)
        return MixedOrder([s.order(mix(seed, j), lanes) for j, s in enumerate(self.sources)], self.weights, strip)

    def state(self) -> dict:
        """Lengths, weights and states of the sources, and the strip."""
        shares = {"lengths": [len(s) for s in self.sources], "weights": [float(w) for w in self.weights]}
        return {**shares, "strip": self.strip, "sources": [s.state() for s in self.sources]}


class MixedOrder:
    """Maps the global number n of a sample to (epoch of its source, index in the mixture).

    Strips of `strip` numbers are assigned to the sources by bisection: of the first x strips, floor(x a / (a + b)) go
    to the first half of the sources, whose weights sum to a, and the rest to the second half; each half is divided the
    same way. So the number of samples of each source before n is arithmetic, exact for any weights.

    Args:
        orders: of the sources.
        weights: of the sources.
        strip: the number of consecutive sample numbers from one source.
    """

    def __init__(self, orders: Sequence[SampleOrder], weights: Sequence[float], strip: int = 1) -> None:
        if strip < 1:
            raise ValueError(f"strip must be 1 or more, not {strip}")
        self.orders, self.strip = list(orders), strip
        self.starts = np.concatenate([[0], np.cumsum([len(order) for order in orders])])
        self.sums = [Fraction(0)]  # of the weights in decimal notation: 0.1 is exactly a tenth
        for weight in weights:
            self.sums.append(self.sums[-1] + Fraction(str(weight)))

    def __len__(self) -> int:
        """Total samples of all sources."""
        return int(self.starts[-1])

    def __call__(self, n: int) -> tuple[int, int]:
        """(epoch of the source, index in the mixture) of number n."""
        source, before = self.place(n)
        epoch, index = self.orders[source](before)
        return epoch, int(self.starts[source]) + index

    def place(self, n: int) -> tuple[int, int]:
        """(source of number n, how many samples of that source precede it)."""
        strip, inside = divmod(n, self.strip)
        first, last = 0, len(self.orders)
        while last - first > 1:
            middle = (first + last) // 2
            share = (self.sums[middle] - self.sums[first]) / (self.sums[last] - self.sums[first])
            left = strip * share.numerator // share.denominator
            if (strip + 1) * share.numerator // share.denominator > left:
                strip, last = left, middle
            else:
                strip, first = strip - left, middle
        return first, strip * self.strip + inside
