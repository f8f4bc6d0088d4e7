"""Ranks from similarities: the functions of tensors behind retrieval, zero-shot and multiple choice.

Letters in shapes: Q queries, C candidates, n captions, V videos. Percentages are out of 100, in float64.
"""

import torch
from torch import Tensor

_ROWS = 1024  # queries ranked at a time, which bounds the memory


def ranks(sim: Tensor, right: Tensor) -> Tensor:
    """The rank of the best correct candidate of each query, from 1: int64 `[Q]`.

    Wrong candidates of equal or NaN similarity rank before it: a model that returns a constant is the worst, not the
    best. (The released evaluators leave ties to numpy's unstable sort, whose order depends on the processor.)

    Args:
        sim: similarities `[Q, C]`.
        right: True where a candidate is correct, `[Q, C]`, at least once in a row.

    Source of the definition: InternVideo1 `Pretrain/ViCLIP/tasks/retrieval_utils.py: itm_eval`.
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
    """Of ranks `[Q]`: R1, R5 and R10 in percent, the median MdR (of an even number the mean of the middle two), and the
    mean MnR."""
    at = {f"R{k}": within(found, k) for k in (1, 5, 10)}
    return {**at, "MdR": found.double().quantile(0.5), "MnR": found.double().mean()}


def dual_softmax(sim: Tensor) -> Tensor:
    """Similarities `[Q, C]` times their softmax over the queries, without a temperature.

    It uses all queries of the test set at once: the result is not that of a model that answers one query at a time.

    Source: InternVideo1 `Pretrain/ViCLIP/tasks/retrieval_utils.py: evaluation_video_clip`.
    """
    return sim * sim.softmax(dim=0)


def top_k(sim: Tensor, k: int) -> Tensor:
    """Indices of the k most similar candidates of each query `[Q, k]`; in a tie the earlier column."""
    return sim.sort(dim=1, descending=True, stable=True).indices[:, : min(k, sim.shape[1])]


def rerank(sim: Tensor, scores: Tensor, k: int) -> Tensor:
    """Values `[Q, C]` that rank the k most similar candidates of a query by `scores`, the others below by similarity.

    UMT gives the others one value, -100, and so leaves their order to its sort: its recall beyond k is chance.

    Args:
        sim, scores: `[Q, C]`; `scores` is read only at those k candidates.

    Source: UMT `multi_modality/tasks/retrieval_utils.py: evaluation`.
    """
    chosen = top_k(sim, k)
    best = scores.double().gather(1, chosen)
    below = sim.double() - sim.double().amax() + best.amin() - 1
    return below.scatter(1, chosen, best)


def by_video(sim: Tensor, right: Tensor) -> Tensor:
    """Similarity of each video's best caption, `[Q, V]` from `[Q, n]`: CLIP4Clip's rule for several captions a video.

    Args:
        right: True where a caption belongs to a video, `[n, V]`.
    """
    videos = right.unbind(dim=1)
    return torch.stack([sim[:, own].amax(dim=1) for own in videos], dim=1)
