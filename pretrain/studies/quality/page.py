"""Puts the results of the study into its page: tables between marks, and pictures of the curves beside it."""

import re
import statistics
from pathlib import Path

from datamodules.storage.json_text import read_json
from datamodules.storage.whole_files import write_whole
from pretrain.plots.contact_sheet import write_png
from pretrain.studies.quality.methods import METHODS
from pretrain.studies.quality.report import PROTOCOLS, Values, collect, picture, row_order, title
from pretrain.studies.quality.study import PROBES, SHARES
from pretrain.studies.quality.videos import VIDEOS

_MARKED = re.compile(r"(<!-- tables of (\S+) -->\n)(.*?)(<!-- end of tables -->)", re.DOTALL)
_DEVIATIONS, _SEEDS = 3, 3  # a mean gain of more than so many deviations over so many seeds or more is set in bold


def write_page(page: Path, root: Path) -> list[Path]:
    """Replaces what lies between `<!-- tables of FILE -->` and `<!-- end of tables -->` by that file's records, and
    draws the pictures of curves that the page shows into its folder; returns what was written. A file is looked for
    under `root`; where there is none, the page stays as it is.

    Raises:
        ValueError: the page has no such marks.
    """
    written: list[Path] = []
    shown = page.read_text(encoding="utf-8")

    def tables(mark: re.Match[str]) -> str:
        if not (root / mark[2]).is_file():
            return mark[0]
        saved = read_json(root / mark[2])
        values = collect(saved["records"])
        for protocol in PROBES:
            file = page.parent / f"quality_{saved['data']}_{protocol.lower()}.png"
            if f"({file.name})" in shown:
                write_png(file, picture(values, saved["data"], protocol))
                written.append(file)
        return f"{mark[1]}\n{summary(values, saved['data'], saved['size']['steps'])}\n\n{times(saved)}\n\n{mark[4]}"

    text, count = _MARKED.subn(tables, shown)
    if not count:
        raise ValueError(f"{page} has no line '<!-- tables of FILE -->' with a later line '<!-- end of tables -->'")
    write_whole(page, text)
    return [page, *written]


def summary(values: Values, data: str, steps: int) -> str:
    """For each task a table: a row for each run, a column for each protocol and share of labels.

    Args:
        steps: of a whole run.
    """
    parts = []
    for task in VIDEOS[data].tasks:
        columns = [(p, s) for p in PROTOCOLS for s in SHARES if any(k[1:] == (task, p, s) for k in values)]
        runs = sorted({k[0] for k in values if k[1] == task}, key=row_order)
        if not runs:
            continue
        head = ["method", "seeds", *(f"{p}, {s:.0%}" for p, s in columns)]
        parts += [f"### {task} (chance {VIDEOS[data].chance(task):.1f})", ""]
        parts += [f"| {' | '.join(head)} |", f"|---|---:|{'---:|' * len(columns)}"]
        for run in runs:
            end = 0 if METHODS[run.partition("-")[0]].recipe is None else steps
            found = [values.get((run, task, *column), {}) for column in columns]
            seeds = max(len(points.get(end, {})) for points in found)
            cells = [_cell(points.get(0, {}), points.get(end, {}), end, seeds) for points in found]
            parts.append(f"| {title(run)} | {seeds} | {' | '.join(cells)} |")
        parts.append("")
    return "\n".join(parts).rstrip()


def _cell(first: dict[int, float], last: dict[int, float], end: int, seeds: int) -> str:
    """The mean of the seeds that have both, at the first and at the last step, with the deviation of the gain; of a
    model that is not trained (`end` 0) one figure, and of a run that has not ended the first one and an arrow."""
    few = f" ({len(last)})" if len(last) < seeds else ""
    if not end:
        return f"{statistics.mean(first.values()):.1f}{few}" if first else ""
    if not last:
        return f"{statistics.mean(first.values()):.1f} →" if first else ""
    both = [seed for seed in last if seed in first]
    if not both:
        return f"→ {statistics.mean(last.values()):.1f}{few}"
    gain = [last[seed] - first[seed] for seed in both]
    text = " → ".join(f"{statistics.mean(step[seed] for seed in both):.1f}" for step in (first, last))
    if len(both) < 2:
        return text + few
    deviation = statistics.stdev(gain)
    text += f" ± {deviation:.1f}"
    certain = len(both) >= _SEEDS and statistics.mean(gain) > _DEVIATIONS * deviation
    return (f"**{text}**" if certain else text) + few


def times(saved: dict) -> str:
    """A line with the processor seconds of training, a mean over the runs of each method."""
    found: dict[str, list[float]] = {}
    for run, seconds in saved.get("training_seconds", {}).items():
        found.setdefault(run.rpartition("-")[0], []).append(seconds)
    rows = [f"{title(run)} {statistics.mean(found[run]):.0f}" for run in sorted(found, key=row_order)]
    return f"Processor seconds of {saved['size']['steps']:,} steps of training: {', '.join(rows) or 'not recorded'}."
