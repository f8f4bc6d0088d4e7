"""The records of the study as tables and pictures of curves."""

import statistics
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.storage.whole_files import write_whole
from pretrain.plots.bars import figure_to_array
from pretrain.plots.contact_sheet import write_png
from pretrain.studies.quality.methods import METHODS
from pretrain.studies.quality.study import PROBES, SHARES, Record
from pretrain.studies.quality.videos import VIDEOS

PROTOCOLS = (*PROBES, "fine-tuned")
Values = dict[
    tuple[str, str, str, float], dict[int, dict[int, float]]
]  # (run, task, protocol, share): by step and seed


def write_results(folder: Path, saved: dict[str, Any]) -> str:
    """Writes `quality.md` and one picture of curves for each protocol; returns the tables."""
    values = collect(saved["records"])
    text = as_markdown(values, saved["data"])
    write_whole(folder / "quality.md", text + "\n")
    for protocol in PROBES:
        write_png(folder / f"quality_{saved['data']}_{protocol}.png", picture(values, saved["data"], protocol))
    return text


def collect(records: Iterable[Record]) -> Values:
    """Percent right by run, task, protocol, share, step and seed."""
    values: Values = defaultdict(lambda: defaultdict(dict))
    for record in records:
        for task, accuracy in record["accuracy"].items():
            key = record["method"], task, record["protocol"], record["share"]
            values[key][record["step"]][record["seed"]] = accuracy
    return values


def as_markdown(values: Values, data: str) -> str:
    """For each task a table: a row for each run and step, a column for each protocol and share of labels; of several
    seeds mean and standard deviation, and in brackets their number."""
    parts = []
    for task in VIDEOS[data].tasks:
        columns = [(p, s) for p in PROTOCOLS for s in SHARES if any(k[1:] == (task, p, s) for k in values)]
        rows = sorted({(row_order(k[0]), step) for k in values if k[1] == task for step in values[k]})
        if not rows:
            continue
        parts += [f"### {task} (chance {VIDEOS[data].chance(task):.1f})", ""]
        head = ["method", "steps", *(f"{p}, {s:.0%}" for p, s in columns)]
        parts += [f"| {' | '.join(head)} |", f"|---|---:|{'---:|' * len(columns)}"]
        for (_, run), step in rows:
            cells = [_cell([*values.get((run, task, p, s), {}).get(step, {}).values()]) for p, s in columns]
            parts.append(f"| {title(run)} | {step} | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts).rstrip()


def title(run: str) -> str:
    """The title of a run's method, and the labels that it is trained with."""
    name, _, label = run.partition("-")
    return METHODS[name].title + (f" ({label})" if label else "")


def row_order(run: str) -> tuple[int, str]:
    """The key by which runs are sorted: that of their methods in `METHODS`."""
    return list(METHODS).index(run.partition("-")[0]), run


def _cell(found: list[float]) -> str:
    if len(found) < 2:
        return f"{found[0]:.1f}" if found else ""
    return f"{statistics.mean(found):.1f} ± {statistics.stdev(found):.1f} ({len(found)})"


def picture(values: Values, data: str, protocol: str) -> np.ndarray:
    """uint8 `[H, W, 3]`: a panel for each task and share of labels, a curve over steps for each run."""
    from matplotlib.figure import Figure

    tasks = list(VIDEOS[data].tasks)
    figure = Figure((10, 2.4 * len(tasks) + 0.8), dpi=100, layout="constrained")
    panels = figure.subplots(len(tasks), len(SHARES), sharex=True, sharey="row", squeeze=False)
    runs = sorted({key[0] for key in values}, key=row_order)
    for row, task in zip(panels, tasks, strict=True):
        for panel, share in zip(row, SHARES, strict=True):
            panel.axhline(VIDEOS[data].chance(task), color="grey", linewidth=0.8, linestyle=":")
            panel.set_title(f"{task}, {share:.0%} of labels", fontsize=9)
            panel.tick_params(labelsize=8)
            for number, run in enumerate(runs):
                steps = sorted(values.get((run, task, protocol, share), {}))
                means = [statistics.mean(values[run, task, protocol, share][step].values()) for step in steps]
                if steps == [0]:  # a model that is not trained here has no curve
                    panel.axhline(means[0], color=f"C{number}", linewidth=1, linestyle="--", label=title(run))
                elif steps:
                    panel.plot(steps, means, color=f"C{number}", marker=".", label=title(run))
        row[0].set_ylabel("% right", fontsize=8)
    for panel in panels[-1]:
        panel.set_xlabel("pretraining steps", fontsize=8)
    lines = {line.get_label(): line for panel in panels.flat for line in panel.get_legend_handles_labels()[0]}
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    return figure_to_array(figure)
