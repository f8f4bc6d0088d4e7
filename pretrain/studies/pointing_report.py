"""The report of pointing against words: a table, and a picture of accuracy, characters and turns over the shapes."""

import math
from collections.abc import Sequence
from pathlib import Path

from datamodules.storage.json_text import json_text
from datamodules.storage.whole_files import whole_path, write_whole
from pretrain.studies.pointing import Trial, as_json, summary


def write_report(folder: Path, trials: Sequence[Trial]) -> str:
    """Write `pointing.json`, `pointing.md` and `pointing.png`; returns the table."""
    rows = summary(trials)
    table = as_markdown(rows)
    write_whole(folder / "pointing.json", json_text({"summary": rows, "trials": as_json(trials)}, indent=1))
    write_whole(folder / "pointing.md", table + "\n")
    draw(folder / "pointing.png", rows)
    return table


def as_markdown(rows: Sequence[dict]) -> str:
    """A line for each way and number of shapes."""
    lines = [
        "| asked by | shapes | questions | right at once | right in the end | characters typed | turns | mean IoU |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        iou = "" if math.isnan(row["iou"]) else f"{row['iou']:.2f}"
        lines.append(
            f"| {row['way']} | {row['objects']} | {row['questions']} | {row['first']:.0%} | {row['right']:.0%} | "
            f"{row['characters']:.0f} | {row['turns']:.2f} | {iou} |"
        )
    return "\n".join(lines)


def draw(path: Path, rows: Sequence[dict]) -> None:
    """Three panels over the number of shapes, a line for each way."""
    from matplotlib.figure import Figure

    figure = Figure((11, 3.4), dpi=100, layout="constrained")
    panels = figure.subplots(1, 3)
    titles = {"first": "right at once", "characters": "characters typed", "turns": "turns"}
    for panel, (key, title) in zip(panels, titles.items(), strict=True):
        for number, way in enumerate(dict.fromkeys(row["way"] for row in rows)):
            own = [row for row in rows if row["way"] == way]
            places = [row["objects"] + 0.07 * (number - 1.5) for row in own]  # side by side where values are equal
            style = "o--" if way == "words" else "o-"
            panel.plot(places, [row[key] for row in own], style, label=way, alpha=0.8, markersize=4)
        panel.set(title=title, xlabel="shapes in the film")
        panel.set_ylim(bottom=0)
        panel.grid(alpha=0.3)
    panels[0].legend()
    with whole_path(path) as draft:
        figure.savefig(draft, format="png")
