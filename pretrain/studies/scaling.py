"""Weak scaling: what exchanging gradients and weights adds to a step here, and a paper estimate for more devices."""

import math
import os
import statistics
import time
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from lightning.fabric.plugins.environments.lightning import find_free_network_port
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.parallel import DistributedDataParallel
from torch.utils.flop_counter import FlopCounterMode

from pretrain.export.load_run import build
from pretrain.learning import parallel
from pretrain.learning.randomness import RandomKey
from pretrain.objectives import Objective
from pretrain.studies.speed.step import settle

Strategy = Literal["ddp", "fsdp"]


def measure(
    settings: dict[str, Any], processes: int, clips: int, steps: int, strategy: Strategy, threads: int = 1
) -> dict[str, float]:
    """Seconds of a training step of `clips` videos a process, in `processes` of them at once on this machine.

    The same step is timed twice in turns, with the exchange and without, while all processes work: what they take from
    each other beside that (memory, cores) is in both. The share of communication is what the exchange adds and
    computation does not hide.

    Args:
        settings: the `model` part of a resolved recipe.
        threads: of each process on a CPU: as many whether one process works or several, so that steps compare.

    Returns:
        `step` and `alone`, medians of the slowest process a step, and `share` = 1 - alone / step, at least 0.
    """
    with mp.get_context("spawn").Manager() as manager:
        found = manager.dict()
        mp.spawn(
            _work,
            (processes, find_free_network_port(), settings, clips, steps, strategy, threads, found),
            nprocs=processes,
        )
        step, alone = found["step"], found["alone"]
    return {"step": step, "alone": alone, "share": max(0.0, 1 - alone / step)}


def _work(
    rank: int, world: int, port: int, settings: dict, clips: int, steps: int, strategy: Strategy, threads: int, found
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
        found.update({kind: statistics.median(taken[2:]) for kind, taken in times.items()})
    dist.destroy_process_group()


class _Step:
    """One training step, called for the seconds that it took."""

    def __init__(self, settings: dict, clips: int, device: torch.device, strategy: Strategy | None) -> None:
        torch.manual_seed(0)
        model = build(settings).to(device).train()
        self.batch, self.model, self.run, self.device = batch_of(model, clips, device), model, model, device
        if strategy == "ddp":
            self.run = DistributedDataParallel(model)
        elif strategy == "fsdp":
            parallel.shard(model, init_device_mesh(device.type, (dist.get_world_size(),)))
        self.optimizer, self.steps = model.optim.build(model, clips * dist.get_world_size()), 0

    def __call__(self) -> float:
        began = time.perf_counter()
        self.model.random_key = RandomKey("train", self.steps)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            sum(self.run(self.batch).values()).backward()
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        parallel.scale_gradients(gradients, parallel.gradient_norm(gradients), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        settle(self.device)
        self.steps += 1
        return time.perf_counter() - began


def batch_of(model: Objective, clips: int, device: torch.device) -> dict[str, Tensor | list[str]]:
    """Videos of noise with names and captions, of the size that the model was made for."""
    e = model.encoder
    video = torch.randint(0, 256, (clips, 3, e.frames, e.size, e.size), dtype=torch.uint8, device=device)
    texts = [f"a red circle moves left {i}" for i in range(clips)]
    return {"video": video, "name": texts, "text": texts, "label": torch.zeros(clips, dtype=torch.long, device=device)}


def flops_a_clip(model: Objective) -> float:
    """Floating point operations of a training step for one clip: what torch counts forward, three times."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(batch_of(model, 1, torch.device("cpu")))
    return 3.0 * counter.get_total_flops()


@dataclass
class Cluster:
    """What the estimate assumes; the defaults are of a node of eight A100-80G with a 200 Gb/s port for each.

    Args:
        peak: floating point operations a second of a device, in bfloat16.
        mfu: share of it that computation reaches by itself.
        inside, between: bytes a second that a device sends within its node and beyond it, as reached in practice.
        latency: seconds of one hop.
        node: devices a node.
        overlap: share of computation that communication can hide behind.
        jitter: deviation of a device's step time; all wait for the slowest of n, sqrt(2 ln n) deviations late.
    """

    peak: float = 312e12
    mfu: float = 0.4
    inside: float = 200e9
    between: float = 20e9
    latency: float = 10e-6
    node: int = 8
    overlap: float = 0.6
    jitter: float = 0.01


@torch.no_grad()
def estimate(
    model: nn.Module, flops: float, clips: int, devices: int, strategy: Strategy, cluster: Cluster, half: bool = False
) -> dict[str, float]:
    """Seconds of a step on `devices`, the share of them that is communication seen, and the weak-scaling efficiency.

    DDP sends gradients (4 bytes a parameter) around a ring: 2 (n - 1) / n times their bytes. FSDP2 sends weights twice
    (4 bytes; 2 with `half`) and gradients once: (n - 1) / n times the sum. A ring over nodes is as fast as its slowest
    link. A message takes 2 log2 n hops under DDP (NCCL's trees) and n - 1 under FSDP2 (its rings). What computation
    cannot hide is added: the rest beyond `overlap`, and at least the last of `units` messages.

    Args:
        flops: of a clip's training step; clips: of a device's step.
    """
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    compute = flops * clips / (cluster.peak * cluster.mfu)
    speed = cluster.inside if devices <= cluster.node else cluster.between
    units = max(1, len(parallel.blocks(model)))
    sent = 8 * parameters if strategy == "ddp" else (8 if half else 12) * parameters
    messages = units * (1 if strategy == "ddp" else 3)
    hops = 2 * math.ceil(math.log2(devices)) if strategy == "ddp" else devices - 1
    wire = sent * (devices - 1) / devices / speed + messages * hops * cluster.latency
    seen = max(wire - cluster.overlap * compute, wire / units) if devices > 1 else 0.0
    late = compute * cluster.jitter * math.sqrt(2 * math.log(devices))
    step = compute + seen + late
    return {"step": step, "share": seen / step, "efficiency": compute / step}
