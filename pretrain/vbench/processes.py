"""A run over several processes: each scores its share of the videos into a table of its own, which are then joined.

The means are taken from the joined table in the order of the plan, so the number of processes changes no score. Tables
of a run that was stopped are joined when the next one starts.
"""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from datamodules.decoding.reader import Decoder
from pretrain.metrics.vbench.plan import Plan
from pretrain.metrics.vbench.run import Scores, run
from pretrain.metrics.vbench.score_table import ScoreTable
from pretrain.metrics.vbench.scorer import Scorer

Build = Callable[[int], Sequence[Scorer]]  # scorers of the process of a number; sent to other processes, so a function


def join(folder: Path) -> ScoreTable:
    """The table of a folder, with what processes left in tables of their own, which are removed."""
    table = ScoreTable(folder / "scores.jsonl")
    for path in sorted(folder.glob("scores.part*.jsonl")):
        part = ScoreTable(path)
        for key, score in part.scores.items():
            if key not in table.scores:
                table.add(key, part.videos[key], score)
        path.unlink()
    return table


def run_processes(
    plan: Plan, build: Build, folder: Path, decoder: Decoder, processes: int, models: Mapping[str, str] | None = None
) -> Scores:
    """The scores of a plan, as `run` gives them.

    Raises:
        RuntimeError: a process failed; its error is printed, and what was scored is kept.
        ValueError: fewer than one process.
    """
    if processes < 1:
        raise ValueError(f"a run needs one process or more, not {processes}")
    folder.mkdir(parents=True, exist_ok=True)
    table = join(folder)
    if processes == 1:
        return run(plan, build(0), table, decoder, models=models)
    context = multiprocessing.get_context("spawn")
    jobs = [(plan, build, folder, decoder, rank, processes, models) for rank in range(processes)]
    children = [context.Process(target=_share, args=job) for job in jobs]
    for child in children:
        child.start()
    for child in children:
        child.join()
    table = join(folder)
    if failed := [rank for rank, child in enumerate(children) if child.exitcode]:
        raise RuntimeError(f"process {failed[0]} of {processes} failed: see its error above, and run the command again")
    return run(plan, build(0), table, decoder, models=models)  # takes all scores from the table


def _share(
    plan: Plan,
    build: Build,
    folder: Path,
    decoder: Decoder,
    rank: int,
    processes: int,
    models: Mapping[str, str] | None,
) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // processes))
    own = ScoreTable(folder / f"scores.part{rank}.jsonl")
    own.scores.update(ScoreTable(folder / "scores.jsonl").scores)
    if jobs := plan.jobs[rank::processes]:  # more processes than videos: this one has none
        run(replace(plan, jobs=jobs), build(rank), own, decoder, models=models)
