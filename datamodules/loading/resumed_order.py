"""The settings that determine the order of training samples, in a checkpoint and of the run that resumes from it."""

import logging

from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules.loading.sample_names import changed_names, joined_names
from datamodules.sources.source import Source

log = logging.getLogger(__name__)
_LATER = {"buckets": [], "packs": None}  # settings that older checkpoints lack, as they had them


def check_order(before: dict, now: dict, train: Source) -> None:
    """Compares the order of a checkpoint with that of this run; a warning names exchanged videos.

    Args:
        before: settings of the checkpoint, with `names` of its training samples where they are known.
        now: settings of this run.
        train: its training samples.

    Raises:
        MisconfigurationException: the order is another one, in which samples would be lost or repeated.
    """
    changed, before = changed_names(before.get("names"), joined_names(train)), {**_LATER, **before}
    other = [f"{key} {before[key]}, now {now[key]}" for key in now if before.get(key, now[key]) != now[key]]
    if changed and not other:
        log.warning("as many training videos as before, but others, which take the places of the old: %s", changed)
    if other:
        videos = f" ({changed})" if changed else ""
        raise MisconfigurationException(
            f"The checkpoint was trained with {'; '.join(other)}{videos}: its order of samples cannot continue. "
            "Restore these settings to resume, or start a new run from its weights (without --ckpt_path)."
        )
