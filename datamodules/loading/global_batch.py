"""How the samples of an optimiser step are divided among ranks and micro-batches."""

from dataclasses import dataclass

from datamodules.sources.order import slots


@dataclass(frozen=True)
class GlobalBatch:
    """A global batch, as one rank sees it: `world` ranks make `accumulate` micro-batches of `micro` samples each.

    Args:
        rank: this one.
        world: number of ranks.
        micro: samples of a micro-batch.
        accumulate: micro-batches of a rank in an optimiser step.
    """

    rank: int
    world: int
    micro: int
    accumulate: int

    def numbers(self, index: int) -> range:
        """Global numbers of the samples of this rank's micro-batch `index` since the start of the run."""
        return slots(index, self.rank, self.world, self.micro, self.accumulate)

    def micro_batches(self, samples: int) -> int:
        """Micro-batches of a rank in which so many samples fit."""
        return -(-samples // (self.world * self.micro))
