"""How VBench's scores agree with one's own human votes: pairs, win ratios and their rank correlation.

A vote compares the videos of two models for one prompt: 1 if the first is better, 0 if the second is, 0.5 if they are
equal. A model's win ratio is the mean over its comparisons (2311.17982, section 4). With few models a rank correlation
says little, so the share of pairs that agree stands beside it, each with a bootstrap interval over prompts.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from pretrain.metrics.bootstrap import draw_counts, percentile_interval
from pretrain.metrics.vbench.prompts import read_json_file
from pretrain.metrics.vbench.totals import DIMENSIONS
from pretrain.vbench.published import ByPrompt

DRAWS = 1000  # of the bootstrap


class Vote(NamedTuple):
    """A comparison of two models; `value`: 1, 0.5 or 0 for the first."""

    dimension: str
    prompt: str
    first: str
    second: str
    value: float


def read_votes(path: str | Path) -> list[Vote]:
    """Votes from a JSON list of objects with `dimension`, `prompt`, `first`, `second` and `vote`.

    Raises:
        ValueError: an entry lacks one of them, or its vote is not 1, 0.5 or 0.
    """
    entries = read_json_file(Path(path))
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path} holds no list of votes")
    found = []
    for number, e in enumerate(entries):
        try:
            vote = Vote(e["dimension"], e["prompt"], e["first"], e["second"], float(e["vote"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}, entry {number}: needs dimension, prompt, first, second and vote ({error})"
            ) from None
        if not all(isinstance(text, str) for text in vote[:4]):
            raise ValueError(f"{path}, entry {number}: dimension, prompt, first and second are text")
        if vote.dimension not in DIMENSIONS or vote.value not in (0.0, 0.5, 1.0):
            raise ValueError(f"{path}, entry {number}: {vote.dimension!r} with the vote {vote.value}: 1, 0.5 or 0")
        found.append(vote)
    return found


def win_ratios(votes: Sequence[Vote]) -> dict[str, float]:
    """The mean over each model's comparisons."""
    wins: dict[str, list[float]] = {}
    for vote in votes:
        wins.setdefault(vote.first, []).append(vote.value)
        wins.setdefault(vote.second, []).append(1 - vote.value)
    return {model: float(np.mean(values)) for model, values in sorted(wins.items())}


def by_scores(votes: Sequence[Vote], results: Mapping[str, ByPrompt]) -> list[Vote]:
    """What the scores vote in the same comparisons.

    Raises:
        ValueError: a model without results, or a prompt that it was not scored on.
    """
    found = []
    for vote in votes:
        values = []
        for model in (vote.first, vote.second):
            if model not in results:
                raise ValueError(f"no results of {model!r}: give --results {model}=FILE")
            own = results[model].get(vote.dimension, {})
            if vote.prompt not in own:
                raise ValueError(f"{model} has no score of {vote.dimension} for the prompt {vote.prompt!r}")
            values.append(float(np.mean(own[vote.prompt])))
        found.append(vote._replace(value=0.5 + 0.5 * float(np.sign(values[0] - values[1]))))
    return found


def rank_correlation(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """Spearman's correlation of two win ratios; NaN if either is constant."""
    from scipy.stats import rankdata

    x, y = (rankdata([ratios[model] for model in sorted(a)]) for ratios in (a, b))
    x, y = x - x.mean(), y - y.mean()
    norm = math.sqrt(float((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / norm if norm else math.nan


def agreement(votes: Sequence[Vote], results: Mapping[str, ByPrompt], seed: int = 0) -> str:
    """A table by dimension: pairs that agree, and the rank correlation of win ratios, each with an interval."""
    lines = ["| dimension | votes | models | pairs that agree | rank correlation | win ratio: people, scores |"]
    lines += ["|---|---:|---:|---:|---:|---|"]
    for dimension in (name for name in DIMENSIONS if any(vote.dimension == name for vote in votes)):
        people = [vote for vote in votes if vote.dimension == dimension]
        scores = by_scores(people, results)
        pairs = list(zip(people, scores, strict=True))
        ours, theirs = win_ratios(people), win_ratios(scores)
        groups = [[pair for pair in pairs if pair[0].prompt == p] for p in sorted({vote.prompt for vote in people})]
        drawn = []
        draws = draw_counts(len(groups), DRAWS if len(groups) > 1 else 0, torch.Generator().manual_seed(seed))
        for times in draws.long().tolist():
            part = [pair for group, n in zip(groups, times, strict=True) for pair in group * n]
            a, b = win_ratios([pair[0] for pair in part]), win_ratios([pair[1] for pair in part])
            drawn.append((_share(part), rank_correlation(a, b)))
        table = torch.tensor(drawn, dtype=torch.float64).reshape(-1, 2)
        ratios = ", ".join(f"{model} {ours[model]:.2f} {theirs[model]:.2f}" for model in ours)
        lines.append(
            f"| {dimension} | {len(people)} | {len(ours)} | {_with(100 * _share(pairs), 100 * table[:, 0])} | "
            f"{_with(rank_correlation(ours, theirs), table[:, 1])} | {ratios} |"
        )
    return "\n".join(lines) + "\n"


def _share(pairs: Sequence[tuple[Vote, Vote]]) -> float:
    return float(np.mean([a.value == b.value for a, b in pairs]))


def _with(value: float, drawn: Tensor) -> str:
    text = "undefined" if math.isnan(value) else f"{value:.2f}"
    low, high = percentile_interval(drawn)
    return text if math.isnan(low) else f"{text} ({low:.2f} to {high:.2f})"
