"""Which clips of a manifest make InternVid's subsets: rules as functions of arrays.

Sources: InternVid (arXiv 2307.06942), section 3 and appendix; InternVideo repository, Data/InternVid/div_sampling.py.
All give indices in rising order but `diverse`, which gives them as drawn.
"""

import os
from collections.abc import Sequence

import numpy as np

PAIRS = 10_647_458  # of each published 10M set: as many as WebVid10M has usable pairs
_ID = 11  # characters of a YouTube id, with which the official names of clips begin


def source_of(clip: str) -> str:
    """The video that a clip comes from, by its name: `dir/ZLJxcAee1aS_0_5.mp4` -> `ZLJxcAee1aS`."""
    return os.path.basename(clip)[:_ID]


def diverse(sources: Sequence[str] | np.ndarray, count: int, seed: int = 42) -> np.ndarray:
    """DIV: `count` clips drawn without replacement, each with a weight of one over the clips that share its source.

    As the official script draws, number for number. (The paper words it as one clip of each video first, then
    chances that fall with the length of the video.)
    """
    _, inverse, clips = np.unique(np.asarray(sources), return_inverse=True, return_counts=True)
    if count > len(inverse):
        raise ValueError(f"{count} clips are asked of {len(inverse)}: ask for fewer, or select from more")
    weights = 1 / clips[inverse]
    chances = weights / np.sum(weights)
    return np.random.RandomState(seed).choice(len(inverse), count, replace=False, p=chances)


def within_seconds(seconds: np.ndarray, least: float, most: float) -> np.ndarray:
    """Clips of `least` to `most` seconds, both included; the makers of FLT first kept 1 to 120 (their issue 91)."""
    return np.flatnonzero((seconds >= least) & (seconds <= most))


def top_share(scores: np.ndarray, share: float) -> np.ndarray:
    """FLT's first half: the `share` (0.3 there) with the highest scores, of equal ones the earlier."""
    if not 0 < share <= 1:
        raise ValueError(f"a share is more than 0 and at most 1, not {share}")
    return np.sort(np.argsort(-scores, kind="stable")[: round(len(scores) * share)])


def at_least(scores: np.ndarray, least: float) -> np.ndarray:
    """AES: a score of `least` (4 for aesthetics) or better."""
    return np.flatnonzero(scores >= least)
