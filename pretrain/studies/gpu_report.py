"""The goals for training steps on a GPU, and the report of a run as a table."""

import statistics
from typing import Any

Rows = list[dict[str, Any]]


def goals(rows: Rows) -> list[dict[str, Any]]:
    """Each goal with the value found: `at_least` or `at_most`, `value` and `met`, None where it was not measured.

    MFU is that of the faster of eager and compiled, with dual masking for VideoMAE, as its recipes train. A ratio is
    the peer's faster mode over ours. The plan's error is the largest over our rows.
    """
    found: list[dict[str, Any]] = []
    for name, case, contender, least in (
        ("MFU of VideoMAE L", "videomae_l", "dual", 0.45),
        ("MFU of UMT B with its teacher", "umt_b", "ours", 0.50),
    ):
        rates = [row["mfu"] for row in _of(rows, case, contender) if row.get("mfu")]
        found.append({"goal": name, "at_least": least, "value": max(rates, default=None)})
    for case, size in (("videomae_l", "L"), ("videomae_b", "B")):
        for contender, form, least in (("ours", "V1's form", 1.5), ("dual", "dual masking", 2.0)):
            ours, peer = (_fastest(_of(rows, case, who)) for who in (contender, "transformers"))
            ratio = peer / ours if ours and peer else None
            found.append({"goal": f"VideoMAE {size} over transformers, {form}", "at_least": least, "value": ratio})
    errors = [abs(row["peak_bytes"] / row["planned_bytes"] - 1) for row in rows if _has_both(row)]
    found.append({"goal": "error of the plan's memory", "at_most": 0.15, "value": max(errors, default=None)})
    for goal in found:
        value = goal["value"]
        met = None if value is None else value >= goal["at_least"] if "at_least" in goal else value <= goal["at_most"]
        goal["met"] = met
    return found


def _of(rows: Rows, case: str, contender: str) -> Rows:
    return [row for row in rows if row["case"] == case and row["contender"] == contender]


def _fastest(rows: Rows) -> float | None:
    return min((row["seconds"] for row in rows if row.get("seconds")), default=None)


def _has_both(row: dict[str, Any]) -> bool:
    return bool(row.get("peak_bytes") and row.get("planned_bytes"))


def as_markdown(report: dict[str, Any]) -> str:
    """The report of `pretrain.studies.gpu` for people; the JSON beside it holds the same figures."""
    rows: Rows = report["rows"]
    lines = ["# Tests and training steps on a GPU, bfloat16", ""]
    if report["tiny"]:
        lines += ["Tiny sizes, to test the script: the figures have no meaning.", ""]
    lines += ["- " + "; ".join(f"{name} {value}" for name, value in report["machine"].items())]
    if report["missing_packages"]:
        lines += [f"- not installed: {', '.join(report['missing_packages'])}"]
    parts = (f"{part['name']} {part['outcome']} ({part['seconds']:.0f} s)" for part in report["parts"])
    lines += [f"- parts: {', '.join(parts)}"]
    tests = ", ".join(f"{count} {outcome.lower()}" for outcome, count in sorted(report["tests"].items()))
    lines += [f"- tests: {tests or 'none'}"]
    if report["ceilings"]:
        product, copy = (
            statistics.median(line[name] for line in report["ceilings"])
            for name in ("product_flops", "copy_bytes_per_second")
        )
        lines += [f"- {product / 1e12:.1f} TFLOP/s in large products, {copy / 1e12:.2f} TB/s in a copy (medians)"]
    lines += [
        "",
        "| step | mode | s a step | clips/s | MFU | peak, GB | plan, GB | peak/plan | x peer | first step, s |",
    ]
    lines += ["| --- | --- |" + " ---: |" * 8]
    lines += [_line(row, rows) for row in rows]
    lines += [
        "",
        "MFU: necessary FLOP over time and the rate of large products. x peer: the peer's time over this one's,",
    ]
    lines += [
        "in the same mode. Peak: of PyTorch's allocations, which the plan's figure beside it leaves no allowance to."
    ]
    lines += ["", "| goal | wanted | found | met |", "| --- | ---: | ---: | --- |"]
    for goal in report["goals"]:
        wanted = f">= {goal['at_least']}" if "at_least" in goal else f"<= {goal['at_most']}"
        value = "not measured" if goal["value"] is None else f"{goal['value']:.2f}"
        met = "" if goal["met"] is None else "yes" if goal["met"] else "no"
        lines.append(f"| {goal['goal']} | {wanted} | {value} | {met} |")
    return "\n".join(lines)


def _line(row: dict[str, Any], rows: Rows) -> str:
    title = f"{row['case']} {row['contender']}, batch {row['batch']}"
    if row.get("error"):
        return f"| {title} | {row['mode']} | {row['error'].replace('|', '/')} |" + " |" * 7
    peers = [p for p in rows if p["case"] == row["case"] and p["contender"] not in ("ours", "dual")]
    timed = {p["mode"]: p["seconds"] for p in peers if p.get("seconds")}
    peer = timed.get(row["mode"], timed.get("eager"))
    ours = row["contender"] in ("ours", "dual")
    cells = [
        f"{row['seconds']:.4f}",
        f"{row['clips_per_second']:.1f}",
        f"{row['mfu']:.2f}",
        _gb(row.get("peak_bytes")),
        _gb(row.get("planned_bytes")),
        f"{row['peak_bytes'] / row['planned_bytes']:.2f}" if _has_both(row) else "",
        f"{peer / row['seconds']:.2f}" if ours and peer else "",
        f"{row['first_seconds']:.1f}",
    ]
    return f"| {title} | {row['mode']} | {' | '.join(cells)} |"


def _gb(value: float | None) -> str:
    return "" if value is None else f"{value / 1e9:.2f}"
