"""Refuses a stride that would change the motion of clips: shards at the cadence of training are read frame by frame."""

from datamodules.sources.source import Sample


def check_cadence(sample: Sample, stride: int) -> None:
    """ValueError if a sample was stored at the cadence of training, and only every `stride`-th frame would be taken."""
    if sample.cadence is None or stride == 1:
        return
    raise ValueError(
        f"{sample.name} is stored at {sample.cadence:g} frames a second (prepare.py --fps), and the recipe's stride "
        f"{stride} would take one of {stride} of those, which is other motion: set data.stride to 1, or prepare the "
        "videos without --fps"
    )
