"""The results of a run: VBench's own files, and a table with both means, an interval, and what was not scored."""

import json
import math
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from datamodules.storage.whole_files import whole_file
from pretrain.metrics.bootstrap import draw_counts, percentile_interval
from pretrain.metrics.vbench.plan import Job, Plan
from pretrain.metrics.vbench.run import Scores
from pretrain.metrics.vbench.scoring import OVER_UNITS, means
from pretrain.metrics.vbench.totals import totals
from pretrain.metrics.vbench.video_score import VideoScore

DRAWS = 1000  # of the bootstrap
RANDOM = "random: the score means nothing"


def labelled(dimension: str, random: Collection[str]) -> str:
    """The name of a dimension for people; `random`: the dimensions whose models have random weights."""
    return f"{dimension} (random weights)" if dimension in random else dimension


def interval(rows: list[tuple[Job, VideoScore]], dimension: str, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the official score over prompts; NaN with fewer than two prompts."""
    sums: dict[str, tuple[float, float]] = {}  # by prompt: of values, and their number
    for job, score in rows:
        if score.count:
            own = (score.total, score.count) if dimension in OVER_UNITS else (score.value, 1)
            old = sums.get(job.prompt, (0.0, 0.0))
            sums[job.prompt] = old[0] + own[0], old[1] + own[1]
    if len(sums) < 2:
        return math.nan, math.nan
    table = torch.tensor(list(sums.values()), dtype=torch.float64)
    drawn = draw_counts(len(table), DRAWS, torch.Generator().manual_seed(seed)) @ table
    return percentile_interval(drawn[:, 0] / drawn[:, 1])


def eval_results(scores: Scores, random: Collection[str] = ()) -> dict[str, list[Any]]:
    """VBench's `*_eval_results.json`; a dimension that scored no video is left out, since VBench would read it as 0.

    Args:
        random: dimensions whose models have random weights; each of their rows says so.
    """
    found = {}
    for dimension, rows in scores.items():
        label = {"weights": RANDOM} if dimension in random else {}
        score = means(score for _, score in rows).official(dimension)
        if not math.isnan(score):
            videos = [
                {"video_path": str(job.path), "video_results": own.value, **own.details, **label}
                for job, own in rows
                if own.count
            ]
            found[dimension] = [score, videos]
    return found


def full_info(plan: Plan, random: Collection[str] = ()) -> list[dict[str, Any]]:
    """VBench's `*_full_info.json`: the prompts with their videos, and which dimensions had `random` weights."""
    entries: dict[str, dict[str, Any]] = {}
    for job in plan.jobs:
        entry = entries.setdefault(job.prompt, {"prompt_en": job.prompt, "dimension": list(job.dimensions)})
        if job.auxiliary:
            entry["auxiliary_info"] = job.auxiliary
        if own := [name for name in job.dimensions if name in random]:
            entry["random_weights"] = own
        entry.setdefault("video_list", []).append(str(job.path))
    return list(entries.values())


def as_markdown(scores: Scores, labels: list[str], random: Collection[str] = ()) -> str:
    """The table in percent.

    Args:
        labels: what sets the run apart from the official protocol, a line each.
        random: dimensions whose models have random weights.
    """
    lines = [f"- {label}" for label in labels] + [""] * bool(labels)
    lines += ["| dimension | score | 95 % over prompts | mean over videos | videos | not scored |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    raw, reasons = {}, []
    for dimension, rows in scores.items():
        both = means(score for _, score in rows)
        raw[dimension] = both.official(dimension)
        low, high = interval(rows, dimension)
        spread = "" if math.isnan(low) else f"{100 * low:.2f} to {100 * high:.2f}"
        lines.append(
            f"| {labelled(dimension, random)} | {_percent(raw[dimension])} | {spread} | {_percent(both.videos)} | "
            f"{both.scored} | {both.missing} |"
        )
        reasons += [f"- {dimension}: {score.reason}" for _, score in rows if score.reason]
    for name, total in totals(raw).items():
        lack = "of random weights " if set(raw) & set(random) else ""
        lack += f"partial: without {', '.join(total.missing)}" if total.partial else ""
        lines.append(f"| **{name}** {lack}".rstrip() + f" | {_percent(total.value)} | | | | |")
    return "\n".join([*lines, *(["", "Not scored:", "", *reasons] if reasons else [])]) + "\n"


def summary(scores: Scores) -> dict[str, dict[str, float | int | None]]:
    """What the table says of each dimension, as fractions, with both means; None for what is not known."""
    found = {}
    for dimension, rows in scores.items():
        both, (low, high) = means(score for _, score in rows), interval(rows, dimension)
        values = {"score": both.official(dimension), "low": low, "high": high}
        values |= {"mean_over_units": both.units, "mean_over_videos": both.videos}
        known = {name: None if math.isnan(value) else value for name, value in values.items()}
        found[dimension] = {**known, "videos": both.scored, "not_scored": both.missing}
    return found


def _percent(value: float) -> str:
    return "not scored" if math.isnan(value) else f"{100 * value:.2f}"


def write_results(
    folder: str | Path, name: str, plan: Plan, scores: Scores, labels: list[str], random: Collection[str] = ()
) -> Path:
    """Write NAME_eval_results.json, NAME_full_info.json and NAME.md; returns the path of the last."""
    folder = Path(folder)
    for suffix, content in (("eval_results", eval_results(scores, random)), ("full_info", full_info(plan, random))):
        with whole_file(folder / f"{name}_{suffix}.json") as file:
            json.dump(content, file, indent=4)
    with whole_file(folder / f"{name}.md") as file:
        file.write(f"# {name}\n\n{as_markdown(scores, labels, random)}")
    return folder / f"{name}.md"
