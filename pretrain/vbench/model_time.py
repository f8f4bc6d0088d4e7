"""How long the models of a run take, told before one is loaded: from their operations, counted without data or weights.

Operations are counted on PyTorch's meta device, which computes shapes only, and divided by the rate at which the device
multiplies float32 matrices, which is measured for a moment. On a CPU the models reach about that rate; on a GPU their
kernels are slower, so the time is a lower bound. Models of other packages (a detector, a captioner, interpolation) are
not counted.

Letters in shapes: H and W pixels.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from pretrain.metrics.vbench.dimensions import NEEDS
from pretrain.metrics.vbench.frames import stride_to_8_fps
from pretrain.metrics.vbench.models import Models
from pretrain.metrics.vbench.plan import Plan
from pretrain.metrics.vbench.raft import ITERATIONS
from pretrain.metrics.vbench.transforms import ImagingMode, even_padding, imaging_size
from pretrain.vbench.builder import Builder
from pretrain.vbench.protocol import Facts

SECONDS = 0.3  # that the rate is measured for
Size = tuple[int, int]

# Of each dimension, what its model is called on. Dimensions with one entry share the model's output.
CALLS: dict[str, str] = {
    "subject_consistency": "DINO",
    "background_consistency": "CLIP B/32",
    "dynamic_degree": "RAFT",
    "aesthetic_quality": "CLIP L/14",
    "imaging_quality": "MUSIQ",
    "human_action": "UMT",
    "appearance_style": "CLIP B/32, frames of PIL",
    "temporal_style": "ViCLIP",
    "overall_consistency": "ViCLIP",
}
FILTER = "RAFT, static filter"


def _frame(*size: int) -> Tensor:
    return torch.empty(1, 3, *size)


def one_call(models: Models, call: str, size: Size, mode: ImagingMode = "longer") -> Tensor:
    """The output of a model of `CALLS` for one frame, pair of frames or clip of a video of `size`."""
    h, w = size
    if call == "DINO":
        short = 224 / min(h, w)
        return models.dino(_frame(max(224, int(short * h)), max(224, int(short * w))))
    if call.startswith("RAFT"):
        left, right, top, bottom = even_padding(h, w, 8)
        pair = _frame(max(128, h + top + bottom), max(128, w + left + right))
        return models.raft(pair, pair)
    high, wide = imaging_size(h, w, mode)
    narrowest = 1 + max(high, wide) // 64  # such frames are not scored, but the plan goes on
    makers: dict[str, Callable[[], Tensor]] = {
        "MUSIQ": lambda: models.musiq(_frame(max(high, narrowest), max(wide, narrowest))),
        "CLIP L/14": lambda: models.aesthetic(models.clip_l14.image(_frame(224, 224))),
        "ViCLIP": lambda: models.viclip.image(torch.empty(1, 3, 8, 224, 224)),
        "UMT": lambda: models.umt(torch.empty(1, 3, 16, 224, 224)),
    }
    return makers.get(call, lambda: models.clip_b32.image(_frame(224, 224)))()


def operations(call: str, size: Size, mode: ImagingMode = "longer") -> int:
    """Floating-point operations of `one_call`, of matrix products and convolutions; a product of two counts as two."""
    with torch.device("meta"), torch.no_grad():
        models = Models(device="meta", random=True)
        if not call.startswith("RAFT"):
            return _counted(models, call, size, mode)
        models.raft.iterations = 1  # they are all alike, and twenty take seconds to count
        first = _counted(models, call, size, mode)
        models.raft.iterations = 2
        return first + (ITERATIONS - 1) * (_counted(models, call, size, mode) - first)


def _counted(models: Models, call: str, size: Size, mode: ImagingMode) -> int:
    with FlopCounterMode(display=False) as counter:
        one_call(models, call, size, mode)
    return counter.get_total_flops()


def calls_of(dimensions: Iterable[str], length: int, fps: float, filtered: bool = False) -> dict[str, int]:
    """How often each model is called on a video, for the dimensions that it is scored in.

    Args:
        filtered: temporal flickering has the static filter.
    """
    found: dict[str, int] = {}
    for dimension in dimensions:
        if dimension == "dynamic_degree":
            rated = 0 < fps < float("inf")
            found["RAFT"] = len(range(0, length, stride_to_8_fps(fps))) - 1 if rated else 0
        elif dimension == "temporal_flickering" and filtered:
            found[FILTER] = length - 1 + 2  # and both ways between the ends
        elif dimension in CALLS:
            call = CALLS[dimension]
            found[call] = 1 if call in ("ViCLIP", "UMT") else length
    return found


def multiply_rate(device: str) -> float:
    """Operations that a device does in a second in products of float32 matrices."""
    side = 8192 if device.startswith("cuda") else 1024
    a = torch.rand(side, side, device=device)
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    a @ a
    wait()
    start, rounds = time.perf_counter(), 0
    while (spent := time.perf_counter() - start) < SECONDS:
        a @ a
        wait()
        rounds += 1
    return 2 * side**3 * rounds / spent


def model_time(plan: Plan, facts: Facts, builder: Builder) -> str:
    """A sentence with the time that the models of a plan take, and which of them take it.

    Operations are counted at the most common size of the videos; at others they are taken to grow with the pixels.
    """
    sizes = Counter(size for _, _, size in facts.videos.values())
    dimensions = {name for job in plan.jobs for name in job.dimensions}
    left = {name for name in dimensions if name in builder.stand_ins() or (NEEDS[name] and name not in CALLS)}
    wanted = []
    for job in plan.jobs:
        if job.path.name in facts.videos:
            length, fps, size = facts.videos[job.path.name]
            own = [name for name in job.dimensions if name not in left]
            wanted += [
                (call, n, size[0] * size[1])
                for call, n in calls_of(own, length, fps, builder.static_filter).items()
                if n
            ]
    uncounted = f"not counted: the models of {', '.join(sorted(left))}" if left else ""
    if not wanted:
        return f"no time of models to count{'; ' * bool(left)}{uncounted}"
    common = sizes.most_common(1)[0][0]
    costs = {
        call: operations(call, common, builder.imaging_mode) for call in dict.fromkeys(call for call, _, _ in wanted)
    }
    spent: Counter[str] = Counter()
    for call, times, pixels in wanted:
        grows = call.startswith("RAFT") or call == "MUSIQ"
        spent[call] += round(costs[call] * times * (pixels / (common[0] * common[1]) if grows else 1))
    total = sum(spent.values())
    shares = ", ".join(f"{call} {100 * part / total:.0f} %" for call, part in spent.most_common())
    work = f"{total / 1e12:.2f} TFLOP ({shares}{', ' * bool(left)}{uncounted})"
    try:
        rate = multiply_rate(builder.device)
    except (RuntimeError, AssertionError):  # a plan may be made where the device is not
        return f"the models do {work}; how long {builder.device} takes cannot be measured here"
    bound = "about" if builder.device == "cpu" else "at least"
    return (
        f"the models take {bound} {total / rate:.0f} s on one {builder.device}: {work} at the "
        f"{rate / 1e9:.0f} GFLOP/s of a matrix product here"
    )
