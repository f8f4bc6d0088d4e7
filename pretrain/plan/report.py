"""The numbers of a plan as text for a terminal."""

from typing import Any

from datamodules.storage.counted import counted
from pretrain.plan.estimate import ANSWERED


def as_text(n: dict[str, Any]) -> str:
    """The numbers of `Plan.numbers`, for a terminal."""
    p, b, f, m, load = n["parameters"], n["batch"], n["flop_a_step"], n["memory_bytes"], n["loading"]
    recompute = "recompute" if n["recompute"] else "no recompute"
    lines = [
        f"{n['devices']} x {n['device_type']}, {n['strategy']}, {n['precision']}, {recompute}",
        f"  parameters        {p['trained'] / 1e6:.1f} M trained, {p['frozen'] / 1e6:.1f} M frozen"
        + (f", teachers of {_gb(p['teachers_bytes'])}" if p["teachers_bytes"] else ""),
        f"  a step            {counted(b['global_videos'], 'video')} x {counted(b['views'], 'view')} = "
        f"{counted(b['clips_a_step'], 'clip')}; "
        f"{counted(b['micro_videos'], 'video')} on a device at a time, {counted(b['accumulate'], 'time')}",
        f"  FLOP a step       {_flop(f['model'])} of the model, {_flop(f['hardware'])} done "
        f"(without recompute {_flop(f['hardware_without_recompute'])}, with {_flop(f['hardware_with_recompute'])})",
        f"  FLOP a clip       {_flop(f['model'] / b['clips_a_step'])}",
        "",
        f"  memory of a device{'alone':>12}{'at the peak':>14}",
    ]
    for part, value in m["parts_at_peak"].items():
        lines.append(f"    {part:<16}{_gb(m['parts_alone'][part]):>12}{_gb(value):>14}")
    lines += [
        f"    {'allowance':<16}{'':>12}{_gb(m['allowance']):>14}",
        f"    {'all':<16}{'':>12}{_gb(m['peak']):>14}   in the {m['moment']}"
        + (
            "" if m["device"] is None else f", of {m['device'] / 1e9:.0f} GB: {'fits' if n['fits'] else 'DOES NOT FIT'}"
        ),
        f"    activations without recompute {_gb(m['activations_without_recompute'])}, with "
        f"{_gb(m['activations_with_recompute'])}",
        "    largest micro-batch that fits: "
        + (
            "unknown, since a CPU's memory is the machine's"
            if n["largest_micro_videos"] is None
            else counted(n["largest_micro_videos"], "video")
        ),
        "",
    ]
    if n["sampling"]:
        s = n["sampling"]
        lines += [
            f"  generating one video takes {_gb(s['peak'])}, {_gb(s['activations'])} of them activations "
            f"of the network or the decoder; a step and the decoding {_flop(s['flop_of_a_step'])}",
            "",
        ]
    if n["answering"]:
        a = n["answering"]
        lines += [
            f"  answering {ANSWERED} conversations of {a['tokens']} tokens takes {_gb(a['keys_and_values'])} of keys "
            f"and values ({a['bytes_a_token'] / 1e3:.0f} kB a token) beside {_gb(a['weights'])} of weights",
            "",
        ]
    if n["step_seconds"] is None:
        return "\n".join([*lines, "  no time: the rate of a CPU is the machine's"])
    length = "for the days, give the number of videos by --videos"
    if n["days"] is not None:
        length = f"{_length(n['days'])} for {counted(n['steps'], 'step')}"
    return "\n".join(
        [
            *lines,
            f"  time at MFU {n['mfu_assumed']:.0%}   {n['step_seconds']:.2f} s a step, {length}",
            f"  loaders give      {load['videos_per_second']:.0f} videos/s, {load['clips_per_second']:.0f} clips/s; "
            f"{load['read_mb_per_second']:.0f} MB/s read, {load['to_devices_mb_per_second']:.0f} MB/s to the devices",
            f"  which takes       {load['cpu_cores']:.0f} CPU cores ({load['cpu_cores'] / n['devices']:.1f} a device)",
        ]
    )


def _length(days: float) -> str:
    """Days, or hours or minutes where there would be a leading zero."""
    parts = ((1, "days"), (24, "hours"), (24 * 60, "minutes"))
    factor, unit = next(((f, u) for f, u in parts if days * f >= 1), parts[-1])
    return f"{days * factor:.1f} {unit}"


def _flop(value: float) -> str:
    unit, name = next((u, s) for u, s in ((1e15, "P"), (1e12, "T"), (1e9, "G")) if value >= u or s == "G")
    return f"{value / unit:.3f} {name}"


def _gb(value: float) -> str:
    return f"{value / 1e9:.2f} GB" if value >= 1e7 else f"{value / 1e6:.2f} MB"
