"""What dropping patches saves: ViLP's step with and without it, side by side, in seconds and in memory."""

import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from models import CLIP_SIZES, TEXT_SIZES, CLIPText, FusionDecoder, ViCLIPVision
from pretrain.masking import Random
from pretrain.objectives import ViLP

_TEXT = "a person in a red coat walks along the beach with two dogs at sunset"


@dataclass
class Cost:
    """Of a step (forward and backward): the median seconds of rounds that took turns, and the most memory, in MB, that
    it takes beyond the model and its gradients."""

    ratio: float
    seconds: float
    megabytes: float


Sizes = dict[str, int]


def measure(
    vision: Sizes = CLIP_SIZES["base"],
    text: Sizes = TEXT_SIZES["base"],
    batch: int = 2,
    frames: int = 8,
    ratio: float = 0.9,
    rounds: int = 3,
    device: str = "cpu",
) -> list[Cost]:
    """All patches, and `1 - ratio` of them, of the same videos and texts by the same weights.

    Args:
        vision, text: sizes of the towers.
        batch, frames: pairs a step and frames a clip.
        rounds: how often each is timed, after one that is not.
        device: where to run, in float32.
    """
    settings = vision, text, batch, frames
    steps = {drop: _step(*settings, drop, device)[1] for drop in (0.0, ratio)}
    seconds: dict[float, list[float]] = {drop: [] for drop in steps}
    for _ in range(rounds + 1):
        for drop, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[drop].append(time.perf_counter() - start)
    del steps
    memory = {drop: _apart(*settings, drop, device) for drop in seconds}
    return [Cost(drop, statistics.median(found[1:]), memory[drop] / 1e6) for drop, found in seconds.items()]


def table(costs: list[Cost]) -> str:
    """The costs in markdown, with how many times less they are than with all patches."""
    lines = ["| patches dropped | s a step | MB a step | time | memory |", "| ---: | ---: | ---: | ---: | ---: |"]
    for c in costs:
        gain, room = costs[0].seconds / c.seconds, costs[0].megabytes / c.megabytes
        lines.append(f"| {c.ratio:.0%} | {c.seconds:.2f} | {c.megabytes:.0f} | {gain:.2f}x | {room:.2f}x |")
    return "\n".join(lines)


def _step(
    vision: Sizes, text: Sizes, batch: int, frames: int, ratio: float, device: str
) -> tuple[ViLP, Callable[..., None]]:
    torch.manual_seed(0)
    model = ViLP(
        ViCLIPVision(**vision, frames=frames),
        CLIPText(**text, hides=True),
        FusionDecoder(text["width"], 4, text["heads"], text["mlp"], vision["width"]),
        mask=Random(ratio) if ratio else None,
    ).to(device)
    video = torch.randint(0, 256, (batch, 3, frames, *(2 * [vision["size"]])), dtype=torch.uint8, device=device)
    names = [str(i) for i in range(batch)]

    def step(rows: int = batch) -> None:
        pairs = {"video": video[:rows], "text": [_TEXT] * rows, "name": names[:rows]}
        sum(model(pairs).values()).backward()
        if device != "cpu":
            torch.cuda.synchronize()

    return model, step


def _apart(*settings) -> int:
    """Bytes of one step in a process of its own, where no other's memory is used again."""
    context = multiprocessing.get_context("spawn")
    inbox, outbox = context.Pipe(duplex=False)
    process = context.Process(target=_weigh, args=(outbox, *settings))
    process.start()
    outbox.close()
    try:
        return inbox.recv()
    except EOFError:
        raise RuntimeError(f"the measuring process ended with {process.exitcode}: not enough memory?") from None
    finally:
        process.join()


def _weigh(outbox, vision: Sizes, text: Sizes, batch: int, frames: int, ratio: float, device: str) -> None:
    model, step = _step(vision, text, batch, frames, ratio, device)
    mask, model.mask = model.mask, Random(0.99)  # a small step first: it brings the gradients, and what libraries keep
    step(rows=1)
    model.mask = mask
    if device == "cpu":
        before = _peak()
        step()
        outbox.send(_peak() - before)
        return
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    outbox.send(torch.cuda.max_memory_allocated() - before)


def _peak() -> int:
    """The most bytes that this process has held at a time. `getrusage` would count its parent's where it was forked."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM"))
