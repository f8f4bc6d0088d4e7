"""A stand-in for a text-video model without weights, batches for it, and metrics over gloo processes."""

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from tests.helpers.ranks import in_ranks

WIDTH = 16


def vector(text: str) -> Tensor:
    """A unit vector that depends on the text alone, `[D]`."""
    seed = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "little")
    return F.normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)), dim=0)


class HashedTexts(nn.Module):
    """A text's feature is a hash of its letters; its matching score with a video is the cosine with the mean token.

    Cosines are computed in rotated coordinates, which changes only rounding. `text_counts` records how many texts each
    call encoded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.text_counts: list[int] = []
        self.turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(5)))[0]

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.text_counts.append(len(texts))
        return torch.stack([vector(text) for text in texts])

    def match(self, tokens: Tensor, texts: Sequence[str]) -> Tensor:
        return ((tokens.mean(dim=1) @ self.turn) * (self.encode_text(texts) @ self.turn.t())).sum(dim=1)


def batches(outputs: dict[str, Tensor], batch: dict, sizes: Sequence[int], views: int = 1) -> list[tuple[dict, dict]]:
    """Rows of `views` x M videos, views outermost, split into batches of the given sizes, as a loader does."""
    videos, start, cut = len(batch["name"]) // views, 0, []
    for size in sizes:
        rows = [view * videos + i for view in range(views) for i in range(start, min(start + size, videos))]
        take = lambda value, rows=rows: value[rows] if isinstance(value, Tensor) else [value[i] for i in rows]  # noqa: E731
        cut.append(tuple({key: take(value) for key, value in part.items()} for part in (outputs, batch)))
        start += size
    assert start >= videos
    return cut


def evaluate(metric: Callable, cut: list[tuple[dict, dict]], model: nn.Module | None = None):
    """The metric after all batches, and its result as a dict."""
    made, model = metric(), model or HashedTexts()
    if hasattr(made, "attach"):
        made.attach(model)
    for outputs, batch in cut:
        made.update(outputs, batch)
    found = made.compute()
    return made, found if isinstance(found, dict) else {"": found}


def over_ranks(jobs: list[tuple[Callable, list]]) -> list[list[dict[str, Tensor]]]:
    """The results of each metric on each rank; rank i gets the i-th share of the batches."""
    world = len(jobs[0][1])
    with tempfile.TemporaryDirectory() as folder:
        in_ranks(_rank, jobs, folder, world=world)
        said = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world)]
    return [list(each) for each in zip(*said, strict=True)]


def _rank(rank: int, jobs: list, folder: str) -> None:
    dist.init_process_group("gloo")
    torch.save([evaluate(metric, shares[rank])[1] for metric, shares in jobs], Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
