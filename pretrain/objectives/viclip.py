"""ViCLIP: a video and its caption get the same vector, and the video is seen by a tenth of its patches (2307.06942)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.text import CLIPText
from models.tokenizers import CLIPTokenizer, Words
from models.viclip import ViCLIPVision
from pretrain.learning.contrast import keys, pair_loss, read, unit_texts, unit_videos
from pretrain.learning.grad_cache import check, in_parts
from pretrain.learning.masking import Mask
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
        chunk_size: pairs that the towers see at a time, where a batch needs more memory than there is (see `gradcache`;
            then leave `data.micro_batch` alone); None: all.
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
        chunk_size: int | None = None,
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
        self.bounds = {"temperature": (temperature_min, None)}
        self.exact_gather, self.positives = exact_gather, positives
        self.chunk_size = check(chunk_size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        video = batch["video"]
        ids = read(self.words, batch["text"], video.device)
        feature, text = in_parts(self.features, self.chunk_size, video, self.choose(video), ids)
        self.keep_in_bounds()
        same = keys(batch[self.positives], video.device)
        return {
            "contrast": pair_loss(feature, text, same, self.temperature, not self.training, self.exact_gather),
        }

    def features(self, video: Tensor, keep: Tensor | None, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[B, out]` of videos, of which `keep` `[B, K]` is seen, and of texts, not of length 1."""
        return self.encoder.feature(self.normalize(video), keep), self.embed(ids)

    def choose(self, video: Tensor) -> Tensor | None:
        """The tokens `[B, K]` that are seen; None: all."""
        if self.mask is None or not self.training:
            return None
        grid = self.encoder.grid
        return self.mask(self.noise(self.generator(video.device), len(video), self.mask.width(grid)), grid)

    def embed(self, ids: Tensor) -> Tensor:
        """Features of texts `[B, L]`, `[B, out]`, not of length 1."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze_text):
            return self.text.feature(ids)

    def encode_video(self, video: Tensor) -> Tensor:
        """Unit features `[B, out]` of `video` `[B, 3, T, H, W]`, all of whose patches are seen."""
        return unit_videos(self.encoder, self.normalize(video))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit features `[n, out]` of any number of texts."""
        return unit_texts(lambda some: self.embed(read(self.words, some, self.device)), texts)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`features` `[B, out]`, whose product with `encode_text`'s is the cosine."""
        return {"features": self.encode_video(batch["video"])}
