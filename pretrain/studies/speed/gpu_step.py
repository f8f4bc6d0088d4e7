"""Training steps at published sizes in bfloat16, eager and compiled, against peers: a row of results as each is done.

`python -m pretrain.studies.speed.gpu_step videomae_l --out rows.jsonl` measures one case; `make gpu` runs all.
"""

import argparse
import gc
import json
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models import CLIP_SIZES, DECODER_SIZES, SIZES, TEXT_SIZES
from pretrain.learning import parallel
from pretrain.learning.teachers import Frozen
from pretrain.objectives import Objective
from pretrain.plan.memory import Sizes, Strategy, memory_use
from pretrain.plan.optimiser_state import state_bytes
from pretrain.plan.tracer import to_fake_tensors, trace
from pretrain.studies.speed import METHODS, umt, viclip, videomae
from pretrain.studies.speed.race import MatmulRate, machine_facts
from pretrain.studies.speed.step import Contender, Setting, synchronize

_TINY = {"width": 96, "heads": 4, "mlp": 384, "patch": 16}
_PRODUCT = 8192  # side of the square matrices whose product sets the peak
_COPY = 1 << 30  # bytes of the copy that sets the bandwidth


@dataclass(frozen=True)
class Case:
    """A method at a size and a batch. `contenders` are names of `METHODS`, ours first; `models` makes those that the
    plan estimates, by contender."""

    method: str
    size: str
    batch: int
    frames: int
    contenders: tuple[str, ...]
    models: dict[str, Callable[[Setting], Objective]]


_VIDEOMAE: dict[str, Callable[[Setting], Objective]] = {
    "ours": lambda setting: videomae.objective(setting, dual=False),
    "dual": lambda setting: videomae.objective(setting, dual=True),
}
_VIDEOMAE_CONTENDERS = ("ours", "transformers", "dual")
CASES = {
    "videomae_l": Case("videomae", "large", 64, 16, _VIDEOMAE_CONTENDERS, _VIDEOMAE),
    "umt_b": Case("umt", "base", 64, 8, ("ours", "plain"), {"ours": umt.objective}),
    "viclip_b": Case("viclip", "base", 128, 8, ("ours", "open_clip"), {"ours": viclip.objective}),
    "videomae_b": Case("videomae", "base", 128, 16, _VIDEOMAE_CONTENDERS, _VIDEOMAE),
}


@dataclass
class Row:
    """One contender, eager or compiled. Seconds are the median of `steps` steps, and of the first one, which compiles;
    `mfu` is relative to the measured rate of large products; bytes are the peak of all that PyTorch allocated, measured
    and as the plan says (None: not measured on a CPU, or no plan for a peer); `error` tells why the rest is missing."""

    case: str
    contender: str
    mode: str
    batch: int
    steps: int = 0
    seconds: float | None = None
    first_seconds: float | None = None
    clips_per_second: float | None = None
    mfu: float | None = None
    loss: float | None = None
    peak_bytes: int | None = None
    planned_bytes: float | None = None
    attention: str | None = None
    error: str | None = None


def measure(name: str, device: torch.device, tiny: bool, steps: int) -> Iterator[dict[str, Any]]:
    """Measures a case of `CASES`: first the device's ceilings, then a row for each contender and mode."""
    case = CASES[name]
    setting = Setting(case.size, case.batch, case.frames, device=device.type, precision="bf16")
    backend = "eager" if tiny else "inductor"  # "eager" captures the same graphs, and compiles nothing for minutes
    if tiny:
        _add_tiny_size(6 if case.method == "umt" else 2)  # UMT compares six layers
        setting = replace(setting, size="tiny", batch=2, frames=8, pixels=64)
    plans = {contender: plan(model, setting) for contender, model in case.models.items()}
    ceilings = _ceilings(device, tiny)
    yield {"case": name, **ceilings, "machine": machine_facts(device)}
    for contender in case.contenders:
        flop, _ = plans.get(contender, plans["ours"])  # a peer does the work of `ours`
        for row in _both_modes(name, contender, setting, steps, backend):
            if contender in plans:
                row.planned_bytes = plans[contender][1]
            if row.seconds is not None:
                row.clips_per_second = setting.batch / row.seconds
                row.mfu = flop / row.seconds / ceilings["product_flops"]
            yield asdict(row)
        torch.compiler.reset()  # graphs of one contender would be taken for the next, for its shapes as dynamic ones
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def _add_tiny_size(depth: int) -> None:
    """Adds a size whose step takes milliseconds on a CPU."""
    SIZES["tiny"] = {**_TINY, "depth": depth}
    DECODER_SIZES["tiny"] = {"width": 64, "heads": 4, "mlp": 256}
    CLIP_SIZES["tiny"] = {**_TINY, "depth": depth, "size": 64, "out": 32}
    TEXT_SIZES["tiny"] = {"width": 32, "depth": 2, "heads": 4, "mlp": 64, "out": 32}


def plan(model: Callable[[Setting], Objective], setting: Setting) -> tuple[float, float]:
    """FLOP of a step and peak of the allocated bytes, as `python -m pretrain plan` computes them for one GPU.

    The plan's allowance, for CUDA's context and fragmentation, is left out: PyTorch's peak does not hold it either.
    """
    with torch.device("meta"):
        objective = model(replace(setting, device="meta"))
    mode = to_fake_tensors(objective)
    objective.configure_model()
    with mode:
        video = torch.empty(setting.shape, dtype=torch.uint8)
    batch = {**viclip.random_pairs(replace(setting, device="cpu", pixels=1)), "video": video}
    cost = trace(objective.train(), batch, mode, autocast=torch.bfloat16)
    half = {"accumulated": False, "half": True, "half_weights": False}
    states = state_bytes(objective.optim, objective.named_parameters())
    assert states is not None  # AdamW's are known
    use = memory_use(Strategy("single"), Sizes.of(objective), cost, states, 1, **half, gpu=True)
    return cost.model_flop, sum(use.parts_at_peak.values())


def _ceilings(device: torch.device, tiny: bool) -> dict[str, float]:
    """FLOP/s of a large product in bfloat16, and bytes a second, read and written, of a copy on the device."""
    side, size = (64, 1 << 20) if tiny else (_PRODUCT, _COPY)
    product = MatmulRate(device, torch.bfloat16, side)
    a = torch.randn(size // 4, device=device)
    b = torch.empty_like(a)
    seconds = _timed(lambda: b.copy_(a), 5, device)
    rates = [product() for _ in range(5)]
    return {
        "product_flops": statistics.median(rates),
        "copy_bytes_per_second": 2 * a.nbytes / statistics.median(seconds),
    }


def _both_modes(name: str, contender: str, setting: Setting, steps: int, backend: str) -> Iterator[Row]:
    """The rows of a contender: eager and, unless it has no modules to compile, compiled. An error is a row, too."""
    device, mode = torch.device(setting.device), "eager"
    before = torch.cuda.memory_allocated() if device.type == "cuda" else 0
    try:
        made = METHODS[CASES[name].method].build(contender, setting)
        attention = _attention(made.model)
        for mode in ("eager", "compiled"):
            if mode == "compiled" and not _compile(made.model, contender, backend):
                return
            row = _measure(made, Row(name, contender, mode, setting.batch, attention=attention), steps, device)
            if row.peak_bytes is not None:
                row.peak_bytes -= before
            yield row
    except Exception as error:  # of any library: the other rows still count, and the run ends with an error
        traceback.print_exc()
        yield Row(name, contender, mode, setting.batch, error=f"{type(error).__name__}: {error}".splitlines()[0])


def _attention(model: Any) -> str | None:
    """transformers' implementation of attention, set to SDPA; None for another library's model."""
    if not hasattr(model, "set_attn_implementation"):
        return None
    model.set_attn_implementation("sdpa")
    return model.config._attn_implementation


def _compile(model: nn.Module, contender: str, backend: str) -> bool:
    """Compiles block by block: ours and its teacher as `compile: true` does, a peer's layers; False: there are none."""
    if contender == "plain":
        return False  # functions of our model's weights
    if isinstance(model, Objective):
        for part in (model, *(frozen.model for frozen in model.modules() if isinstance(frozen, Frozen))):
            parallel.compile_blocks(part, backend)
        return True
    layers = [layer for part in model.modules() if isinstance(part, nn.ModuleList) for layer in part]
    for layer in layers:
        layer.compile(backend=backend)
    return bool(layers)


def _measure(contender: Contender, row: Row, steps: int, device: torch.device) -> Row:
    start = time.perf_counter()
    _step(contender, device)
    synchronize(device)
    row.first_seconds = time.perf_counter() - start
    for _ in range(2):
        contender.refill()
        _step(contender, device)
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    losses: list[Tensor] = []
    seconds = _timed(lambda: losses.append(_step(contender, device)), steps, device, contender.refill)
    row.steps, row.seconds, row.loss = steps, statistics.median(seconds), float(losses[-1])
    if device.type == "cuda":
        row.peak_bytes = torch.cuda.max_memory_allocated()
    return row


def _step(contender: Contender, device: torch.device) -> Tensor:
    """A step in Lightning's order, which frees the last gradients after the forward pass; nothing waits for the GPU."""
    assert contender.optimizer is not None  # every contender here is trained
    with torch.autocast(device.type, torch.bfloat16):
        loss = contender.loss()
    contender.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if contender.clip is not None:
        torch.nn.utils.clip_grad_norm_(contender.model.parameters(), contender.clip)
    contender.optimizer.step()
    return loss.detach()


def _timed(
    work: Callable[[], object], times: int, device: torch.device, before: Callable[[], object] = lambda: None
) -> list[float]:
    """Seconds of each call of `work`, without `before`; by CUDA events, read after the last call, on a GPU."""
    if device.type == "cpu":
        seconds = []
        for _ in range(times):
            before()
            start = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - start)
        return seconds
    marks = []
    for _ in range(times):
        before()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        marks.append((start, end))
    torch.cuda.synchronize()
    return [start.elapsed_time(end) / 1e3 for start, end in marks]


def main() -> None:
    """Appends a line of JSON for the ceilings and for each row to a file, as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="+", choices=CASES)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="sizes that take seconds on a CPU; figures mean nothing")
    parser.add_argument("--steps", type=int, default=15, help="timed steps of each row (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    for case in a.cases:
        for row in measure(case, torch.device(a.device), a.tiny, a.steps):
            with a.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps({name: value for name, value in row.items() if value is not None}), flush=True)


if __name__ == "__main__":
    main()
