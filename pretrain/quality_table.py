"""The table of what features are worth, as Markdown, JSON and a picture."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from pretrain.pictures import write_png
from pretrain.quality import TASKS, Size

CHANCE = 25.0  # four shapes, four directions, as many of each
WAYS = ("linear", "k-NN", "fine-tuned", "as trained")
_COLOURS = {"linear": (40, 90, 170), "k-NN": (120, 175, 220), "fine-tuned": (225, 130, 40), "as trained": (90, 90, 90)}


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


def picture(rows: list[dict[str, Any]], width: int = 900) -> np.ndarray:
    """uint8 `[H, W, 3]`: a panel a task, bars a method, a line at chance."""
    bar, gap, left, top = 8, 12, 170, 40
    block = 3 * bar + gap
    canvas = Image.new("RGB", (width, top + len(rows) * block + 24), "white")
    draw = ImageDraw.Draw(canvas)
    panel = (width - left - 40) // len(TASKS)
    for i, way in enumerate(WAYS):
        x = left + i * 110
        draw.rectangle((x, 5, x + 10, 13), fill=_COLOURS[way])
        draw.text((x + 15, 4), way if way != "as trained" else "all labels", fill="black")
    for number, row in enumerate(rows):
        y = top + number * block
        draw.text((6, y), row["title"][:27], fill="black")
        draw.text((6, y + 11), row["kind"], fill=(120, 120, 120))
        for column, task in enumerate(TASKS):
            x = left + column * (panel + 20)
            for i, way in enumerate([way for way in WAYS if row[task].get(way)]):
                end = x + float(np.mean(row[task][way])) / 100 * (panel - 40)
                draw.rectangle((x, y + i * bar, end, y + (i + 1) * bar - 2), fill=_COLOURS[way])
                draw.text((end + 3, y + i * bar - 3), f"{np.mean(row[task][way]):.0f}", fill=(90, 90, 90))
    bottom = top + len(rows) * block
    for column, task in enumerate(TASKS):
        x = left + column * (panel + 20)
        chance = x + CHANCE / 100 * (panel - 40)
        draw.text((x, top - 18), f"{task} (% right; line: chance)", fill="black")
        draw.line((chance, top - 4, chance, bottom), fill=(200, 60, 60))
        draw.line((x, top - 4, x, bottom), fill="black")
    return np.asarray(canvas)
