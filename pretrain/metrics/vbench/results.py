"""The results of a run: VBench's own files, and a table with both means, an interval, and what was not scored."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.storage.whole_files import whole_file
from pretrain.metrics.vbench.plan import Job, Plan
from pretrain.metrics.vbench.run import Scores
from pretrain.metrics.vbench.scoring import OVER_UNITS, means
from pretrain.metrics.vbench.totals import totals
from pretrain.metrics.vbench.video_score import VideoScore

DRAWS = 1000  # of the bootstrap


def interval(rows: list[tuple[Job, VideoScore]], dimension: str, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the official score over prompts; NaN with fewer than two prompts."""
    sums: dict[str, np.ndarray] = {}
    for job, score in rows:
        if score.count:
            own = (score.total, score.count) if dimension in OVER_UNITS else (score.value, 1)
            sums[job.prompt] = sums.get(job.prompt, np.zeros(2)) + np.array(own, dtype=np.float64)
    if len(sums) < 2:
        return math.nan, math.nan
    table = np.stack(list(sums.values()))
    drawn = np.random.default_rng(seed).multinomial(len(table), np.full(len(table), 1 / len(table)), size=DRAWS) @ table
    low, high = np.quantile(drawn[:, 0] / drawn[:, 1], (0.025, 0.975))
    return float(low), float(high)


def eval_results(scores: Scores) -> dict[str, list[Any]]:
    """VBench's `*_eval_results.json`; a dimension that scored no video is left out, since VBench would read it as 0."""
    found = {}
    for dimension, rows in scores.items():
        score = means(score for _, score in rows).official(dimension)
        if not math.isnan(score):
            videos = [
                {"video_path": str(job.path), "video_results": own.value, **own.details}
                for job, own in rows
                if own.count
            ]
            found[dimension] = [score, videos]
    return found


def full_info(plan: Plan) -> list[dict[str, Any]]:
    """VBench's `*_full_info.json`: the prompts with their videos."""
    entries: dict[str, dict[str, Any]] = {}
    for job in plan.jobs:
        entry = entries.setdefault(job.prompt, {"prompt_en": job.prompt, "dimension": list(job.dimensions)})
        if job.auxiliary:
            entry["auxiliary_info"] = job.auxiliary
        entry.setdefault("video_list", []).append(str(job.path))
    return list(entries.values())


def as_markdown(scores: Scores, labels: list[str]) -> str:
    """The table in percent. `labels`: what sets the run apart from the official protocol, a line each."""
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
            f"| {dimension} | {_percent(raw[dimension])} | {spread} | {_percent(both.videos)} | {both.scored} | "
            f"{both.missing} |"
        )
        reasons += [f"- {dimension}: {score.reason}" for _, score in rows if score.reason]
    for name, total in totals(raw).items():
        lack = f"partial: without {', '.join(total.missing)}" if total.partial else ""
        lines.append(f"| **{name}** {lack}".rstrip() + f" | {_percent(total.value)} | | | | |")
    return "\n".join([*lines, *(["", "Not scored:", "", *reasons] if reasons else [])]) + "\n"


def _percent(value: float) -> str:
    return "not scored" if math.isnan(value) else f"{100 * value:.2f}"


def write_results(folder: str | Path, name: str, plan: Plan, scores: Scores, labels: list[str]) -> Path:
    """Write NAME_eval_results.json, NAME_full_info.json and NAME.md; returns the path of the last."""
    folder = Path(folder)
    for suffix, content in (("eval_results", eval_results(scores)), ("full_info", full_info(plan))):
        with whole_file(folder / f"{name}_{suffix}.json") as file:
            json.dump(content, file, indent=4)
    with whole_file(folder / f"{name}.md") as file:
        file.write(f"# {name}\n\n{as_markdown(scores, labels)}")
    return folder / f"{name}.md"
