"""Result files of VBench read back: ours and those of the official tool have one form."""

import json
import math
from pathlib import Path
from typing import Any

from pretrain.metrics.vbench.prompts import prompt_of
from pretrain.metrics.vbench.totals import DIMENSIONS, totals

# By dimension and prompt, the scores of the prompt's videos, as fractions.
ByPrompt = dict[str, dict[str, list[float]]]


def read_json(path: str | Path) -> dict[str, Any]:
    """An object of a JSON file; ValueError or FileNotFoundError with the path."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no results at {path}: give a NAME_eval_results.json")
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds no object of dimensions")
    return found


def read_by_prompt(path: str | Path) -> ByPrompt:
    """The scores of single videos in a `*_eval_results.json`; the prompt is in the name of each video.

    Imaging quality is there from 0 to 100, and dynamic degree true or false.
    """
    found: ByPrompt = {}
    for dimension, entry in read_json(path).items():
        if dimension not in DIMENSIONS or not isinstance(entry, list) or len(entry) < 2:
            raise ValueError(f"{path}: {dimension!r} is no dimension with a score and a list of videos")
        prompts: dict[str, list[float]] = {}
        for row in entry[1]:
            value = float(row["video_results"]) / (100 if dimension == "imaging_quality" else 1)
            prompts.setdefault(prompt_of(row["video_path"]), []).append(value)
        found[dimension] = prompts
    return found


def read_scores(path: str | Path) -> dict[str, float]:
    """Scores by dimension, and totals, as fractions.

    Args:
        path: a `*_eval_results.json`, or an object of names and numbers as tables print them, in percent if one of them
            is over 1. Names may be written with spaces and capitals.

    Raises:
        ValueError: a name that is no dimension and no total.
    """
    raw = {name.lower().replace(" ", "_").removesuffix("_score"): v for name, v in read_json(path).items()}
    values = {name: float(v[0] if isinstance(v, list) else v) for name, v in raw.items()}
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
