"""HTML page of a run, with bar charts: what was kept, what was dropped and why. No script, no external files."""

import html
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datamodules.storage.json_text import printable
from datamodules.storage.whole_files import write_whole

_STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em;color:#222}"
    "table{border-collapse:collapse;margin:.5em 0}td,th{padding:.15em .8em .15em 0;text-align:left;vertical-align:top}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}div.bar{background:#4878a8;height:.9em;min-width:1px}"
    "h2{font-size:1.1em;margin:1.6em 0 .2em}"
)
_LISTED = 200  # dropped clips on the page; report.json names all


def write_page(path: Path, report: dict, kept: Sequence[dict], picture: str | None = None) -> None:
    """Writes the page of one run.

    Args:
        path: of the page.
        report: as `prepare` returns it.
        kept: `seconds`, `frames`, `bytes` and `words` (of the caption, or None) of each clip.
        picture: the name of a file beside the page with frames of some clips.
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
            ("hours of video", f"{report['seconds'] / 3600:.2f}"),
            ("megabytes", f"{report['bytes'] / 1e6:.1f}"),
            ("seconds of work", report["elapsed"]),
        ),
        _section("Why clips were dropped", list(report["reasons"].items())),
        _section("Seconds", histogram(seconds)),
        _section("Kilobytes", histogram([k["bytes"] / 1e3 for k in kept])),
        _section("Frames per second", histogram(rates)),
        _section("Width x height", list(report["sizes"].items())),
        _section("Words per caption", histogram([k["words"] for k in kept if k["words"] is not None])),
        f"<h2>Some clips</h2><img src='{picture}' style='max-width:100%' alt='frames of some clips'>"
        if picture
        else "",
        "<h2>Settings</h2>" + _table(*report["settings"].items()),
    ]
    if dropped:
        shown = dropped[:_LISTED]
        title = "Dropped" + (f": the first {len(shown)} of {len(dropped)}" if len(shown) < len(dropped) else "")
        parts.append(f"<h2>{title}</h2>" + _table(*((d["name"], d["reason"]) for d in shown)))
    body = "\n".join(part for part in parts if part)
    head = f"<meta charset='utf-8'><title>{report['kept']} clips</title><style>{_STYLE}</style>"
    text = f"<!doctype html><html lang='en'>{head}<h1>{report['kept']} clips</h1>\n{body}</html>\n"
    write_whole(path, printable(text))


def histogram(values: Sequence[float], bins: int = 12) -> list[tuple[str, int]]:
    """(range, count) in equal bins between the 1st and 99th percentile; the outer bins hold the rest."""
    if not len(values):
        return []
    array = np.asarray(values, float)
    low, high = np.quantile(array, [0.01, 0.99])
    if high - low < 1e-3 * max(abs(high), 1e-9):
        return [(f"{np.median(array):.4g}", len(array))]
    edges = np.linspace(low, high, bins + 1)
    counts = np.histogram(np.clip(array, low, high), edges)[0]
    return [(f"{a:.4g} to {b:.4g}", int(n)) for a, b, n in zip(edges, edges[1:], counts, strict=False)]


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
