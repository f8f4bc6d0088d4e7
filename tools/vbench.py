"""Scores generated videos by VBench: `python tools/vbench.py VIDEOS --out DIR [--dimensions ...] [--mode custom]`.

The plan comes first: videos that are missing or whose names clash, weights that are not there, and in what the run
differs from the official protocol. A run that is stopped goes on from its table of scores. Three commands read results:
`compare A B` (paired by prompt), `explain OURS PUBLISHED`, and `agreement LABELS` with one's own human votes.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from pretrain.errors import reports_errors
from pretrain.parser import Parser


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool; returns 1 if a video could not be scored in a dimension, 2 if weights are missing."""
    commands = {"compare": compare, "explain": explain, "agreement": agreement}
    if arguments and arguments[0] in commands:
        return commands[arguments[0]](arguments[1:])
    parser = Parser(prog="vbench.py", description=__doc__)
    parser.add_argument("videos", type=Path, help="folder of videos")
    parser.add_argument("--out", type=Path, required=True, help="folder of the table of scores and the results")
    parser.add_argument("--name", default="vbench", help="first part of the result files' names (default %(default)s)")
    parser.add_argument("--dimensions", nargs="+", help="default: all that can be run by this command")
    parser.add_argument(
        "--mode", choices=("standard", "custom", "category"), default="standard", help="VBench's suite, any videos, ..."
    )
    parser.add_argument("--profile", choices=("official",), help="refuse all that differs from the official protocol")
    parser.add_argument(
        "--prompts", type=Path, help="mode custom: json of file names and prompts; category: its folder"
    )
    parser.add_argument("--category", help="mode category: its name")
    parser.add_argument("--suite", type=Path, help="VBench_full_info.json (default: of the installed vbench package)")
    parser.add_argument("--static-filter", action="store_true", help="temporal flickering of static videos (RAFT)")
    parser.add_argument("--imaging-mode", choices=("longer", "shorter", "shorter_centercrop", "None"), default="longer")
    parser.add_argument("--interpolator", choices=("amt", "rife"), help="AMT-S, or RIFE in its place")
    parser.add_argument("--flow", choices=("raft", "dis"), default="raft", help="RAFT, or OpenCV's DIS in its place")
    parser.add_argument("--imaging", choices=("musiq", "brisque"), default="musiq", help="MUSIQ, or BRISQUE")
    parser.add_argument("--detector", help="`grit`, or the folder of a detector in its place (docs/vbench.md)")
    parser.add_argument("--captioner", help="`tag2text`, or the folder of a captioner in its place")
    parser.add_argument("--weights-dir", type=Path, help="default: VBENCH_CACHE_DIR, or ~/.cache/vbench")
    parser.add_argument("--random-weights", action="store_true", help="for trials: the scores mean nothing")
    parser.add_argument("--device", default="cpu", help="of the models (default %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="(default %(default)s); they change no score")
    parser.add_argument("--plan", action="store_true", help="print the plan and stop")
    a = parser.parse_args(arguments)
    from dataclasses import replace

    from datamodules.decoding.reader import PyAV
    from pretrain.metrics.vbench.plan import OF_THE_SUITE, check_dimensions, plan_category, plan_custom, plan_standard
    from pretrain.metrics.vbench.prompts import read_suite
    from pretrain.vbench.builder import Builder, object_names
    from pretrain.vbench.evaluate import evaluate
    from pretrain.vbench.protocol import is_official_suite
    from pretrain.vbench.published import read_json

    if a.profile and a.mode != "standard":
        parser.error("--profile official is of --mode standard")
    static, interpolator = a.static_filter or bool(a.profile), a.interpolator or ("amt" if a.profile else None)
    builder = Builder(
        *((), a.weights_dir, a.device, static, a.imaging_mode, interpolator),
        *(a.flow, a.imaging, a.detector, a.captioner),
        random=a.random_weights,
    )
    possible = [name for name in builder.possible() if a.mode == "standard" or name not in OF_THE_SUITE]
    wanted = check_dimensions(a.dimensions or possible)
    if refused := [name for name in wanted if name not in builder.possible()]:
        parser.error(
            f"{refused[0]} needs a model: --interpolator, --detector or --captioner, or from Python "
            "pretrain.metrics.vbench.Parts"
        )
    labels: tuple[str, ...] = ()
    if a.mode == "standard":
        suite = read_suite(a.suite)
        labels = object_names([prompt.auxiliary for prompt in suite])
        plan = plan_standard(a.videos, suite, wanted, static)
    elif a.mode == "category":
        if not (a.category and a.prompts):
            parser.error("--mode category needs --category NAME and --prompts FOLDER of NAME.txt")
        plan = plan_category(a.videos, wanted, a.category, a.prompts)
    else:
        prompts = read_json(a.prompts) if a.prompts else None
        if prompts and not all(isinstance(prompt, str) for prompt in prompts.values()):
            raise ValueError(f"{a.prompts} holds a prompt that is not text")
        plan = plan_custom(a.videos, wanted, prompts)
    builder = replace(builder, dimensions=wanted, labels=labels)
    official = is_official_suite(a.suite)
    return evaluate(plan, builder, a.out, PyAV(), a.name, a.processes, official, bool(a.profile), a.plan)


def compare(arguments: list[str]) -> int:
    """`compare A B`: two NAME_eval_results.json, paired by prompt."""
    parser = Parser(prog="vbench.py compare", description=compare.__doc__)
    parser.add_argument("a", type=Path, metavar="A")
    parser.add_argument("b", type=Path, metavar="B")
    a = parser.parse_args(arguments)
    from pretrain.vbench.compare import paired
    from pretrain.vbench.published import random_dimensions, read_by_prompt

    print(paired(read_by_prompt(a.a), read_by_prompt(a.b)))
    for path in (a.a, a.b):
        if random := random_dimensions(path):
            print(f"{path}: of random weights, so that these rows mean nothing: {', '.join(random)}")
    return 0


def explain(arguments: list[str]) -> int:
    """`explain OURS PUBLISHED`: a NAME_eval_results.json and a json of published scores: what may explain the gap."""
    parser = Parser(prog="vbench.py explain", description=explain.__doc__)
    parser.add_argument("ours", type=Path)
    parser.add_argument("published", type=Path)
    a = parser.parse_args(arguments)
    from pretrain.vbench.compare import explain as table_of
    from pretrain.vbench.published import read_json, read_scores

    run = a.ours.with_name(a.ours.name.replace("_eval_results.json", "_run.json"))
    known = read_json(run).get("labels") if run.is_file() and run != a.ours else None
    labels = known if isinstance(known, list) else ["how it was made is not known here"]
    print(table_of(read_scores(a.ours), read_scores(a.published), labels))
    return 0


def agreement(arguments: list[str]) -> int:
    """`agreement LABELS --results MODEL=FILE ...`: a json list of votes against the models' NAME_eval_results.json."""
    parser = Parser(prog="vbench.py agreement", description=agreement.__doc__)
    parser.add_argument("labels", type=Path)
    parser.add_argument("--results", nargs="+", required=True, metavar="MODEL=FILE")
    a = parser.parse_args(arguments)
    from pretrain.vbench.agreement import agreement as table_of
    from pretrain.vbench.agreement import read_votes
    from pretrain.vbench.published import read_by_prompt

    if wrong := [entry for entry in a.results if "=" not in entry]:
        parser.error(f"--results takes MODEL=FILE, not {wrong[0]!r}")
    results = {name: read_by_prompt(file) for name, file in (entry.split("=", 1) for entry in a.results)}
    print(table_of(read_votes(a.labels), results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
