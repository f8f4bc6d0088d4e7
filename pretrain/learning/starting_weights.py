"""The checkpoints that a run starts from, each for a part of the model."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Literal

from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn

from models import load_weights
from models.convert.allowed_gaps import require_all
from models.convert.read import read_tensors


def load_starting_weights(
    model: nn.Module,
    paths: str | Sequence[str] | None,
    head_rows: list[int] | Literal["none"] | None = None,
    skips: Sequence[str] = (),
    may_lack: list[str] | None = None,
    may_leave: list[str] | None = None,
) -> None:
    """Loads the weights and reports what each file did not fill or is not used.

    Args:
        paths: of the files, in this order; None: none.
        head_rows: rows of a classification head to load, see `load_weights`.
        skips: patterns of names in the files that are not read.
        may_lack: patterns of our names that the files may lack together; None: any.
        may_leave: patterns of their names that they may have too much; None: any.

    Raises:
        ValueError: a file lacks more, or has more, than is allowed.
    """
    reports = []
    for path in [paths] if isinstance(paths, str) else paths or []:
        reports.append(load_weights(model, _taken(path, skips), head_rows))
        rank_zero_info(f"{path}: {reports[-1]}")
    if may_lack is not None or may_leave is not None:
        require_all(reports, may_lack, may_leave)


def _taken(path: str, skips: Sequence[str]) -> str | dict[str, Tensor]:
    """The file itself, or its tensors without those that `skips` names."""
    if not skips:
        return path
    tensors = read_tensors(path)
    taken = {n: t for n, t in tensors.items() if not any(fnmatchcase(n, pattern) for pattern in skips)}
    rank_zero_info(f"{path}: {len(tensors) - len(taken)} tensors are skipped: {', '.join(skips)}")
    return taken
