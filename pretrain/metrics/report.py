"""Results of `python -m pretrain test`: tables in markdown, JSON, pictures, and csv files by class."""

import csv
import hashlib
import inspect
import itertools
import json
import logging
import platform
from datetime import datetime
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import nn

from datamodules.storage.counted import counted
from datamodules.storage.json_text import Damaged, json_text, printable, read_json
from datamodules.storage.lock import lock_file
from datamodules.storage.whole_files import whole_file, write_whole
from pretrain.plots.contact_sheet import write_png

log = logging.getLogger(__name__)

_WAIT = 60.0  # seconds for another evaluation to write its results


class Results(pl.Callback):
    """Prints the results and writes `results.md` and `results.json` into the run folder, with a picture and a csv file
    of each metric that has a method `picture` or `rows`.

    The files keep one entry for each evaluation; a repeated one (same model, weights, data and options) replaces its
    entry.

    Args:
        settings: the `model` and `data` parts of the resolved recipe.
        command: the command line.
    """

    def __init__(self, settings: dict[str, Any] | None = None, command: str = "") -> None:
        self.settings, self.command = settings or {}, command

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        folder = trainer.log_dir  # a collective: all ranks must call it
        unreadable = _gather(getattr(_data_module(trainer), "failed", {}).get("test", []))
        if not trainer.is_global_zero:
            return
        entry = self.entry(trainer, pl_module, [f"{name}: {reason}" for name, reason in unreadable])
        print(f"\n{section(entry)}")
        if folder is None or not trainer.loggers:  # without a logger a run has no folder
            return
        for name, metric in _metrics(pl_module).items():
            picture = metric.picture() if hasattr(metric, "picture") else None
            if picture is not None:
                entry["metrics"][name]["picture"] = f"results/{name}-{entry['id']}.png"
                entry["metrics"][name]["caption"] = getattr(metric, "caption", "The first videos of a few queries")
                write_png(Path(folder) / entry["metrics"][name]["picture"], picture)
            if hasattr(metric, "rows"):
                entry["metrics"][name]["rows"] = f"results/{name}-{entry['id']}.csv"
                write_csv(Path(folder) / entry["metrics"][name]["rows"], metric.rows())
        print(f"written to {write_results(Path(folder), entry)}")

    def entry(self, trainer: pl.Trainer, pl_module: pl.LightningModule, unreadable: list[str]) -> dict[str, Any]:
        """The record of this evaluation."""
        model, data = (self.settings.get(part) or {} for part in ("model", "data"))
        model_args, data_args = model.get("init_args", {}), data.get("init_args", {})
        found = {name.removeprefix("test/"): float(value) for name, value in trainer.callback_metrics.items()}
        metrics: dict[str, dict[str, Any]] = {}
        for name, metric in _metrics(pl_module).items():
            values = {key.removeprefix(name).strip("/"): v for key, v in found.items() if _belongs_to(name, key)}
            options = (model_args.get("metrics") or {}).get(name, {}).get("init_args", {})
            defaults = {key: p.default for key, p in inspect.signature(type(metric)).parameters.items()}
            metrics[name] = {
                "kind": type(metric).__name__,
                "options": {key: value for key, value in options.items() if not _same(value, defaults.get(key))},
                "measured": dict(getattr(metric, "facts", {})),
                "values": values,
            }
        identity = {
            "model": type(pl_module).__name__,
            "weights": trainer.ckpt_path or model_args.get("weights") or "none: as initialised",
            "changed": [callback.fact for callback in _callbacks(trainer) if getattr(callback, "fact", "")],
            "data": data_args.get("test") or type(_data_module(trainer)).__name__,
            "clip": {key: data_args[key] for key in _CLIP_OPTIONS if data_args.get(key) is not None},
            "options": {name: {"kind": m["kind"], **m["options"]} for name, m in metrics.items()},
        }
        text = json.dumps(identity, sort_keys=True, default=str)
        return {
            "id": hashlib.blake2b(text.encode(), digest_size=4).hexdigest(),
            **identity,
            "unreadable": unreadable,
            "metrics": metrics,
            "losses": {key: v for key, v in found.items() if not any(_belongs_to(name, key) for name in metrics)},
            "precision": str(trainer.precision),
            "devices": f"{trainer.world_size} x {pl_module.device.type}",
            "software": f"Python {platform.python_version()}, torch {torch.__version__}, lightning {pl.__version__}",
            "command": self.command,
            "when": datetime.now().astimezone().isoformat(timespec="seconds"),
        }


_CLIP_OPTIONS = ("frames", "stride", "size", "test_clips", "test_crops", "sampler", "view", "decoder")


def _data_module(trainer: pl.Trainer) -> Any:
    return trainer.datamodule  # pyrefly: ignore[missing-attribute] Lightning sets it from outside the class


def _callbacks(trainer: pl.Trainer) -> list[Any]:
    return trainer.callbacks  # pyrefly: ignore[missing-attribute] Lightning sets it from outside the class


def _metrics(pl_module: pl.LightningModule) -> dict[str, Any]:
    return dict(cast(nn.ModuleDict, pl_module.metrics).items())


def _gather(mine: list) -> list:
    """The items of all ranks."""
    if not (dist.is_available() and dist.is_initialized()):
        return mine
    found: list = [None] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return [item for items in found for item in items]


def _belongs_to(metric: str, key: str) -> bool:
    return key == metric or key.startswith(f"{metric}/")


def _same(a: Any, b: Any) -> bool:
    return (list(a) if isinstance(a, tuple) else a) == (list(b) if isinstance(b, tuple) else b)


def write_results(folder: Path, entry: dict[str, Any]) -> Path:
    """Adds an evaluation to the folder's files, the newest first; returns the path of `results.md`.

    Evaluations that end at once wait for each other. A damaged `results.json` is kept under another name.
    """
    file, markdown = folder / "results.json", folder / "results.md"
    with lock_file(file, wait=_WAIT):
        entries = [entry, *(old for old in _results_before(file) if old["id"] != entry["id"])]
        entries = json.loads(json.dumps(entries, default=str))
        write_whole(file, json_text(entries, indent=1) + "\n")
        write_whole(markdown, printable("# Results\n\n" + "\n\n".join(section(e) for e in entries) + "\n"))
    return markdown


def _results_before(file: Path) -> list[dict[str, Any]]:
    """The evaluations in `results.json`; a damaged file is moved aside with a warning, and holds none."""
    if not file.is_file():
        return []
    try:
        entries = read_json(file)
        if not isinstance(entries, list):
            raise TypeError("it holds no list")
        for entry in entries:
            section(entry)
        return entries
    except (Damaged, KeyError, TypeError, AttributeError) as error:
        names = (f"{file.name}.damaged-{number}" for number in itertools.count())
        aside = next(file.with_name(name) for name in names if not file.with_name(name).exists())
        file.rename(aside)
        log.warning("%s is damaged (%s): kept as %s, and written anew", file, error, aside.name)
        return []


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of equal keys, whole or not at all, and make the folder if needed."""
    with whole_file(path, newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def section(entry: dict[str, Any]) -> str:
    """An evaluation in markdown: its settings, then a table for each metric."""
    facts = {
        "weights": entry["weights"],
        "changed": "; ".join(entry["changed"]),
        "data": _one_line(entry["data"]),
        "clip": _one_line(entry["clip"]),
        "unreadable": f"{counted(len(entry['unreadable']), 'video')}, left out" if entry["unreadable"] else "",
        "run": f"{entry['precision']} on {entry['devices']}; {entry['software']}; {entry['when']}",
        "command": f"`{entry['command']}`" if entry["command"] else "",
    }
    lines = [f"## {entry['model']} on {_name(entry['data'])}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(fact)} |" for name, fact in facts.items() if fact]
    for name, metric in entry["metrics"].items():
        about = [f"{metric['kind']}", *(_one_line({key: value}) for key, value in metric["measured"].items())]
        lines += ["", f"### {name}", "", f"{', '.join(about)}. {_one_line(metric['options'])}".strip(), ""]
        lines += as_markdown(metric["values"], name)
        if "picture" in metric:
            lines += ["", f"![{metric.get('caption', 'The first videos of a few queries')}]({metric['picture']})"]
        if "rows" in metric:
            lines += ["", f"[Class by class]({metric['rows']})"]
    if entry["losses"]:
        lines += ["", "### losses", "", *as_markdown(entry["losses"], "test", digits=4)]
    return "\n".join(lines)


def as_markdown(values: dict[str, float], name: str, digits: int = 2) -> list[str]:
    """Lines of a table of values with keys `row/column`, in the given order; a key without a row goes to row `name`."""
    cells: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        row, _, column = key.rpartition("/")
        cells.setdefault(row or name, {})[column or "value"] = value
    columns = list(dict.fromkeys(column for row in cells.values() for column in row))
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for row, found in cells.items():
        numbers = [f"{found[column]:.{digits}f}" if column in found else "" for column in columns]
        lines.append(f"| {row} | {' | '.join(numbers)} |")
    return lines


def _name(data: Any) -> str:
    """Name of a source: its class and the file or folder that it reads."""
    if not isinstance(data, dict):
        return str(data)
    arguments = data.get("init_args", {})
    place = next((arguments[key] for key in ("path", "annotations") if isinstance(arguments.get(key), str)), None)
    kind = str(data.get("class_path", "data")).rpartition(".")[2]
    return kind if place is None else f"{kind}, {Path(place).name}"


def _one_line(value: Any) -> str:
    """Nested settings in one line, without unset ones; a long list by its length."""
    if isinstance(value, dict) and "class_path" in value:
        inside = _one_line(value.get("init_args") or {})
        return str(value["class_path"]).rpartition(".")[2] + (f"({inside})" if inside else "")
    if isinstance(value, dict):
        return ", ".join(f"{key} {_one_line(v)}" for key, v in value.items() if v not in (None, [], {}, ""))
    if isinstance(value, (list, tuple)):
        return f"{len(value)} of them" if len(value) > 8 else "[" + ", ".join(_one_line(v) for v in value) + "]"
    return str(value)


def _cell(text: str) -> str:
    return str(text).replace("|", "\\|").replace("\n", " ")
