"""Checks of a data module's arguments: numbers in their range, and options that exclude each other."""

from collections.abc import Iterable

from datamodules.clips.eval_views import EvalView, Squash
from datamodules.sources.source import Source


def check_numbers(**numbers: int | None) -> None:
    """ValueError names a number that is below 1."""
    for name, value in numbers.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be 1 or more, not {value}")


def check_passes(passes: float | None) -> None:
    """ValueError if a run would have no pass over its videos."""
    if passes is not None and not passes > 0:
        raise ValueError(f"passes must be above 0, not {passes}")


def check_crops(view: EvalView | None, test_crops: int) -> None:
    """ValueError if several views are wanted of a picture that `view` makes as a whole."""
    if isinstance(view, Squash) and test_crops != 1:
        raise ValueError(f"Squash makes one view, of the whole picture: test_crops must be 1, not {test_crops}")


def check_set_names(names: Iterable[str]) -> None:
    """ValueError if the name of a validation set cannot be a part of those of logged figures."""
    if any("/" in name for name in names):
        raise ValueError(f"val_sets: a name is a part of those of logged figures, without a slash: {list(names)}")


def check_together(
    views: int,
    buckets: list[list[float]] | None,
    images: Source | None,
    train: Source | None,
    pack_steps: int | None,
    micro_batch: int | None,
) -> None:
    """ValueError if these arguments of `VideoData` exclude each other."""
    if images is not None and (buckets is not None or views > 1 or (train is not None and train.latents)):
        raise ValueError("images go with videos of one size in one view: omit buckets, views and latents")
    if pack_steps is None:
        return
    if buckets is not None or images is not None or views > 1:
        raise ValueError("pack_steps goes with clips of one size in one view: omit buckets, images and views")
    if micro_batch is None:
        raise ValueError("pack_steps needs micro_batch, the conversations of a pack: else they depend on the devices")
