"""The names of the training videos in a checkpoint, so that a resumed run can say which of them changed."""

from collections.abc import Sequence

from datamodules.sources.source import Source

_MOST = 20_000  # names in a checkpoint: about a megabyte
_SHOWN = 5
_BETWEEN = "\0"  # no file name has it


def joined_names(source: Source) -> str | None:
    """The names of all samples in one string; None: the source knows none without reading, or has too many."""
    names: Sequence[str] | None = getattr(source, "names", None)  # of shards, these are others
    if names is None or len(names) != len(source) or len(source) > _MOST:
        return None
    return _BETWEEN.join(names[i] for i in range(len(source)))


def changed_names(before: str | None, now: str | None) -> str:
    """What changed between two results of `joined_names`; "" for nothing, or if either is unknown."""
    if before is None or now is None or before == now:
        return ""
    old, new = before.split(_BETWEEN), now.split(_BETWEEN)
    gone, come = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    parts = [f"{what}: {_listed(names)}" for what, names in (("not there any more", gone), ("new", come)) if names]
    return "; ".join(parts) or "the same videos in another order"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
