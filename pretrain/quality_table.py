"""The table of what features are worth, as Markdown, JSON and a picture."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.bars import pixels
from pretrain.pictures import write_png
from pretrain.quality import TASKS, Size

CHANCE = 25.0  # four shapes, four directions, as many of each
WAYS = ("linear", "k-NN", "fine-tuned", "as trained")
_COLOURS = dict(zip(WAYS, ("#285aaa", "#78afdc", "#e18228", "#5a5a5a"), strict=True))


def write(folder: Path, rows: list[dict[str, Any]], size: Size) -> str:
    """Writes `quality.md`, `quality.json` and `quality.png`; gives the table."""
    text = table(rows)
    (folder / "quality.md").write_text(text + "\n", encoding="utf-8")
    about = {"chance": CHANCE, "size": asdict(size), "rows": rows}
    (folder / "quality.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    write_png(folder / "quality.png", picture(rows))
    return text


def table(rows: list[dict[str, Any]]) -> str:
    """A row a method; of several draws the mean and the deviation."""
    head = ["method", "encoder", "learns from", *(f"{task}: {way}" for task in TASKS for way in WAYS[:3])]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * 3}{'---:|' * (len(head) - 3)}"]
    for row in rows:
        told = " and ".join(part for part in ("pixels" if row["recipe"] else "", row["told"]) if part) or "nothing"
        cells = [row["title"], row["kind"], told]
        for task in TASKS:
            cells += [_cell(row[task].get(way, [])) for way in WAYS[:2]]
            last = "fine-tuned" if "fine-tuned" in row[task] else "as trained"
            cells.append(_cell(row[task].get(last, [])) + (" (all labels)" if row[task].get("as trained") else ""))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(found: list[float]) -> str:
    if not found:
        return ""
    spread = f" ± {np.std(found):.1f}" if len(found) > 1 else ""
    return f"{np.mean(found):.1f}{spread}"


def picture(rows: list[dict[str, Any]]) -> np.ndarray:
    """uint8 `[H, W, 3]`: a panel a task, bars a method, a line at chance."""
    from matplotlib.figure import Figure

    figure = Figure((9, 1 + 0.5 * len(rows)), dpi=100, layout="constrained")
    panels = figure.subplots(1, len(TASKS), sharey=True, squeeze=False)[0]
    names = [f"{row['title']}\n{row['kind']}" for row in rows]
    for task, panel in zip(TASKS, panels, strict=True):
        for way, at in zip(WAYS, (-0.28, 0, 0.28, 0.28), strict=True):  # a method has one of the last two
            found = [np.mean(row[task][way]) if row[task].get(way) else np.nan for row in rows]
            label = "all labels" if way == "as trained" else way
            drawn = panel.barh(np.arange(len(rows)) + at, found, 0.26, color=_COLOURS[way], label=label)
            panel.bar_label(drawn, ["" if np.isnan(f) else f"{f:.0f}" for f in found], padding=2, fontsize=7)
        panel.axvline(CHANCE, color="red", linewidth=1, label="chance")
        panel.set(title=task, xlabel="% right", xlim=(0, 112))
        panel.set_yticks(range(len(rows)), names, fontsize=8)
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=5, frameon=False)
    return pixels(figure)
