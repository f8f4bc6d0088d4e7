"""A whole run of VBench: plan, protocol, scores by any number of processes, and what is written of them."""

import json
import sys
from pathlib import Path

from datamodules.decoding.reader import Decoder
from datamodules.storage.counted import counted
from datamodules.storage.lock import Lock
from datamodules.storage.whole_files import write_whole
from pretrain.metrics.vbench.device import check_device, device_of
from pretrain.metrics.vbench.plan import Job, Plan
from pretrain.metrics.vbench.results import summary, write_results
from pretrain.metrics.vbench.run import Scores
from pretrain.metrics.vbench.scoring import means
from pretrain.metrics.vbench.video_score import VideoScore
from pretrain.metrics.vbench.weights import WEIGHTS, absent, locate
from pretrain.plots.contact_sheet import write_png
from pretrain.plots.radar import radar
from pretrain.vbench.builder import Builder
from pretrain.vbench.first_five import few, first_five
from pretrain.vbench.model_time import model_time
from pretrain.vbench.page import normalised, write_page
from pretrain.vbench.preparation_time import preparation_time
from pretrain.vbench.processes import run_processes
from pretrain.vbench.protocol import deviations, look_at
from pretrain.vbench.submission import write_zip


class NotOfficial(ValueError):
    """A run under the official profile that is not of the official protocol."""


def evaluate(
    plan: Plan,
    builder: Builder,
    out: Path,
    decoder: Decoder,
    name: str = "vbench",
    processes: int = 1,
    official_suite: bool = False,
    official: bool = False,
    plan_only: bool = False,
) -> int:
    """Print the plan; unless `plan_only`, score the videos and write the results.

    Args:
        official: refuse a run that differs from the official protocol.

    Returns:
        0; 1 if a video has no score in a dimension; 2 if weights, or packages that have them, are missing.

    Raises:
        NotOfficial: with all differences.
        FileNotFoundError: no video to score.
        ValueError: fewer than one process, or a device that is not there.
    """
    if processes < 1:
        raise ValueError(f"a run needs one process or more, not {processes}")
    device_of(builder.device)
    facts = look_at(plan, decoder)
    wanted = builder.dimensions
    differs = deviations(
        plan, facts, wanted, official_suite, builder.static_filter, builder.imaging_mode, builder.stand_ins()
    )
    random = builder.random_dimensions()
    differs += [f"the weights are random, the scores mean nothing: {', '.join(random)}"] if random else []
    weights = {weight: None for dimension in wanted for weight in builder.needs(dimension)}
    print("\n".join(plan.labels()), *facts.lines(), sep="\n")
    print("\n".join(f"{dimension}: {counted(plan.videos(dimension), 'video')}" for dimension in wanted))
    lacking = [] if builder.random else absent(weights, builder.weights_dir)
    lacking += builder.lacking()
    for weight in () if lacking or builder.random else weights:
        print(f"weights {weight} at {locate(weight, builder.weights_dir)}, {WEIGHTS[weight].licence}")
    if plan.jobs and facts.videos:
        print(preparation_time(plan, facts, builder, decoder, processes))
        print(model_time(plan, facts, builder))
    print(*([f"not the official protocol: {line}" for line in differs] or ["official protocol"]), sep="\n")
    if official and differs:
        raise NotOfficial(f"--profile official: {'; '.join(differs)}")
    if lacking:
        print("\n".join(lacking), file=sys.stderr)
        return 2
    if plan_only:
        return 0
    if not plan.jobs:
        raise FileNotFoundError("there is no video of a wanted prompt: see the plan above")
    check_device(builder.device)
    labels = [f"not the official protocol: {line}" for line in differs] or ["official protocol"]
    with Lock(out / ".lock", out):
        scores = run_processes(plan, builder, out, decoder, processes, builder.models())
        if builder.static_filter:
            scores = first_five(scores)
            labels += few(scores)
        stand_ins = {dimension: scores.pop(dimension) for dimension in builder.stand_ins()}
        labels += [_stand_in(builder.stand_ins()[dimension], dimension, rows) for dimension, rows in stand_ins.items()]
        by_model = {f"{builder.stand_ins()[name]} in the place of {name}": rows for name, rows in stand_ins.items()}
        write_whole(out / f"{name}_stand_ins.json", json.dumps(_values(by_model), indent=1))
        table = write_results(out, name, plan, scores, labels, random)
        files = [out / f"{name}_{kind}.json" for kind in ("eval_results", "full_info")]
        made = {"labels": labels, "models": builder.models(), "random_weights": random, "scores": summary(scores)}
        write_whole(out / f"{name}_run.json", json.dumps(made, indent=1))
        if not random:
            write_zip(out / f"{name}.zip", files)
        if found := normalised(scores, random):
            write_png(out / f"{name}.png", radar({name: found}))
        write_page(out / f"{name}.html", name, scores, labels, decoder, random, by_model)
    print(table.read_text("utf-8"))
    every = [*scores.values(), *stand_ins.values()]
    return int(any(score.reason for rows in every for _, score in rows))


def _stand_in(model: str, dimension: str, rows: list[tuple[Job, VideoScore]]) -> str:
    both = means(score for _, score in rows)
    value = f"{both.official(dimension):.4f} of {both.scored} videos" if both.scored else "no video is scored"
    lack = f", {both.missing} not scored" if both.missing else ""
    return f"not VBench's, by {model} in the place of {dimension}: {value}{lack}"


def _values(scores: Scores) -> dict[str, dict[str, float | str]]:
    """The values of single videos by their names; of a video that was not scored, the reason."""
    return {
        model: {job.path.name: score.value if score.count else score.reason for job, score in rows}
        for model, rows in scores.items()
    }
