"""A recipe's objective on stand-ins, in a world of any size: what a micro-batch would take."""

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

from models.tokenizers import Tokenizer, Words
from pretrain.export.load_run import build
from pretrain.learning.randomness import RandomKey
from pretrain.learning.teachers import Frozen
from pretrain.objectives import Objective
from pretrain.plan.tracer import Traced, pretend, trace

_HALVES = {"bf16": torch.bfloat16, "16": torch.float16}


class Rehearsal:
    """Traces of a recipe, each made once.

    Args:
        recipe: resolved, with `model`, `data` and `trainer`.
        gpu: whether the devices are GPUs.
        words: places of a caption that hold a word; None: all that the text tower has.
    """

    def __init__(self, recipe: dict[str, Any], gpu: bool = True, words: int | None = None) -> None:
        self.recipe, self.gpu, self.words = recipe, gpu, words
        self.data = recipe["data"]["init_args"]
        precision = str(recipe["trainer"].get("precision") or "32-true")
        self.half = _HALVES.get(precision.partition("-")[0])
        self.true = precision.endswith("-true") and self.half is not None
        self.found: dict[tuple, Traced] = {}

    @property
    def views(self) -> int:
        return self.data.get("views") or 1

    def cost(self, videos: int, world: int = 1, recompute: bool = False, light: bool = False) -> Traced:
        """What `videos` (times the recipe's views) on each of `world` devices take; `light`: of weights that are in
        half precision while they are used."""
        light = (light or self.true) and self.half is not None
        key = videos, recompute, light
        for at in (world, None):  # None: in any world
            if (*key, at) in self.found:
                return self.found[*key, at]
        objective, mode = self.objective(recompute, light)
        global_batch = self.data["global_batch"]
        parts = max(1, global_batch // (videos * world))
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
        with _ranks(world):
            traced = trace(objective, batch, mode, self.gpu, self.half)
        self.found[*key, world if traced.talks or world == 1 else None] = traced
        return traced

    @functools.cache  # noqa: B019 lives as long as the plan
    def objective(self, recompute: bool = False, light: bool = False) -> tuple[Objective, Any]:
        """The objective made of stand-ins in training mode, and the mode they belong to."""
        settings = copy.deepcopy(self.recipe["model"])
        settings["init_args"] |= {"weights": None, "recompute": recompute, "compile": False}
        with torch.device("meta"):
            objective = build(settings)
        for module in objective.modules():
            if isinstance(module, Frozen):
                module.weights = None  # nothing to read: it has no values
        for name, part in vars(objective).items():
            if isinstance(part, Words):
                setattr(objective, name, dataclasses.replace(part, tokenizer=Full(part.tokenizer.context, self.words)))
        if light:
            for p in objective.parameters():
                p.data = p.data.to(self.half)
        mode = pretend(objective)
        objective.configure_model()
        return objective.train(), mode


class Full(Tokenizer):
    """Texts that fill their places, or the first `words` of them, whatever is read."""

    vocabulary, start, end, mask = 1000, 1, 999, 2

    def __init__(self, context: int, words: int | None) -> None:
        self.context, self.words = context, words

    def __call__(self, texts: Sequence[str]) -> Tensor:
        filled = max(2, min(self.context, self.words or self.context))
        ids = torch.zeros(len(texts), self.context, dtype=torch.long)
        ids[:, :filled] = 3
        ids[:, 0], ids[:, filled - 1] = self.start, self.end
        return ids


def _trainer(world: int) -> Any:
    """What an objective asks of its Trainer during `forward`."""
    data = SimpleNamespace(train=SimpleNamespace(classes=["yes", "no"]))
    return SimpleNamespace(world_size=world, global_rank=0, datamodule=data)


@contextlib.contextmanager
def _ranks(world: int) -> Iterator[None]:
    """Collectives among `world` ranks of which this is the first, and the others give anything: torch's fake group."""
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
