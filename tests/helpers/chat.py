"""A tiny chat model of random weights, and answerers whose scores are known."""

import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from datamodules.sources.synthetic import COLOURS
from models.chat.language_model import language_model
from models.chat.qformer import QFormer
from models.chat.templates import ChatTemplate, Mistral
from models.chat.videochat import VideoChat
from models.vit import VideoViT
from pretrain.chat.answerer import Answerer, Request, Writing, Written
from pretrain.chat.assistant import Assistant

SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, with a pad token that is not the end token."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=270, special_tokens=SPECIAL, initial_alphabet=alphabet)
    bpe.train_from_iterator(["What colour is it? A red one."], trainer)
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=bpe, **names)


def assistant(
    template: ChatTemplate | None = None, context: int = 2048, size: int = 16, frames: int = 2, seed: int = 0
) -> Assistant:
    """Of weights so large that its answers depend on what it is shown."""
    torch.manual_seed(seed)
    words = tokenizer()
    llama = {
        **{"model_type": "llama", "vocab_size": len(words), "hidden_size": 24, "intermediate_size": 32},
        **{"num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": context},
    }
    vit = VideoViT(width=12, depth=2, heads=2, mlp=24, patch=8, tubelet=1, frames=frames, size=size, norm=False)
    former = QFormer(width=16, depth=2, heads=2, mlp=24, source=12, dropout=0.0, text=False)
    model = VideoChat(vit, former, language_model(llama), queries=3, extra_queries=2)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "norm" not in name:
            nn.init.normal_(parameter, std=0.4)
    return Assistant(model, words, template or Mistral(), frames=frames)


def question_of(request: Request) -> tuple[str, list[str]]:
    """The question and its options in a request of MVBench's form; no options if it is in another."""
    text = request.conversation.turns[-1].question
    asked = text.partition("Question:")[2].partition("\n")[0].strip() or text
    lines = [line for line in text.splitlines() if line[:1] == "(" and line[2:4] == ") "]
    return asked, [line[4:] for line in lines]


def colour_of(clip: Tensor) -> str:
    """The colour of a shape before grey, in a clip `[C, T, H, W]`."""
    pixels = clip.permute(1, 2, 3, 0).numpy().astype(float)
    vivid = pixels[pixels.max(-1) - pixels.min(-1) > 80]
    return min(COLOURS, key=lambda name: np.abs(vivid.mean(0) - COLOURS[name]).sum())


def direction_of(clip: Tensor) -> str:
    """Which way a shape moves on the torus: the sum of its small steps."""
    pixels = clip.permute(1, 2, 3, 0).numpy().astype(float)
    mask = pixels.max(-1) - pixels.min(-1) > 80  # [T, H, W]
    steps = []
    for axis in (1, 2):  # y, x
        angle = np.arange(mask.shape[axis]) * 2 * np.pi / mask.shape[axis]
        weight = mask.sum(axis=3 - axis)  # [T, length]
        place = np.angle((weight * np.exp(1j * angle)).sum(1))
        steps.append(np.angle(np.exp(1j * np.diff(place))).sum())
    (y, x) = steps
    return ("down" if y > 0 else "up") if abs(y) > abs(x) else ("right" if x > 0 else "left")


class Known(Answerer):
    """Answers by a rule; of the likelihoods of options, that of its answer is the highest.

    Attributes:
        batches: numbers of requests that came at once.
    """

    def __init__(self, kind: str = "perfect", frames: int = 8, size: int = 64) -> None:
        self.kind, self.frames, self.size = kind, frames, size
        self.batches: list[int] = []

    def identity(self) -> str:
        return self.kind

    def answer(self, requests: Sequence[Request], writing: Writing) -> list[str]:
        self.batches.append(len(requests))
        return [self._answer(request) for request in requests]

    def stream(self, request: Request, writing: Writing, write: Callable[[str], bool]) -> Written:
        words = self._answer(request).split()
        said = [word for i, word in enumerate(words) if i < writing.most and write(" " * (i > 0) + word)]
        return Written(" ".join(said), len(said), len(request.conversation.turns), len(said) == len(words))

    def likelihoods(self, request: Request, options: Sequence[str]) -> list[float]:
        said = self._answer(request)[:1]
        return [0.0 if option.lstrip("(")[0] == said else -1.0 for option in options]

    def _answer(self, request: Request) -> str:
        """What follows `Best option:(`."""
        asked, options = question_of(request)
        if self.kind == "empty":
            return ""
        if self.kind == "blind" or not request.clips:
            index = 0
        elif self.kind == "random":
            index = random.Random(asked + "".join(options) + str(request.clips[0].sum())).randrange(len(options))
        else:
            clip = request.clips[0]
            seen = colour_of(clip) if "colour" in asked else direction_of(clip)
            index = options.index(seen) if seen in options else 0
        return f"{chr(ord('A') + index)}) {options[index]}\nand more" if options else "a shape"
