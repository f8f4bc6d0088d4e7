"""ViCLIP: a video and its caption get the same vector, and the video is seen by a tenth of its patches (2307.06942)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.text import CLIPText
from models.tokenizers import CLIPTokenizer, Words
from models.viclip import ViCLIPVision
from pretrain.contrast import keys, pair_loss
from pretrain.masking import Mask
from pretrain.objectives.objective import Batch, Objective


class ViCLIP(Objective):
    """Contrast of videos and texts over all ranks.

    Args:
        encoder, text: the towers, of one `out`; `weights` of CLIP start both.
        words: how captions are read; by default cleaned, then CLIP's tokenizer at the text tower's context.
        mask: which patches are seen in training; None: all, as in evaluation.
        freeze_text: train the video tower and the temperature alone, as the released runs do.
        temperature, temperature_min: where it starts and what it never falls below. As released, both are one.
        exact_gather: the true gradient over ranks; False is the released code's, smaller by the number of ranks.
        positives: what makes two samples of a batch one: the video's name, or the caption too.
        base: see `Objective`. Videos are normalised by ImageNet's statistics, as released, not by CLIP's.
    """

    def __init__(
        self,
        encoder: ViCLIPVision,
        text: CLIPText,
        words: Words | None = None,
        mask: Mask | None = None,
        freeze_text: bool = True,
        temperature: float = 0.01,
        temperature_min: float = 0.01,
        exact_gather: bool = True,
        positives: Literal["name", "text"] = "name",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        if encoder.out != text.out:
            raise ValueError(f"the towers differ: the video's `out` is {encoder.out}, the text's {text.out}")
        self.encoder, self.text, self.mask = encoder, text, mask
        self.words = words or Words(CLIPTokenizer(text.context))
        self.needs = ("video", "text")
        self.freeze_text = freeze_text
        text.requires_grad_(not freeze_text)
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.temperature_min, self.exact_gather, self.positives = temperature_min, exact_gather, positives

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        video = self.normalize(batch["video"])
        feature, _ = self.encoder.look(video, self.choose(video))
        with torch.no_grad():
            self.temperature.clamp_(min=self.temperature_min)
        same = keys(batch[self.positives], video.device)
        text = self.embed(batch["text"])
        return {
            "contrast": pair_loss(feature, text, same, self.temperature, not self.training, self.exact_gather),
        }

    def choose(self, video: Tensor) -> Tensor | None:
        """The tokens `[B, K]` that are seen; None: all."""
        if self.mask is None or not self.training:
            return None
        grid = self.encoder.grid
        return self.mask(self.noise(self.dice(video.device), len(video), self.mask.width(grid)), grid)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Features of texts, `[B, D]`, not of length 1."""
        ids = read(self.words, texts, self.device)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_text):
            return self.text(ids)[0]

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """Unit features `[B, D]` of `video` `[B, 3, T, H, W]`, all of whose patches are seen."""
        return F.normalize(self.encoder.look(self.normalize(video))[0].float(), dim=-1)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str], at_once: int = 256) -> Tensor:
        """Unit features `[n, D]` of any number of texts."""
        parts = [self.embed(texts[i : i + at_once]) for i in range(0, len(texts), at_once)]
        return F.normalize(torch.cat(parts).float(), dim=-1)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`features` `[B, D]`, whose product with `encode_text`'s is the cosine."""
        return {"features": self.encode_video(batch["video"])}


def read(words: Words, texts: Sequence[str], device: torch.device) -> Tensor:
    """Ids `[B, L]` of CLIP's texts, no longer than the longest of them: what comes after the end cannot be seen."""
    ids = words(texts)
    return ids[:, : int(ids.argmax(dim=1).max()) + 1].to(device)
