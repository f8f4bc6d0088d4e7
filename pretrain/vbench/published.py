"""Result files of VBench read back: ours and those of the official tool have one form."""

import math
from pathlib import Path
from typing import Any

from pretrain.metrics.vbench.prompts import prompt_of, read_json_file
from pretrain.metrics.vbench.results import RANDOM
from pretrain.metrics.vbench.totals import DIMENSIONS, totals

# By dimension and prompt, the scores of the prompt's videos, as fractions.
ByPrompt = dict[str, dict[str, list[float]]]


def read_json(path: str | Path) -> dict[str, Any]:
    """An object of a JSON file; ValueError or FileNotFoundError with the path."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no results at {path}: give a NAME_eval_results.json")
    found = read_json_file(path)
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no object of dimensions")
    return found


def read_by_prompt(path: str | Path) -> ByPrompt:
    """The scores of single videos in a `*_eval_results.json`; the prompt is in the name of each video.

    Imaging quality is there from 0 to 100, and dynamic degree true or false.
    """
    found: ByPrompt = {}
    for dimension, entry in read_json(path).items():
        known = dimension in DIMENSIONS and isinstance(entry, list) and len(entry) >= 2
        if not known or not isinstance(entry[1], list):
            raise ValueError(f"{path}: {dimension!r} is no dimension with a score and a list of videos")
        prompts: dict[str, list[float]] = {}
        for row in entry[1]:
            try:
                value = float(row["video_results"]) / (100 if dimension == "imaging_quality" else 1)
                prompts.setdefault(prompt_of(row["video_path"]), []).append(value)
            except (LookupError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}: a row of {dimension} needs a `video_path` and a number `video_results` ({error!r})"
                ) from None
        found[dimension] = prompts
    return found


def random_dimensions(path: str | Path) -> list[str]:
    """The dimensions of a `*_eval_results.json` of ours whose rows say that the weights were random."""
    return [
        name
        for name, entry in read_json(path).items()
        if isinstance(entry, list) and any(isinstance(row, dict) and row.get("weights") == RANDOM for row in entry[1])
    ]


def read_scores(path: str | Path) -> dict[str, float]:
    """Scores by dimension, and totals, as fractions.

    Args:
        path: a `*_eval_results.json`, or an object of names and numbers as tables print them, in percent if one of them
            is over 1. Names may be written with spaces and capitals.

    Raises:
        ValueError: a name that is no dimension and no total, or a value that is no number.
    """
    raw = {name.lower().replace(" ", "_").removesuffix("_score"): v for name, v in read_json(path).items()}
    try:
        values = {name: float(v[0] if isinstance(v, list) else v) for name, v in raw.items()}
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: a score is a number, or a list that begins with one ({error!r})") from None
    unknown = [name for name in values if name not in (*DIMENSIONS, "quality", "semantic", "total")]
    if unknown:
        raise ValueError(f"{path}: {unknown[0]!r} is no dimension of VBench and no total")
    scale = 100 if any(value > 1 for value in values.values()) else 1
    values = {name: value / scale for name, value in values.items()}
    own = totals({name: value for name, value in values.items() if name in DIMENSIONS})
    return {
        **{name: t.value for name, t in own.items() if not t.partial and not math.isnan(t.value)},
        **values,
    }
