"""ViLP: an image-text model becomes a video-text model cheaply, with dropped patches and masked text (2310.19554)."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.fusion import FusionDecoder
from models.text import CLIPText
from models.tokenizers import CLIPTokenizer, Words
from models.viclip import ViCLIPVision
from pretrain.learning import two_towers
from pretrain.learning.batch import Batch
from pretrain.learning.contrast import ContrastLoss, hash_names, logit_bias, pair_loss
from pretrain.learning.grad_cache import check_chunk_size, in_chunks
from pretrain.learning.masking import Mask
from pretrain.learning.text_masking import choose_tokens
from pretrain.learning.transfer import HOST, to_device
from pretrain.objectives.objective import Objective


class ViLP(Objective):
    """Contrast of videos and texts, and masked tokens of the text predicted from the video's visible patches.

    Args:
        encoder, text: the towers, with equal `out`; `text` with `mask_token`. `weights` of CLIP initialise both.
        fusion: predicts masked tokens.
        words: cleans and tokenizes captions; by default CLIP's tokenizer with the text tower's context.
        mask: selects the visible patches in training; None: all, as in evaluation.
        word_ratio: share of masked tokens; at least one of each text is masked.
        contrast_with: the masked text ("hidden"), without a second pass of the text tower, or the "whole" text.
        freeze_text: train neither the text tower's blocks nor its tables; the embedding of the mask token is trained.
        word_weight: weight of the masked-token loss relative to contrast.
        temperature, temperature_min, exact_gather, positives, contrast, chunk_size: see `ViCLIP`.
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
        contrast: ContrastLoss = "softmax",
        chunk_size: int | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        two_towers.check_widths(encoder, text)
        if (fusion.width, fusion.video_width) != (text.width, encoder.width):
            raise ValueError(
                f"the fusion decoder is made for texts of width {fusion.width} and videos of {fusion.video_width}, and "
                f"the towers have {text.width} and {encoder.width}: set its width and video_width"
            )
        if text.mask_embed is None:
            raise ValueError("ViLP masks text, which needs a mask token: give the text tower mask_token: true")
        self.encoder, self.text, self.fusion, self.mask = self.with_statistics(encoder), text, fusion, mask
        self.words = words or Words(CLIPTokenizer(text.context))
        self.needs = ("video", "text")
        self.freeze_text = freeze_text
        text.requires_grad_(not freeze_text)
        text.mask_embed.requires_grad_(True)
        self.word_ratio, self.word_weight, self.contrast_with = word_ratio, word_weight, contrast_with
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.bounds = {"temperature": (temperature_min, None)}
        self.logit_bias = logit_bias(contrast)
        self.exact_gather: bool = exact_gather
        self.positives: Literal["name", "text"] = positives
        self.chunk_size = check_chunk_size(chunk_size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        video = batch["video"]
        generator, grid = self.generator(video.device), self.encoder.grid
        keep = None
        if self.mask is not None and self.training:
            keep = self.mask(self.noise(generator, len(video), self.mask.width(grid)), grid)
        ids = two_towers.token_ids(self.words, batch, HOST)
        # Masked on the host, which needs the number of masked tokens and would have to wait for a device's.
        drawn_by = generator if generator.device == HOST else self.generator(HOST)
        masked = self.mask_tokens(ids, self.noise(drawn_by, len(ids), self.text.context)[:, : ids.shape[1]])
        ids = to_device(ids, video.device)
        feature, text, errors = in_chunks(self.encode_and_predict, self.chunk_size, video, keep, ids, masked)
        self.clamp_parameters()
        keys = hash_names(batch[self.positives], video.device)
        options = not self.training, self.exact_gather, self.logit_bias
        return {
            "contrast": pair_loss(feature, text, keys, self.temperature, *options),
            "words": self.word_weight * errors.mean(),
        }

    def encode_and_predict(
        self, video: Tensor, keep: Tensor | None, ids: Tensor, masked: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features `[B, out]` of videos and texts, and the masked-token loss per text, `[B]`.

        `masked` `[B, L]` is on the host.
        """
        feature, tokens = self.encoder.feature_and_tokens(video, keep)
        text, states = self.text(ids, to_device(masked, ids.device))
        if self.contrast_with == "whole":
            text = two_towers.text_features(self.text, ids, self.freeze_text)
        return feature, text, self.masked_token_loss(states, tokens, ids, masked)

    def mask_tokens(self, ids: Tensor, noise: Tensor) -> Tensor:
        """True where a token is masked, `[B, L]`: never start, end or padding, and at least one token of each text."""
        place, end = torch.ones_like(ids).cumsum(dim=1) - 1, ids.argmax(dim=1, keepdim=True)
        return choose_tokens(noise, (place > 0) & (place < end), self.word_ratio, at_least_one=True)

    def masked_token_loss(self, states: Tensor, video: Tensor, ids: Tensor, masked: Tensor) -> Tensor:
        """Cross entropy of the masked tokens, averaged per text, `[B]`; 0 for an empty text.

        The mean over texts does not depend on how a batch is divided. `masked` `[B, L]` is on the host.
        """
        end = ids.argmax(dim=1, keepdim=True)
        fused = self.fusion(states, video, torch.arange(ids.shape[1], device=ids.device) <= end)
        count = masked.sum(dim=1).clamp(min=1)
        row, place, count = (to_device(x, ids.device) for x in (*masked.nonzero(as_tuple=True), count))
        scores = self.fusion.scores(fused[row, place], self.text.token_embed.weight)
        loss = F.cross_entropy(scores.float(), ids[row, place], reduction="none")
        return torch.zeros(len(ids), device=loss.device).index_add(0, row, loss / count[row])

    encode_video, encode_text, predict = two_towers.encode_video, two_towers.encode_text, two_towers.predict
    token_encoder = two_towers.token_encoder
