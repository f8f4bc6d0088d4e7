"""An instruction step of VideoChat2 with packed rows against padded ones, at the lengths of its published data.

The shares of the kinds are those of the published samples. Their lengths are not published: each kind's lie evenly
between two bounds, from the published form (an instruction of one or two sentences, then questions and answers).
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.chat.conversation import IGNORE_INDEX, ChatBatch
from models.chat.qformer import QFormer
from models.tokenizers import BertTokenizer
from models.vit import VideoViT
from pretrain.learning.chat_rows import Row
from pretrain.learning.language import Language, LanguageLoRA
from pretrain.objectives import Converse
from pretrain.studies.speed.step import synchronize

VISUAL = 96  # tokens of a video or a picture
# Kinds of the published instruction data: samples, and the fewest and the most text tokens.
KINDS: dict[str, tuple[int, int, int]] = {
    "simple caption": (1_112_920, 40, 75),
    "question": (300_824, 40, 80),
    "reasoning, long answers": (76_643, 180, 350),
    "reasoning, short answers": (161_752, 50, 110),
    "classification": (139_919, 60, 120),
    "conversation": (83_868, 150, 450),
    "detailed caption": (48_082, 120, 300),
}
_TOKENIZERS = Path(__file__).resolve().parents[3] / "recipes/data/shapes_chat"
_READ = 32  # tokens of an instruction that the Q-Former reads


@dataclass(frozen=True)
class Sizes:
    """Of the language model (`vocabulary`, `width`, `layers`) and of the encoder (its width is `encoder`).

    The default has the proportions of VideoChat2 with a 7B language model: the encoder's step costs about half as many
    FLOPs as the language model's.
    """

    vocabulary: int = 2048
    width: int = 512
    layers: int = 6
    encoder: int = 192
    blocks: int = 5
    frames: int = 4
    pixels: int = 112


@dataclass
class PackingReport:
    """Seconds are medians over the rounds; `floor` is padded tokens over tokens, on average and of this batch."""

    micro: int
    samples: int
    rounds: int
    floor: float
    own_floor: float
    seconds: dict[str, dict[str, float]]
    losses: dict[str, float]

    def json(self) -> dict[str, Any]:
        return vars(self)

    def markdown(self) -> str:
        head = f"## packed rows: micro-batches of {self.micro}, {self.samples} samples a step, {self.rounds} rounds"
        lines = [
            head,
            "",
            f"padded tokens / tokens: {self.floor:.2f} on average, {self.own_floor:.2f} of this batch",
            "",
        ]
        lines += ["| | rows | s | against packed | loss |", "| --- | --- | ---: | ---: | ---: |"]
        for part, found in self.seconds.items():
            lines += [
                f"| {part} | {name} | {seconds:.2f} | {seconds / found['packed']:.2f}x | {self.losses[name]:.6f} |"
                for name, seconds in found.items()
            ]
        return "\n".join(lines)


def quantiles(count: int) -> np.ndarray:
    """Text tokens of so many samples, which stand for the mix: its quantiles, in order."""
    total = sum(samples for samples, _, _ in KINDS.values())
    many = [np.linspace(low, high, max(2, 20_000 * n // total)) for n, low, high in KINDS.values()]
    return np.quantile(np.concatenate(many), (np.arange(count) + 0.5) / count).round().astype(int)


def padding_floor(micro: int, draws: int = 20_000) -> float:
    """Tokens of padded micro-batches over their tokens without padding: what packing can save at most where the cost is
    that of tokens."""
    lengths = VISUAL + np.random.default_rng(0).choice(quantiles(20_000), (draws, micro))
    return float(lengths.max(axis=1).mean() / lengths.mean())


def typical_order(lengths: np.ndarray, micro: int, draws: int = 1000) -> np.ndarray:
    """An order of these samples whose micro-batches have about as much padding as those of random orders on average."""
    rng = np.random.default_rng(1)
    orders = [rng.permutation(lengths) for _ in range(draws)]
    longest = np.array([order.reshape(-1, micro).max(axis=1).sum() for order in orders])
    return orders[int(np.abs(longest - longest.mean()).argmin())]


def build(sizes: Sizes, device: str = "cpu") -> Converse:
    """The model of random weights, with LoRA; what VideoChat2's third stage trains is trained."""
    torch.manual_seed(0)
    heads = max(1, sizes.encoder // 64)
    encoder = VideoViT(
        *(sizes.encoder, sizes.blocks, heads, 4 * sizes.encoder),
        **{"patch": 16, "tubelet": 1, "frames": sizes.frames, "size": sizes.pixels, "norm": False},
    )
    former = QFormer(192, 4, 3, 768, sizes.encoder, vocabulary=64, context=64, dropout=0.0)
    config = {
        **{"model_type": "llama", "vocab_size": sizes.vocabulary, "hidden_size": sizes.width},
        **{"intermediate_size": sizes.width * 43 // 16, "num_hidden_layers": sizes.layers},
        **{"num_attention_heads": max(1, sizes.width // 64), "max_position_embeddings": 2048},
    }
    language = Language(config, random=0, tokenizer=str(_TOKENIZERS), lora=LanguageLoRA(16, 32, 0.0))
    reader = BertTokenizer(str(_TOKENIZERS / "bert.txt"), 64)
    trained = ["^encoder", "^norm", "^qformer", "queries$", "^projector", "lora_"]
    made = Converse(encoder, former, language, "vicuna", reader, VISUAL - 64, 64, trained=trained)
    return made.to(device).train()


def row_of(text: int) -> Row:
    """A row of so many text tokens, of which the second half are targets."""
    ids = np.arange(VISUAL + text) % 60 + 4
    labels = np.where(np.arange(len(ids)) < VISUAL + text // 2, IGNORE_INDEX, ids)
    return {
        "ids": ids,
        "labels": labels,
        "slots": np.arange(VISUAL),
        "cut": np.array(0),
        "reads": np.arange(_READ) % 60,
    }


def measure(sizes: Sizes, micro: int, samples: int = 32, rounds: int = 5, device: str = "cpu") -> PackingReport:
    """Times packed rows, padded rows, and padded rows with the logits of all places, as language models of transformers
    give them, in turns: whole steps, and the language model alone. On a CPU the seconds are the process's."""
    model = build(sizes, device)
    lengths = typical_order(quantiles(samples), micro)
    generator = torch.Generator().manual_seed(0)
    shape = (micro, 3, sizes.frames, sizes.pixels, sizes.pixels)
    groups = [[row_of(int(text)) for text in lengths[i : i + micro]] for i in range(0, samples, micro)]
    videos = [torch.randint(256, shape, generator=generator, dtype=torch.uint8).to(device) for _ in groups]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-5)
    prepared = {name: [make(model, rows) for rows in groups] for name, make in _FORMS.items()}
    tokens = {name: sum(chat.ids.numel() for chat in chats) for name, chats in prepared.items()}

    def step(chats: Sequence[ChatBatch], whole: bool) -> float:
        total = 0.0
        for chat, video, rows in zip(chats, videos, groups, strict=True):
            if whole:
                visual = model.visual_tokens(video, rows)
            else:
                visual = torch.zeros(len(rows), VISUAL, sizes.width, device=device, requires_grad=True)
            assert isinstance(visual, Tensor)
            loss = model.model(chat, visual) / len(groups)
            loss.backward()
            total += loss.detach()
        if whole:
            optimizer.step()
        optimizer.zero_grad()
        return float(total)

    optimizer.param_groups[0]["lr"] = 0.0  # equal losses: the first steps change nothing
    losses = {name: step(chats, True) for name, chats in prepared.items()}
    optimizer.param_groups[0]["lr"] = 1e-5
    seconds: dict[str, dict[str, float]] = {}
    for part, whole in (("step", True), ("language model", False)):
        found = timed({name: partial(step, chats, whole) for name, chats in prepared.items()}, rounds, device)
        seconds[part] = {name: statistics.median(times) for name, times in found.items()}
    own = tokens["padded"] / tokens["packed"]
    return PackingReport(micro, samples, rounds, padding_floor(micro), own, seconds, losses)


def timed(works: dict[str, Callable[[], object]], rounds: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each work, in turns, after one round that is not counted."""
    clock = time.process_time if device == "cpu" else time.perf_counter  # other processes share a CPU
    found: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds + 1):
        for name, work in works.items():
            synchronize(torch.device(device))
            start = clock()
            work()
            synchronize(torch.device(device))
            found[name].append(clock() - start)
    return {name: times[1:] for name, times in found.items()}


def _packed(model: Converse, rows: Sequence[Row]) -> ChatBatch:
    return model.chat_batch(rows, packed=True)


def _padded(model: Converse, rows: Sequence[Row]) -> ChatBatch:
    return model.chat_batch(rows, packed=False)


def _all_logits(model: Converse, rows: Sequence[Row]) -> ChatBatch:
    chat = model.chat_batch(rows, packed=False)
    return replace(chat, before_targets=torch.arange(chat.ids.shape[1] - 1, device=chat.ids.device))


_FORMS: dict[str, Callable[[Converse, Sequence[Row]], ChatBatch]] = {
    "packed": _packed,
    "padded": _padded,
    "padded, all logits": _all_logits,
}
