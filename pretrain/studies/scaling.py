"""Weak scaling: the measured cost of communication in a step, and an analytic estimate for more devices."""

import math
import os
import statistics
import time
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from models.encoder import Encoder
from pretrain.export.load_run import build
from pretrain.learning import parallel
from pretrain.learning.batch import Batch
from pretrain.learning.randomness import RandomKey
from pretrain.objectives import Objective
from pretrain.studies.speed.step import synchronize, total

Strategy = Literal["ddp", "fsdp"]


def measure(
    settings: dict[str, Any], processes: int, clips: int, steps: int, strategy: Strategy, threads: int = 1
) -> dict[str, float]:
    """Seconds of a training step of `clips` videos a process, with `processes` processes on this machine.

    The step is timed in turns with and without communication, while all processes compute: both contain the contention
    for memory and cores. The share of communication is the time that it adds beyond what overlaps with computation.

    Args:
        settings: the `model` part of a resolved recipe.
        threads: of each process on a CPU; the same for one process and several, to keep steps comparable.

    Returns:
        `step` and `alone` (without communication), medians over steps of the slowest process, and `share` =
        1 - alone / step, at least 0.
    """
    with mp.get_context("spawn").Manager() as manager:
        found = manager.dict()
        mp.spawn(
            _measure_rank,
            (processes, find_free_network_port(), settings, clips, steps, strategy, threads, found),
            nprocs=processes,
        )
        step, alone = found["step"], found["alone"]
    return {"step": step, "alone": alone, "share": max(0.0, 1 - alone / step)}


def _measure_rank(
    rank: int,
    world: int,
    port: int,
    settings: dict[str, Any],
    clips: int,
    steps: int,
    strategy: Strategy,
    threads: int,
    found: MutableMapping[str, float],
) -> None:
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    torch.set_num_threads(threads)
    gpu = torch.cuda.is_available()
    device = torch.device("cuda", rank) if gpu else torch.device("cpu")
    dist.init_process_group("nccl" if gpu else "gloo", rank=rank, world_size=world)
    times: dict[str, list[float]] = {"step": [], "alone": []}
    runs = {"step": _Step(settings, clips, device, strategy), "alone": _Step(settings, clips, device, None)}
    for _ in range(steps + 2):
        for kind, run in runs.items():
            dist.barrier()
            seconds = torch.tensor(run(), device=device)
            dist.all_reduce(seconds, dist.ReduceOp.MAX)
            times[kind].append(seconds.item())
    if rank == 0:
        found.update({kind: statistics.median(seconds[2:]) for kind, seconds in times.items()})
    dist.destroy_process_group()


class _Step:
    """A training step; a call runs it and returns its seconds. `strategy` None: without communication."""

    def __init__(self, settings: dict, clips: int, device: torch.device, strategy: Strategy | None) -> None:
        torch.manual_seed(0)
        model = build(settings).to(device).train()
        self.batch, self.model, self.run, self.device = random_batch(model, clips, device), model, model, device
        if strategy == "ddp":
            self.run = DistributedDataParallel(model)
        elif strategy == "fsdp":
            parallel.shard(model, init_device_mesh(device.type, (dist.get_world_size(),)))
        self.optimizer, self.steps = model.optim.build(model, clips * dist.get_world_size()), 0

    def __call__(self) -> float:
        start = time.perf_counter()
        self.model.random_key = RandomKey("train", self.steps)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            total(self.run(self.batch)).backward()
        norm = parallel.gradient_norm(p.grad for p in self.model.parameters() if p.grad is not None)
        torch.nn.utils.clip_grads_with_norm_(self.model.parameters(), 1.0, norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        synchronize(self.device)
        self.steps += 1
        return time.perf_counter() - start


def random_batch(model: Objective, clips: int, device: torch.device) -> Batch:
    """Videos of noise with names, captions and labels, of the encoder's size."""
    e = cast(Encoder, model.encoder)
    video = torch.randint(0, 256, (clips, 3, e.frames, e.size, e.size), dtype=torch.uint8, device=device)
    texts = [f"a red circle moves left {i}" for i in range(clips)]
    return {"video": video, "name": texts, "text": texts, "label": torch.zeros(clips, dtype=torch.long, device=device)}


def flops_per_clip(model: Objective) -> float:
    """FLOPs of a training step for one clip: three times those that torch counts in the forward pass."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(random_batch(model, 1, torch.device("cpu")))
    return 3.0 * counter.get_total_flops()


@dataclass
class Cluster:
    """Assumptions of the estimate; by default nodes of eight A100-80G with a 200 Gb/s port each.

    Args:
        peak: FLOP/s of a device in bfloat16.
        mfu: share of the peak that computation without communication reaches.
        within_node, between_nodes: bytes a second that a device sends in practice.
        latency: seconds of one hop.
        devices_per_node: devices in a node.
        overlap: share of computation that communication can overlap with.
        jitter: relative standard deviation of a device's step time; all n wait for the slowest, which is
            sqrt(2 ln n) deviations late.
    """

    peak: float = 312e12
    mfu: float = 0.4
    within_node: float = 200e9
    between_nodes: float = 20e9
    latency: float = 10e-6
    devices_per_node: int = 8
    overlap: float = 0.6
    jitter: float = 0.01


@torch.no_grad()
def estimate(
    model: nn.Module,
    flops: float,
    clips: int,
    devices: int,
    strategy: Strategy,
    cluster: Cluster,
    bfloat16_weights: bool = False,
) -> dict[str, float]:
    """Seconds of a `step` on `devices`, the `share` of exposed communication in it, and the weak-scaling `efficiency`.

    DDP sends gradients (4 bytes a parameter) around a ring: 2 (n - 1) / n times their bytes. FSDP2 sends weights twice
    (4 bytes; 2 with `bfloat16_weights`) and gradients once: (n - 1) / n times the sum. A ring over nodes is as fast as
    its slowest link. A message takes 2 log2 n hops under DDP (NCCL's trees) and n - 1 under FSDP2 (its rings). Exposed
    is the communication beyond `overlap`, and at least the last of `units` messages.

    Args:
        flops: of a training step for one clip.
        clips: of a device's step.
    """
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    compute = flops * clips / (cluster.peak * cluster.mfu)
    bandwidth = cluster.within_node if devices <= cluster.devices_per_node else cluster.between_nodes
    units = max(1, len(parallel.blocks(model)))
    sent = 8 * parameters if strategy == "ddp" else (8 if bfloat16_weights else 12) * parameters
    messages = units * (1 if strategy == "ddp" else 3)
    hops = 2 * math.ceil(math.log2(devices)) if strategy == "ddp" else devices - 1
    communication = sent * (devices - 1) / devices / bandwidth + messages * hops * cluster.latency
    exposed = max(communication - cluster.overlap * compute, communication / units) if devices > 1 else 0.0
    late = compute * cluster.jitter * math.sqrt(2 * math.log(devices))
    step = compute + exposed + late
    return {"step": step, "share": exposed / step, "efficiency": compute / step}
