"""The study of feature quality as a table, JSON and a picture."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.storage.whole_files import write_whole
from pretrain.plots.bars import figure_to_array
from pretrain.plots.contact_sheet import write_png
from pretrain.studies.quality import TASKS, Size

CHANCE = 25.0  # percent: four shapes and four directions, equally frequent
PROTOCOLS = ("linear", "k-NN", "fine-tuned", "as trained")  # a method has one of the last two
_COLOURS = dict(zip(PROTOCOLS, ("#285aaa", "#78afdc", "#e18228", "#5a5a5a"), strict=True))


def write_results(folder: Path, rows: list[dict[str, Any]], size: Size) -> str:
    """Writes `quality.md`, `quality.json` and `quality.png`; returns the table."""
    text = as_markdown(rows)
    write_whole(folder / "quality.md", text + "\n")
    results = {"chance": CHANCE, "size": asdict(size), "rows": rows}
    write_whole(folder / "quality.json", json.dumps(results, indent=1) + "\n")
    write_png(folder / "quality.png", picture(rows))
    return text


def as_markdown(rows: list[dict[str, Any]]) -> str:
    """A table with a row for each method; of repetitions, mean and standard deviation."""
    columns = [f"{task}: {protocol}" for task in TASKS for protocol in PROTOCOLS[:3]]
    head = ["method", "encoder", "learns from", *columns]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * 3}{'---:|' * (len(head) - 3)}"]
    for row in rows:
        learns_from = [part for part in ("pixels" if row["recipe"] else "", row["supervision"]) if part]
        cells = [row["title"], row["kind"], " and ".join(learns_from) or "nothing"]
        for task in TASKS:
            cells += [_cell(row[task].get(protocol, [])) for protocol in PROTOCOLS[:2]]
            last = "fine-tuned" if "fine-tuned" in row[task] else "as trained"
            cells.append(_cell(row[task].get(last, [])) + (" (all labels)" if row[task].get("as trained") else ""))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(accuracies: list[float]) -> str:
    if not accuracies:
        return ""
    spread = f" ± {np.std(accuracies):.1f}" if len(accuracies) > 1 else ""
    return f"{np.mean(accuracies):.1f}{spread}"


def picture(rows: list[dict[str, Any]]) -> np.ndarray:
    """uint8 `[H, W, 3]`: a panel for each task, bars for each method, a line at chance."""
    from matplotlib.figure import Figure

    figure = Figure((9, 1 + 0.5 * len(rows)), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(TASKS), sharey=True, squeeze=False)[0]
    names = [f"{row['title']}\n{row['kind']}" for row in rows]
    for task, panel in zip(TASKS, panels, strict=True):
        for protocol, offset in zip(PROTOCOLS, (-0.28, 0, 0.28, 0.28), strict=True):
            means = [np.mean(row[task][protocol]) if row[task].get(protocol) else np.nan for row in rows]
            label = "all labels" if protocol == "as trained" else protocol
            bars = panel.barh(np.arange(len(rows)) + offset, means, 0.26, color=_COLOURS[protocol], label=label)
            panel.bar_label(bars, ["" if np.isnan(mean) else f"{mean:.0f}" for mean in means], padding=2, fontsize=7)
        panel.axvline(CHANCE, color="red", linewidth=1, label="chance")
        panel.set(title=task, xlabel="% right", xlim=(0, 112))
        panel.set_yticks(range(len(rows)), names, fontsize=8)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return figure_to_array(figure)
