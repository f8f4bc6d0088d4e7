"""InternVid's subsets: rules that select clips of a manifest, as functions of arrays.

Sources: InternVid (arXiv 2307.06942), section 3 and appendix; InternVideo repository, Data/InternVid/div_sampling.py.
All return indices in increasing order, except `diverse`, which returns them in the order of the draw.
"""

import os
from collections.abc import Sequence

import numpy as np

PAIRS = 10_647_458  # clips of each published 10M subset: the number of usable pairs in WebVid10M
_ID = 11  # characters of a YouTube id; the official names of clips start with it


def source_of(clip: str) -> str:
    """The video of a clip, from the clip's name: `dir/ZLJxcAee1aS_0_5.mp4` -> `ZLJxcAee1aS`."""
    return os.path.basename(clip)[:_ID]


def diverse(sources: Sequence[str] | np.ndarray, count: int, seed: int = 42) -> np.ndarray:
    """DIV: `count` clips drawn without replacement; the weight of a clip is 1 / (number of clips of its video).

    Same draws as the official script. (The paper describes it differently: first one clip of each video, then with
    probabilities that fall with the length of the video.)
    """
    _, inverse, clips = np.unique(np.asarray(sources), return_inverse=True, return_counts=True)
    if count > len(inverse):
        raise ValueError(f"{count} clips are requested of {len(inverse)}: request fewer, or select from more")
    weights = 1 / clips[inverse]
    chances = weights / np.sum(weights)
    return np.random.RandomState(seed).choice(len(inverse), count, replace=False, p=chances)


def within_seconds(seconds: np.ndarray, least: float, most: float) -> np.ndarray:
    """Clips of `least` to `most` seconds, both included; FLT's authors first kept 1 to 120 (InternVid's issue 91)."""
    return np.flatnonzero((seconds >= least) & (seconds <= most))


def top_share(scores: np.ndarray, share: float) -> np.ndarray:
    """First step of FLT: the `share` (0.3 there) of clips with the highest scores; ties go to the earlier clip."""
    if not 0 < share <= 1:
        raise ValueError(f"a share is more than 0 and at most 1, not {share}")
    return np.sort(np.argsort(-scores, kind="stable")[: round(len(scores) * share)])


def at_least(scores: np.ndarray, least: float) -> np.ndarray:
    """AES: clips with a score of at least `least` (4 for aesthetics)."""
    return np.flatnonzero(scores >= least)
