"""Refuses checkpoints that lack more, or have more too much, than is allowed by patterns of names."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Protocol


class _Report(Protocol):
    source: str
    unused: list[str]
    missing: list[str]


def require_loaded(report: _Report, missing: Sequence[str] = (), unused: Sequence[str] = ()) -> None:
    """A ValueError if a checkpoint lacks weights of the model, or has weights too many, beyond these patterns.

    Args:
        report: of `load_weights`.
        missing, unused: patterns of names that may be missing in the checkpoint (ours), or unused (the checkpoint's);
            a file of VideoChat2's second stage lacks `llm.*`.
    """
    _require(report.source, "lacks", report.missing, missing)
    _require(report.source, "has, and the model does not,", report.unused, unused)


def require_all(
    reports: Sequence[_Report], missing: Sequence[str] | None = None, unused: Sequence[str] | None = None
) -> None:
    """As `require_loaded` for checkpoints that are loaded one after another: only what all of them lack is missing.

    Args:
        missing, unused: see `require_loaded`; None: any.
    """
    if not reports:
        return
    if missing is not None:
        lacking = [name for name in reports[0].missing if all(name in report.missing for report in reports)]
        _require(" and ".join(report.source for report in reports), "lacks", lacking, missing)
    for report in reports if unused is not None else ():
        _require(report.source, "has, and the model does not,", report.unused, unused or ())


def _require(source: str, what: str, names: Sequence[str], allowed: Sequence[str]) -> None:
    left = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in allowed)]
    if left:
        raise ValueError(
            f"the checkpoint ({source}) {what} {left[0]} and {len(left) - 1} more tensors, and only "
            f"{', '.join(allowed) or 'none'} may be: load the earlier stage first, set the model's parts to the "
            "checkpoint's, or allow these names"
        )
