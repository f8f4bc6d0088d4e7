"""Scores generated videos by VBench: `python tools/vbench.py VIDEOS --out DIR [--dimensions ...] [--mode custom]`.

The plan comes first: videos that are missing or whose names clash, and weights that are not there. A run that is
stopped goes on from its table of scores. Dimensions that need a detector, a captioner or frame interpolation are run
from Python (`pretrain.metrics.vbench.Parts`).
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from pretrain.errors import reports_errors


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool; returns 1 if a video could not be scored in a dimension."""
    parser = argparse.ArgumentParser(prog="vbench.py", description=__doc__)
    parser.add_argument("videos", type=Path, help="folder of videos")
    parser.add_argument("--out", type=Path, required=True, help="folder of the table of scores and the results")
    parser.add_argument("--name", default="vbench", help="first part of the result files' names (default %(default)s)")
    parser.add_argument("--dimensions", nargs="+", help="default: all that can be run by this command")
    parser.add_argument(
        "--mode", choices=("standard", "custom"), default="standard", help="VBench's suite, or any videos"
    )
    parser.add_argument("--prompts", type=Path, help="mode custom: json of file names and their prompts")
    parser.add_argument("--suite", type=Path, help="VBench_full_info.json (default: of the installed vbench package)")
    parser.add_argument("--weights-dir", type=Path, help="default: VBENCH_CACHE_DIR, or ~/.cache/vbench")
    parser.add_argument("--device", default="cpu", help="of the models (default %(default)s)")
    parser.add_argument("--plan", action="store_true", help="print the plan and stop")
    a = parser.parse_args(arguments)
    from datamodules.decoding.reader import PyAV
    from datamodules.storage.lock import Lock
    from pretrain.metrics.vbench import NEEDS, Models, build_scorers
    from pretrain.metrics.vbench.plan import OF_THE_SUITE, plan_custom, plan_standard
    from pretrain.metrics.vbench.prompts import read_suite
    from pretrain.metrics.vbench.results import write_results
    from pretrain.metrics.vbench.run import run
    from pretrain.metrics.vbench.score_table import ScoreTable
    from pretrain.metrics.vbench.weights import absent, locate

    by_interface = [name for name in NEEDS if {"amt", "grit", "tag2text"} & set(NEEDS[name])]
    left_out = set(by_interface) | (set(OF_THE_SUITE) if a.mode == "custom" else set())
    wanted = a.dimensions or [name for name in NEEDS if name not in left_out]
    if refused := [name for name in wanted if name in by_interface]:
        parser.error(f"{refused[0]} needs a model that only Python can pass: see pretrain.metrics.vbench.Parts")
    if a.mode == "standard":
        plan = plan_standard(a.videos, read_suite(a.suite), wanted)
    else:
        plan = plan_custom(a.videos, wanted, json.loads(a.prompts.read_text("utf-8")) if a.prompts else None)
    weights = sorted({weight for name in wanted for weight in NEEDS[name]})
    labels = [*plan.labels(), "temporal flickering is of all its videos: the static filter is not applied"]
    print("\n".join([*labels, *(f"{name}: {plan.videos(name)} videos" for name in wanted)]))
    lacking = absent(weights, a.weights_dir)
    if lacking:
        print("\n".join(lacking), file=sys.stderr)
        return 2
    if a.plan:
        return 0
    if not plan.jobs:
        raise FileNotFoundError(f"{a.videos} holds no video of a wanted prompt: see the plan above")
    paths = {name: locate(name, a.weights_dir) for name in weights}
    sizes = {name: f"{name} of {path.stat().st_size} bytes at {path.resolve()}" for name, path in paths.items()}
    models = {name: ", ".join(sizes[weight] for weight in NEEDS[name]) for name in wanted}
    with Lock(a.out / ".lock", a.out):
        table = ScoreTable(a.out / "scores.jsonl")
        scorers = build_scorers(wanted, Models(a.weights_dir, device=a.device))
        scores = run(plan, scorers, table, PyAV(), models=models)
        page = write_results(a.out, a.name, plan, scores, labels)
    print(page.read_text("utf-8"))
    return int(any(score.reason for rows in scores.values() for _, score in rows))


if __name__ == "__main__":
    sys.exit(main())
