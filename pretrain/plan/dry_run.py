"""A recipe's objective on fake tensors, in a world of any size: the cost of a micro-batch."""

import contextlib
import copy
import dataclasses
import functools
import logging
import math
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from models.tokenizers import Tokenizer, Words
from pretrain.export.load_run import build
from pretrain.learning.randomness import RandomKey
from pretrain.learning.teachers import Frozen
from pretrain.objectives import Converse, Denoise, Objective
from pretrain.plan.optimiser_state import state_bytes
from pretrain.plan.tracer import MicroBatchCost, to_fake_tensors, trace, trace_call

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
        rows = videos * self.views
        batch: dict[str, Any] = {
            "name": [str(i % videos) for i in range(rows)],
            "text": ["a caption"] * rows,
            "label": torch.zeros(rows, dtype=torch.long),
        }
        with mode:
            batch |= self._clips(objective, rows)
        if isinstance(objective, Converse):
            batch["chat"] = [objective.row_encoder.example(self.clip[1:], self.tokens)] * rows
        if "images" in batch:
            batch["image_text"] = [["a caption"] * batch["images"].shape[2]] * rows
        with _fake_process_group(world):
            cost = trace(objective, batch, mode, self.gpu, self.half_dtype)
        self.costs[*key, world if cost.communicates or world == 1 else None] = cost
        return cost

    @functools.cache  # noqa: B019 lives as long as the plan
    def optimiser_state(self, half_weights: bool) -> float | None:
        """Bytes of the state of the recipe's optimiser, whose weights are in half precision or in float32; None: it
        cannot take a step here."""
        objective, _ = self.objective()
        half = self.half_dtype if half_weights else None
        return state_bytes(objective.optim, objective.named_parameters(), half or torch.float32)

    def sampling(self) -> MicroBatchCost | None:
        """Cost of one step of sampling one video, and of its decoding; None: the objective does not generate."""
        objective, mode = self.objective()
        if not isinstance(objective, Denoise):
            return None
        objective._trainer = _trainer(1)
        batch: dict[str, Any] = {"name": ["0"], "text": ["a caption"]}
        with mode:
            batch |= self._clips(objective, 1)
        settings, objective.sampling = objective.sampling, dataclasses.replace(objective.sampling, steps=1)
        try:
            return trace_call(cast(Any, objective.eval().predict), objective, batch, mode, self.gpu, self.half_dtype)
        finally:
            objective.sampling = settings
            objective.train()

    def answering(self) -> tuple[int, int] | None:
        """Bytes of the keys and values of a token in a language model that answers, and tokens of a conversation; None:
        the objective has none."""
        objective, _ = self.objective()
        if not isinstance(objective, Converse):
            return None
        config: Any = objective.model.llm.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        size = 4 if self.half_dtype is None else 2
        tokens = len(objective.row_encoder.example(self.clip[1:], self.tokens)["ids"])
        return 2 * config.num_hidden_layers * heads * width * size, tokens

    def _clips(self, objective: Objective, rows: int) -> dict[str, Tensor]:
        """The large fields of a batch: videos, images beside them, or latents with text states."""
        frames, height, width = self.clip
        if is_latents(self.data.get("train")):
            assert isinstance(objective, Denoise)  # no other method takes latents
            vae = objective.autoencoder
            shape = rows, 2 * vae.channels, frames, height // vae.factor, width // vae.factor
            states = rows, objective.prompts.tokenizer.context, objective.unet.text_width
            return {"latents": torch.empty(shape), "text_states": torch.empty(states)}
        fields = {"video": torch.empty(rows, 3, frames, height, width, dtype=torch.uint8)}
        if self.data.get("images") is not None:
            images = self.data.get("images_per_video") or 1
            fields["images"] = torch.empty(rows, 3, images, height, width, dtype=torch.uint8)
        return fields

    @property
    def clip(self) -> tuple[int, int, int]:
        """Frames, height and width of a clip in pixels; of buckets, those of the largest."""
        size = self.data["size"]
        height, width = (size, size) if isinstance(size, int) else size
        sizes = [(int(row[0]), int(row[1]), int(row[2])) for row in self.data.get("buckets") or []]
        return max(sizes, key=math.prod, default=(self.data["frames"], height, width))

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
            elif isinstance(part, Tokenizer):
                setattr(objective, name, FixedLengthTokenizer(part.context, self.tokens))
        if half_weights:
            for p in objective.parameters():
                p.data = p.data.to(self.half_dtype)
        mode = to_fake_tensors(objective)
        objective.configure_model()
        return objective.train(), mode


def is_latents(source: Any) -> bool:
    """Whether a recipe's source is one of latents, or a mixture of such."""
    if not isinstance(source, dict):
        return False
    options = source.get("init_args") or {}
    parts = options.get("sources") or []
    return source.get("class_path", "").endswith("Latents") or any(is_latents(part) for part in parts)


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
