"""Cost of a step against frames, pixels, model size and mask ratio, for our implementation and the peer's."""

from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from datamodules.storage.whole_files import whole_file
from pretrain.studies.speed.race import Method, Report, race
from pretrain.studies.speed.step import Setting

# Values of each axis; one axis varies at a time, the others keep the given setting.
AXES: dict[str, tuple] = {
    "frames": (8, 16, 32, 64),
    "pixels": (96, 160, 224, 320),
    "size": ("small", "base", "large"),
    "ratio": (0.5, 0.75, 0.9, 0.95),
}


def grow(
    name: str, method: Method, setting: Setting, axes: dict[str, tuple] = AXES, rounds: int = 2, memory: bool = True
) -> dict[str, dict[str | float, Report]]:
    """A race at each point of each axis: axis -> value -> report."""
    points = [(axis, value) for axis, values in axes.items() for value in values]
    found: dict[str, dict[str | float, Report]] = {axis: {} for axis in axes}
    with tqdm(points, desc="points", disable=None) as bar:
        for axis, value in bar:
            bar.set_postfix_str(f"{axis} {value}")
            found[axis][value] = race(name, method, replace(setting, **{axis: value}), rounds, memory)
    return found


def as_markdown(found: dict[str, dict[str | float, Report]]) -> str:
    """All points, a table for each axis."""
    lines = []
    for axis, reports in found.items():
        names = list(next(iter(reports.values())).seconds)
        head = [f"{name}, s" for name in names] + ["ratio", "MFU"] + [f"{name}, MB a step" for name in names]
        lines += ["", f"| {axis} | {' | '.join(head)} |", "| ---: |" + " ---: |" * len(head)]
        for value, r in reports.items():
            cells = [f"{r.seconds[name]:.2f}" for name in names] + [f"{r.ratio:.2f}", f"{r.mfu:.2f}"]
            cells += [f"{r.memory[name]['step'] / 1e6:.0f}" if name in r.memory else "" for name in names]
            lines.append(f"| {value} | {' | '.join(cells)} |")
    return "\n".join(lines[1:])


def draw(found: dict[str, dict[str | float, Report]], path: Path) -> None:
    """Write a PNG: a column for each axis, seconds above and memory below, a line for each contender."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(found), 6.5), layout="constrained")
    panels = figure.subplots(2, len(found), squeeze=False)
    for column, (axis, reports) in enumerate(found.items()):
        values = [str(value) for value in reports]
        for name in next(iter(reports.values())).seconds:
            panels[0][column].plot(values, [r.seconds[name] for r in reports.values()], "o-", label=name)
            memory = [r.memory[name]["step"] / 1e6 for r in reports.values() if name in r.memory]
            if memory:
                panels[1][column].plot(values, memory, "o-", label=name)
        for row, label in enumerate(("s a step", "MB a step")):
            panels[row][column].set(xlabel=axis, ylabel=label, ylim=(0, None))
            panels[row][column].grid(alpha=0.3)
    panels[0][0].legend()
    first = next(iter(next(iter(found.values())).values()))
    figure.suptitle(f"{first.method} on {first.machine['device']}, {first.machine['threads']} threads, float32")
    with whole_file(path, "wb") as file:
        figure.savefig(file, dpi=110, format=path.suffix.removeprefix(".") or "png")
