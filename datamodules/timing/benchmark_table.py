"""The report of the loading benchmark as text."""


def as_markdown(report: dict) -> str:
    """Markdown: a table of the ways, the parts of the loader's time, and the bytes of prepared videos."""
    s = report["settings"]
    head = ["way", "clips/s", "ms per video", "CPU ms per video", "speed-up", "by CPU time"]
    lines = [f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
    for row in report["rows"]:
        known = row["cpu_seconds"] > 0
        cpu, gain = (f"{1e3 * row['cpu_seconds']:.1f}", f"{row['cpu_speedup']:.2f}x") if known else ("", "")
        clips, wall, speedup = row["clips_per_second"], 1e3 * row["seconds"], row["speedup"]
        lines.append(f"| {row['name']} | {clips:.1f} | {wall:.1f} | {cpu} | {speedup:.2f}x | {gain} |")
    lines += [
        "",
        f"{report['videos']} videos, {s['views']} views of {s['frames']} frames at stride {s['stride']}, {s['size']} "
        f"pixels, scaled by {report['machine']['scaling']}; medians of {s['rounds']} rounds; "
        f"{len(report['unreadable'])} videos unreadable.",
    ]
    for where in report["where"]:
        read, decoding, rest = (1e3 * where[key] for key in ("read", "decode", "crops_and_batch"))
        lines.append(
            f"CPU time of {where['name']}: {read:.1f} ms reading, {decoding:.1f} ms decoding, {rest:.1f} ms "
            f"crops and batch ({100 * rest / decoding:.1f} % of the decoding)."
        )
    if sizes := report.get("prepared"):
        lines.append(
            f"Prepared: {sizes['bytes'] / 1e6:.2f} MB of {sizes['source_bytes'] / 1e6:.2f} MB, {sizes['ratio']:.2f}x "
            f"the bytes of the source; {len(sizes['not_prepared'])} videos were not prepared."
        )
    return "\n".join(lines)
