"""A recipe's objective on fake tensors, in a world of any size: the cost of a micro-batch."""

import contextlib
import copy
import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models.tokenizers import Tokenizer, Words
from pretrain.export.load_run import build
from pretrain.learning.randomness import RandomKey
from pretrain.learning.teachers import Frozen
from pretrain.objectives import Objective
from pretrain.plan.tracer import MicroBatchCost, to_fake_tensors, trace

_HALF_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}
_START, _END = 1, 999


class DryRun:
    """Costs of a recipe's micro-batches; each is traced once.

    Args:
        recipe: resolved, with `model`, `data` and `trainer`.
        gpu: whether the devices are GPUs.
        tokens: length of each caption in tokens; None: the text tower's context.
    """

    def __init__(self, recipe: dict[str, Any], gpu: bool = True, tokens: int | None = None) -> None:
        self.recipe, self.gpu, self.tokens = recipe, gpu, tokens
        self.data = recipe["data"]["init_args"]
        precision = str(recipe["trainer"].get("precision") or "32-true")
        self.half_dtype = _HALF_DTYPES.get(precision.partition("-")[0])  # of computation; None: full precision
        self.keeps_half_weights = precision.endswith("-true") and self.half_dtype is not None
        self.costs: dict[tuple, MicroBatchCost] = {}

    @property
    def views(self) -> int:
        return self.data.get("views") or 1

    def cost(self, videos: int, world: int = 1, recompute: bool = False, half_weights: bool = False) -> MicroBatchCost:
        """Cost of `videos` (times the recipe's views) on each of `world` devices; with `half_weights`, of a step whose
        weights are in half precision while they are used."""
        half_weights = (half_weights or self.keeps_half_weights) and self.half_dtype is not None
        key = videos, recompute, half_weights
        for world_size in (world, None):  # None: the cost is the same in any world
            if (*key, world_size) in self.costs:
                return self.costs[*key, world_size]
        objective, mode = self.objective(recompute, half_weights)
        parts = max(1, self.data["global_batch"] // (videos * world))
        objective._trainer = _trainer(world)
        objective.random_key = RandomKey("train", 0, 0, parts)
        with mode:
            shape = videos * self.views, 3, self.data["frames"], self.data["size"], self.data["size"]
            video = torch.empty(shape, dtype=torch.uint8)
        rows = len(video)
        batch = {
            "video": video,
            "name": [str(i % videos) for i in range(rows)],
            "text": ["a caption"] * rows,
            "label": torch.zeros(rows, dtype=torch.long),
        }
        with _fake_process_group(world):
            cost = trace(objective, batch, mode, self.gpu, self.half_dtype)
        self.costs[*key, world if cost.communicates or world == 1 else None] = cost
        return cost

    @functools.cache  # noqa: B019 lives as long as the plan
    def objective(self, recompute: bool = False, half_weights: bool = False) -> tuple[Objective, FakeTensorMode]:
        """The objective in training mode, made of fake tensors, and their mode."""
        settings = copy.deepcopy(self.recipe["model"])
        settings["init_args"] |= {"weights": None, "recompute": recompute, "compile": False}
        with torch.device("meta"):
            objective = build(settings)
        for module in objective.modules():
            if isinstance(module, Frozen):
                module.weights = None  # a teacher of fake tensors reads no file
        for name, part in vars(objective).items():
            if isinstance(part, Words):
                tokenizer = FixedLengthTokenizer(part.tokenizer.context, self.tokens)
                setattr(objective, name, dataclasses.replace(part, tokenizer=tokenizer))
        if half_weights:
            for p in objective.parameters():
                p.data = p.data.to(self.half_dtype)
        mode = to_fake_tensors(objective)
        objective.configure_model()
        return objective.train(), mode


class FixedLengthTokenizer(Tokenizer):
    """Makes any text `tokens` long, or as long as the context (None)."""

    vocabulary, start, end, mask = 1000, _START, _END, 2

    def __init__(self, context: int, tokens: int | None) -> None:
        self.context, self.tokens = context, tokens

    def __call__(self, texts: Sequence[str]) -> Tensor:
        length = max(2, min(self.context, self.tokens or self.context))
        ids = torch.zeros(len(texts), self.context, dtype=torch.long)
        ids[:, :length] = 3
        ids[:, 0] = _START
        ids[:, length - 1] = _END
        return ids


def _trainer(world: int) -> Any:
    """The part of a Trainer that an objective reads during `forward`."""
    data = SimpleNamespace(train=SimpleNamespace(classes=["yes", "no"]))
    return SimpleNamespace(world_size=world, global_rank=0, datamodule=data)


@contextlib.contextmanager
def _fake_process_group(world: int) -> Iterator[None]:
    """torch's fake process group: this process is rank 0 of `world`, and collectives return arbitrary values."""
    if world == 1 or dist.is_initialized():
        yield
        return
    from torch.testing._internal.distributed.fake_pg import FakeStore

    level = logging.getLogger("torch.distributed").level
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=world)
    try:
        yield
    finally:
        dist.destroy_process_group()
        logging.getLogger("torch.distributed").setLevel(level)
