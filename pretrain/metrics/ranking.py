"""Ranks from similarities: functions of tensors that retrieval, zero-shot and multiple choice are scored with.

Letters in shapes: Q queries, C candidates, n captions, V videos. Percentages are out of 100, in float64.
"""

import torch
from torch import Tensor

_ROWS = 1024  # queries looked at together, which bounds the memory


def ranks(sim: Tensor, right: Tensor) -> Tensor:
    """The place of the best right candidate of each query, from 1: int64 `[Q]`.

    Wrong candidates that are as similar stand before it, as does what is not a number: a model to which all is one is
    the worst, not the best. (The released evaluators leave equal ones to numpy's unstable sort, whose order of them is
    another on another processor.)

    Args:
        sim: similarities `[Q, C]`.
        right: True where a candidate is right, `[Q, C]`, once a row at least.

    Source of what is counted: InternVideo1 `Pretrain/ViCLIP/tasks/retrieval_utils.py: itm_eval`.
    """
    if not bool(right.any(dim=1).all()):
        raise ValueError(f"query {int(right.any(dim=1).logical_not().nonzero()[0])} has no right candidate")
    if len(sim) == 0:
        return torch.zeros(0, dtype=torch.long)
    return torch.cat([_ranks(s, r) for s, r in zip(sim.split(_ROWS), right.split(_ROWS), strict=True)])


def _ranks(sim: Tensor, right: Tensor) -> Tensor:
    best = sim.masked_fill(~right, -torch.inf).amax(dim=1, keepdim=True)
    return 1 + (~(sim < best) & ~right).sum(dim=1)


def within(found: Tensor, k: int) -> Tensor:
    """Percentage of ranks `[Q]` that are k or better."""
    return 100 * (found <= k).double().mean()


def recalls(found: Tensor) -> dict[str, Tensor]:
    """R1, R5, R10 (percentages of ranks `[Q]`), the median rank MdR (of two middle ones the mean), and the mean MnR."""
    at = {f"R{k}": within(found, k) for k in (1, 5, 10)}
    return {**at, "MdR": found.double().quantile(0.5), "MnR": found.double().mean()}


def dual_softmax(sim: Tensor) -> Tensor:
    """Similarities `[Q, C]` times their softmax over the queries, without a temperature.

    It looks at all queries at once: a figure so made is not that of a model which answers one query at a time.

    Source: InternVideo1 `Pretrain/ViCLIP/tasks/retrieval_utils.py: evaluation_video_clip`.
    """
    return sim * sim.softmax(dim=0)


def top(sim: Tensor, k: int) -> Tensor:
    """Indices of the k most similar candidates of each query `[Q, k]`; of equal ones the earlier column."""
    return sim.sort(dim=1, descending=True, stable=True).indices[:, : min(k, sim.shape[1])]


def rerank(sim: Tensor, scores: Tensor, k: int) -> Tensor:
    """The k most similar candidates of each query in order of `scores`, the others below in order of similarity.

    UMT gives the others one value, -100, and so leaves their order to its sort: its recall at more than k is chance.

    Args:
        sim, scores: `[Q, C]`; of `scores` only the places in question matter.

    Source: UMT `multi_modality/tasks/retrieval_utils.py: evaluation`.
    """
    chosen = top(sim, k)
    kept = scores.double().gather(1, chosen)
    below = sim.double() - sim.double().amax() + kept.amin() - 1
    return below.scatter(1, chosen, kept)


def by_video(sim: Tensor, right: Tensor) -> Tensor:
    """Of similarities `[Q, n]` to captions, each video's best `[Q, V]`, as CLIP4Clip takes several sentences a video.

    Args:
        right: True where a caption is of a video, `[n, V]`.
    """
    videos = right.unbind(dim=1)
    return torch.stack([sim[:, own].amax(dim=1) for own in videos], dim=1)
