"""The page of a run: what was asked, each scorer's counts with intervals, and the published table beside them."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datamodules.storage.json_text import json_text
from datamodules.storage.whole_files import write_whole
from pretrain.plots.contact_sheet import write_png
from pretrain.plots.radar import radar
from pretrain.questions.answers import Answer
from pretrain.questions.mvbench import SHORT, TASKS
from pretrain.questions.published import AVERAGE, PUBLISHED
from pretrain.questions.question import Benchmark
from pretrain.questions.scoring import SCORERS, Count, count, is_parsed

_DRAWN = ("VideoChat2-Mistral", "GPT-4o")  # beside one's own in the picture


def scores(answers: Sequence[Answer]) -> dict[str, dict[str, Count]]:
    """Counts by scorer and task; scorers that count no answer are left out."""
    found = {scorer: count(answers, scorer) for scorer in SCORERS}
    return {scorer: tasks for scorer, tasks in found.items() if any(own.total for own in tasks.values())}


def label_of_average(benchmark: Benchmark, answers: Sequence[Answer], control: str) -> str:
    """What the share of all answers is called: the benchmark's average only if nothing is missing or taken away."""
    tasks = len({answer.task for answer in answers})
    part = f"{tasks} of {len(benchmark.tasks)} tasks, {len(answers)} of {benchmark.total} questions"
    if control != "none":
        return f"control {control}: {part}"
    return f"{benchmark.name} {AVERAGE}" if len(answers) == benchmark.total else f"no average: {part}"


def page(benchmark: Benchmark, answers: Sequence[Answer], settings: dict[str, Any], model: str) -> str:
    """The run in markdown."""
    found = scores(answers)
    label = label_of_average(benchmark, answers, settings.get("control", "none"))
    lines = [f"# {benchmark.name}: {model}", "", "```", benchmark.manifest(), "```", ""]
    lines += [f"- {name}: {value!r}" for name, value in settings.items()]
    closed = [answer for answer in answers if answer.candidates]
    if closed:
        lines += ["", f"{sum(map(is_parsed, closed))} of {len(closed)} replies begin with the letter of an option.", ""]
        lines += [table_of_scores(answers, benchmark.tasks, label)]
    if len(closed) < len(answers):
        lines += ["", f"{len(answers) - len(closed)} open answers, which a judge scores: python tools/mvbench.py judge"]
    for scorer, own in found.items():
        if left_out := sum(each.left_out for each in own.values()):
            lines += ["", f"{scorer} does not count {left_out} answers."]
    if set(benchmark.tasks) == set(SHORT):
        lines += ["", *_published(found, label)]
    return "\n".join(lines) + "\n"


def table_of_scores(answers: Sequence[Answer], tasks: Sequence[str] = (), label: str = "all of these") -> str:
    """Percentages by task and scorer.

    Args:
        tasks: in their order; by default that of the answers.
        label: of the last row, all answers together.
    """
    found = scores(answers)
    lines = ["Percent right, of so many, with Wilson's 95 % interval.", ""]
    lines += [f"| task | {' | '.join(found)} |", "|---|" + "---:|" * len(found)]
    there = {answer.task: None for answer in answers}
    for task in (task for task in tasks or there if task in there):
        lines.append(f"| {task} | {' | '.join(_cell(own.get(task, Count())) for own in found.values())} |")
    lines.append(f"| **{label}** | {' | '.join(_cell(sum(own.values(), Count())) for own in found.values())} |")
    return "\n".join(lines)


def counts_as_json(answers: Sequence[Answer]) -> dict[str, dict[str, dict[str, int]]]:
    """Counts by scorer and task."""
    return {scorer: {task: asdict(own) for task, own in tasks.items()} for scorer, tasks in scores(answers).items()}


def _cell(own: Count) -> str:
    if not own.total:
        return ""
    low, high = own.interval
    return f"{100 * own.share:.1f} of {own.total} ({100 * low:.1f} to {100 * high:.1f})"


def _published(found: dict[str, dict[str, Count]], label: str) -> list[str]:
    """One's own scores above the published ones."""
    names = [task.short for task in TASKS]
    has_average = label.endswith(AVERAGE)
    lines = ["Beside published results, which other frames, prompts and matchers may have:", ""]
    lines += [f"| model | {' | '.join([*names, AVERAGE])} |", "|---|" + "---:|" * (len(names) + 1)]
    for scorer, own in found.items():
        cells = [f"{100 * own[task.name].share:.1f}" if task.name in own else "" for task in TASKS]
        average = f"{100 * sum(own.values(), Count()).share:.1f}" if has_average else ""
        lines.append(f"| **this run, {scorer}** | {' | '.join([*cells, average])} |")
    for model, row in PUBLISHED.items():
        lines.append(f"| {model} | {' | '.join(f'{row[name]:.1f}' for name in [*names, AVERAGE])} |")
    return lines


def write_report(
    folder: str | Path, benchmark: Benchmark, answers: Sequence[Answer], settings: dict[str, Any], model: str
) -> str:
    """Writes `report.md`, `scores.json` and, of all of MVBench's tasks, `radar.png`; returns the page."""
    folder, found = Path(folder), scores(answers)
    text = page(benchmark, answers, settings, model)
    label = label_of_average(benchmark, answers, settings.get("control", "none"))
    content = {"benchmark": benchmark.name, "model": model, "settings": settings, "whole": label}
    content["scores"] = counts_as_json(answers)
    write_whole(folder / "report.md", text)
    write_whole(folder / "scores.json", json_text(content, indent=1))
    if set(SHORT) == set(benchmark.tasks) == set(found.get("strict", {})):
        own = {"this run, strict": {SHORT[task]: found["strict"][task].share for task in SHORT}}
        others = {name: {short: PUBLISHED[name][short] / 100 for short in SHORT.values()} for name in _DRAWN}
        write_png(folder / "radar.png", radar(own | others))
    return text
