"""ViLP: an image-text model becomes a video-text model cheaply, by dropped patches and hidden words (2310.19554)."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.fusion import FusionDecoder
from models.text import CLIPText
from models.tokenizers import CLIPTokenizer, Words
from models.viclip import ViCLIPVision
from pretrain.learning.contrast import keys, pair_loss, read, unit_texts, unit_videos
from pretrain.learning.grad_cache import check, in_parts
from pretrain.learning.masking import Mask
from pretrain.learning.text_masking import hidden_words
from pretrain.objectives.objective import Batch, Objective


class ViLP(Objective):
    """Contrast of videos and texts, and the hidden words of a text told from the video's patches that are left.

    Args:
        encoder, text: the towers, of one `out`; `text` mask_token words. `weights` of CLIP start both.
        fusion: tells hidden words.
        words: how captions are read; by default cleaned, then CLIP's tokenizer at the text tower's context.
        mask: which patches are seen in training; None: all, as in evaluation.
        word_ratio: of words that are hidden; one of each text always is.
        contrast_with: the text with hidden words, which costs no second pass, or the whole one.
        freeze_text: train neither the text tower's blocks nor its tables; what stands for hidden words trains.
        word_weight: of the loss of hidden words against that of contrast.
        temperature, temperature_min, exact_gather, positives, chunk_size: see `ViCLIP`.
        base: see `Objective`.
    """

    def __init__(
        self,
        encoder: ViCLIPVision,
        text: CLIPText,
        fusion: FusionDecoder,
        words: Words | None = None,
        mask: Mask | None = None,
        word_ratio: float = 0.15,
        contrast_with: Literal["hidden", "whole"] = "hidden",
        freeze_text: bool = True,
        word_weight: float = 1.0,
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
        if (fusion.width, fusion.video_width) != (text.width, encoder.width):
            raise ValueError(
                f"the fusion decoder is made for texts of width {fusion.width} and videos of {fusion.video_width}, and "
                f"the towers have {text.width} and {encoder.width}: set its width and video_width"
            )
        if text.mask_embed is None:
            raise ValueError("ViLP mask_token words: give the text tower mask_token: true")
        self.encoder, self.text, self.fusion, self.mask = encoder, text, fusion, mask
        self.words = words or Words(CLIPTokenizer(text.context))
        self.needs = ("video", "text")
        self.freeze_text = freeze_text
        text.requires_grad_(not freeze_text)
        text.mask_embed.requires_grad_(True)
        self.word_ratio, self.word_weight, self.contrast_with = word_ratio, word_weight, contrast_with
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.bounds = {"temperature": (temperature_min, None)}
        self.exact_gather, self.positives = exact_gather, positives
        self.chunk_size = check(chunk_size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        video = batch["video"]
        generator, grid = self.generator(video.device), self.encoder.grid
        keep = None
        if self.mask is not None and self.training:
            keep = self.mask(self.noise(generator, len(video), self.mask.width(grid)), grid)
        ids = read(self.words, batch["text"], video.device)
        hidden = self.hide(ids, self.noise(generator, len(ids), self.text.context)[:, : ids.shape[1]])
        feature, text, told = in_parts(self.look_and_tell, self.chunk_size, video, keep, ids, hidden)
        self.keep_in_bounds()
        same = keys(batch[self.positives], video.device)
        return {
            "contrast": pair_loss(feature, text, same, self.temperature, not self.training, self.exact_gather),
            "words": self.word_weight * told.mean(),
        }

    def look_and_tell(
        self, video: Tensor, keep: Tensor | None, ids: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features `[B, out]` of videos and texts, and how ill the hidden words of each were told, `[B]`."""
        feature, tokens = self.encoder.look(self.normalize(video), keep)
        text, states = self.text(ids, hidden)
        if self.contrast_with == "whole":
            text = self.embed(ids)
        return feature, text, self.tell(states, tokens, ids, hidden)

    def hide(self, ids: Tensor, noise: Tensor) -> Tensor:
        """True where a word is hidden, `[B, L]`: never start, end or padding, and one of each text at least."""
        return hidden_words(noise, self._words(ids), self.word_ratio, least_one=True)

    def _words(self, ids: Tensor) -> Tensor:
        place, end = torch.arange(ids.shape[1], device=ids.device), ids.argmax(dim=1, keepdim=True)
        return (place > 0) & (place < end)

    def tell(self, states: Tensor, video: Tensor, ids: Tensor, hidden: Tensor) -> Tensor:
        """Cross entropy of the hidden words, the mean over each text's, `[B]`: the mean of those does not depend on how
        a batch is divided. 0 for a text without words."""
        end = ids.argmax(dim=1, keepdim=True)
        told = self.fusion(states, video, torch.arange(ids.shape[1], device=ids.device) <= end)
        row, place = hidden.nonzero(as_tuple=True)
        scores = self.fusion.scores(told[row, place], self.text.token_embed.weight)
        loss = F.cross_entropy(scores.float(), ids[row, place], reduction="none")
        share = hidden.sum(dim=1).clamp(min=1)[row]
        return torch.zeros(len(ids), device=loss.device).index_add(0, row, loss / share)

    def embed(self, ids: Tensor) -> Tensor:
        """Features of whole texts `[B, L]`, `[B, out]`, not of length 1."""
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
