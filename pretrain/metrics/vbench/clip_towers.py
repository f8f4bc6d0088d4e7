"""CLIP's and ViCLIP's towers as VBench uses them: the project's own models with frozen weights of any layout.

CLIP's image tower is ViCLIP's video tower at one frame, so OpenAI's, open_clip's and transformers' weights load by
`load_weights`, and no second implementation is needed.

Letters in shapes: n frames or sentences, D channels.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

import models
from models.text import TEXT_SIZES, CLIPText
from models.tokenizers import CLIPTokenizer
from models.viclip import ViCLIPVision
from pretrain.metrics.vbench.device import run_on
from pretrain.metrics.vbench.frames import Block
from pretrain.metrics.vbench.transforms import for_clip

# OpenAI's release: image tower, text tower.
CLIP_B32 = {"width": 768, "depth": 12, "heads": 12, "mlp": 3072, "patch": 32, "out": 512}, TEXT_SIZES["base"]
CLIP_L14 = {"width": 1024, "depth": 24, "heads": 16, "mlp": 4096, "patch": 14, "out": 768}, TEXT_SIZES["large"]

_VISION, _TEXT = ("width", "depth", "heads", "mlp", "patch"), ("width", "depth", "heads", "mlp", "out")


class Towers(nn.Module):
    """An image or video tower and a text tower, under the names that `load_weights` knows.

    Args:
        context: number of tokens of a sentence: 77 in CLIP, 32 in ViCLIP.
    """

    def __init__(
        self, vision: Mapping[str, int], text: Mapping[str, int], frames: int = 1, context: int = 77, size: int = 224
    ) -> None:
        super().__init__()
        self.encoder = ViCLIPVision(*(vision[name] for name in _VISION), frames=frames, size=size, out=vision["out"])
        self.text = CLIPText(*(text[name] for name in _TEXT), context=context)
        self.temperature = nn.Parameter(torch.tensor(0.01))
        self.eval().requires_grad_(False)

    def load(self, weights: str | Path | Mapping[str, Tensor]) -> "Towers":
        """Load weights; ValueError if a tensor of either tower is missing (CLIP has no positions in time)."""
        report = models.load_weights(self, weights)
        left_out = {"temperature"} | ({"encoder.time.table"} if self.encoder.frames == 1 else set())
        if missing := sorted(set(report.missing) - left_out):
            raise ValueError(f"{weights!s:.200}: no {missing[0]} for the towers that VBench needs: {report}")
        return self

    @cached_property
    def image(self) -> "CLIPImage":  # cached: scorers share features of one and the same module
        return CLIPImage(self.encoder)

    @cached_property
    def sentence(self) -> "TextTower":
        return TextTower(self.text)


class CLIPImage(nn.Module):
    """Features `[n, D]` of `frames` `[n, 3, 224, 224]`, normalised; or `[1, D]` of a clip `[1, 3, T, 224, 224]`."""

    def __init__(self, encoder: ViCLIPVision) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, frames: Tensor) -> Tensor:
        return self.encoder.feature(frames if frames.ndim == 5 else frames[:, :, None])


class TextTower(nn.Module):
    """Features `[n, D]` of sentences; longer ones are cut before their end token."""

    def __init__(self, text: CLIPText) -> None:
        super().__init__()
        self.text, self.tokenizer = text, CLIPTokenizer(text.context)

    def forward(self, sentences: Sequence[str]) -> Tensor:
        return self.text.feature(self.tokenizer(sentences).to(cast(Tensor, self.text.pos_embed).device))


def image_features(block: Block, clip: nn.Module, size: int) -> Tensor:
    """CLIP's features `[n, D]` of the frames of a block, made once for all dimensions; so are the frames it takes."""
    small = block.once(("clip", size), lambda: for_clip(block.frames, size))
    return block.once(("clip", size, clip), lambda: run_on(clip, small))
