"""HTML page of a run: what was kept, with thumbnails and bar charts; what was dropped and why. One file, no script."""

import base64
import html
import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from datamodules.making.contents import Thumbnail
from datamodules.storage.counted import clock, counted
from datamodules.storage.json_text import printable
from datamodules.storage.whole_files import write_whole

_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:.5em 0}td,th{padding:.15em .8em .15em 0;text-align:left;vertical-align:top}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}div.bar{background:#4878a8;height:.9em;min-width:1px}"
    "h2{font-size:1.1em;margin:1.6em 0 .2em}div.clips{display:flex;flex-wrap:wrap;gap:1em}"
    "figure{margin:0;max-width:30em}figcaption{font-size:.85em;overflow-wrap:anywhere}img{max-width:100%}"
)
_LISTED = 200  # dropped clips on the page; report.json names all


def write_page(path: Path, report: dict, kept: Sequence[dict], clips: Sequence[Thumbnail] = ()) -> None:
    """Writes the page of one run.

    Args:
        path: of the page.
        report: as `prepare` returns it.
        kept: `seconds`, `frames`, `bytes` and `words` (of the caption, or None) of each clip.
        clips: some of them, which the page shows.
    """
    seconds = [k["seconds"] for k in kept]
    rates = [k["frames"] / k["seconds"] for k in kept if k["seconds"]]
    dropped = report["dropped_files"]
    parts = [
        _table(
            ("kept clips", report["kept"]),
            ("dropped", report["dropped"]),
            ("missing", report["missing"]),
            ("shards", report["shards"]),
            ("frames", report["frames"]),
            ("interlaced clips", report["marks"]["interlaced"]),
            ("HDR clips", report["marks"]["hdr"]),
            ("length of all clips", clock(round(report["seconds"]))),
            ("megabytes", f"{report['bytes'] / 1e6:.1f}"),
            ("time of work", clock(report["elapsed"])),
        ),
        _section("Why clips were dropped", list(report["reasons"].items())),
        _section("Length of a clip", histogram(seconds, form=clock)),
        _section("Kilobytes", histogram([k["bytes"] / 1e3 for k in kept])),
        _section("Frames per second", histogram(rates)),
        _section("Width x height", list(report["sizes"].items())),
        _section("Words per caption", histogram([k["words"] for k in kept if k["words"] is not None])),
        f"<h2>Some clips</h2><div class='clips'>{''.join(map(_figure, clips))}</div>" if clips else "",
        "<h2>Settings</h2>" + _table(*report["settings"].items()),
    ]
    if dropped:
        shown = dropped[:_LISTED]
        title = "Dropped" + (f": the first {len(shown)} of {len(dropped)}" if len(shown) < len(dropped) else "")
        parts.append(f"<h2>{title}</h2>" + _table(*((d["name"], d["reason"]) for d in shown)))
    body = "\n".join(part for part in parts if part)
    title = counted(report["kept"], "clip")
    head = f"<meta charset='utf-8'><title>{title}</title><style>{_STYLE}</style>"
    text = f"<!doctype html><html lang='en'>{head}<h1>{title}</h1>\n{body}</html>\n"
    write_whole(path, printable(text))


def histogram(
    values: Sequence[float], bins: int = 12, form: Callable[[float], str] = "{:.6g}".format
) -> list[tuple[str, int]]:
    """(range, count): a bin a value if there are few values, as of words or frame rates; else equal bins of round
    width (1, 2 or 5 with zeros), the first and the last of which may be open for the outermost hundredths.

    Args:
        bins: at most, besides open ones.
        form: how an edge is written.
    """
    if not len(values):
        return []
    array = np.round(np.asarray(values, float), 3)
    single, counts = np.unique(array, return_counts=True)
    if len(single) <= bins:
        return [(form(float(value)), int(n)) for value, n in zip(single, counts, strict=True)]
    low, high = np.quantile(array, [0.01, 0.99])
    step = _round_up((high - low) / bins)
    first, last = math.floor(low / step), math.floor(high / step) + 1
    if last - first > bins:
        step = _round_up(1.01 * step)
        first, last = math.floor(low / step), math.floor(high / step) + 1
    edges = [round(k * step, 9) for k in range(first, last + 1)]
    inside = np.searchsorted(edges, array, side="right")  # 0: below the first edge
    named = [f"below {form(edges[0])}"]
    named += [f"{form(a)} to {form(b)}" for a, b in pairwise(edges)]
    named += [f"{form(edges[-1])} or more"]
    counts = np.bincount(inside, minlength=len(named)).tolist()
    rows = list(zip(named, counts, strict=True))
    return [row for k, row in enumerate(rows) if row[1] or 0 < k < len(rows) - 1]


def _round_up(width: float) -> float:
    """The next width of 1, 2 or 5 with zeros before or behind."""
    if width <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(width))
    return next(power * digit for digit in (1, 2, 5, 10) if power * digit >= width * (1 - 1e-9))


def _figure(clip: Thumbnail) -> str:
    """A clip with its frames, name, length and text."""
    data = base64.b64encode(clip.jpeg).decode()
    shown = f"<img src='data:image/jpeg;base64,{data}' alt=''>" if data else html.escape(clip.error)
    length = "" if math.isnan(clip.seconds) else f" ({clock(clip.seconds)})"
    text = f"<br>{html.escape(clip.text)}" if clip.text else ""
    return f"<figure>{shown}<figcaption>{html.escape(clip.name)}{length}{text}</figcaption></figure>\n"


def _section(title: str, counts: list[tuple[str, int]]) -> str:
    """A heading and a bar per line; empty if there are no counts."""
    if not counts:
        return ""
    most = max(Counter(dict(counts)).values())
    lines = "".join(
        f"<tr><td>{html.escape(str(what))}</td><td class='n'>{count}</td>"
        f"<td style='width:24em'><div class='bar' style='width:{100 * count / max(most, 1):.1f}%'></div></td></tr>"
        for what, count in counts
    )
    return f"<h2>{html.escape(title)}</h2><table>{lines}</table>"


def _table(*rows: tuple[object, object]) -> str:
    cells = "".join(f"<tr><th>{html.escape(str(a))}</th><td>{html.escape(str(b))}</td></tr>" for a, b in rows)
    return f"<table>{cells}</table>"
