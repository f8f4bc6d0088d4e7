"""InternVideo's multimodal stage: contrast of videos and captions, and captions generated token by token from the video
(arXiv 2212.03191, section 3.2)."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.caption import CaptionDecoder
from models.text import CLIPText
from models.tokenizers import CLIPTokenizer, Words
from models.uniformerv2 import UniFormerV2
from pretrain.learning import two_towers
from pretrain.learning.batch import Batch
from pretrain.learning.contrast import ContrastLoss, hash_names, logit_bias, pair_loss
from pretrain.learning.grad_cache import check_chunk_size, in_chunks
from pretrain.learning.masking import Mask
from pretrain.learning.text_masking import caption_loss, choose_tokens, next_token_loss
from pretrain.objectives.objective import Objective


class InternVideo(Objective):
    """The contrastive loss of videos and texts over all ranks, and a caption loss.

    The two align before they fuse: the caption decoder has the text tower's states as input and cross-attention to the
    video tower's tokens.

    Args:
        encoder, text: the towers, with equal `out`; `weights` of CLIP initialise both, including CLIP's projection.
        caption: predicts captions; None: contrast only.
        words: cleans and tokenizes captions; by default CLIP's tokenizer with the text tower's context.
        mask: selects the visible patches in training, equally many of each frame; None: all, as in evaluation and as
            released.
        hide: share of tokens masked from the text tower in training, start and end included, as released: both losses
            use the masked text. The text tower needs `mask_token`.
        pictures: treat batches whose frames are all equal as images: clips of one frame. False: do not test for them.
        freeze_text: train neither the text tower's blocks nor its tables; the embedding of the mask token is trained.
        caption_weight: weight of the caption loss relative to contrast.
        logit_scale, logit_scale_max: initial logarithm of the factor of cosines, and its maximum; the minimum is 0.
        exact_gather: the true gradient over ranks, as released here; False: smaller by the world size.
        positives: which samples of a batch are positives of each other: those with equal names or equal captions.
        contrast: see `ViCLIP`.
        chunk_size: see `ViCLIP`; captions are predicted in the same chunks.
        mean, std: by default CLIP's, as released.
        base: see `Objective`.
    """

    def __init__(
        self,
        encoder: UniFormerV2,
        text: CLIPText,
        caption: CaptionDecoder | None = None,
        words: Words | None = None,
        mask: Mask | None = None,
        hide: float = 0.0,
        pictures: bool = False,
        freeze_text: bool = False,
        caption_weight: float = 1.0,
        logit_scale: float = math.log(1 / 0.07),
        logit_scale_max: float = math.log(100),
        exact_gather: bool = True,
        positives: Literal["name", "text"] = "name",
        contrast: ContrastLoss = "softmax",
        chunk_size: int | None = None,
        mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073),
        std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711),
        **base: Any,
    ) -> None:
        super().__init__(mean=mean, std=std, **base)
        self.words = words or Words(CLIPTokenizer(text.context))
        two_towers.check_widths(encoder, text)
        _check_parts(encoder, text, caption, mask, hide)
        self.encoder, self.text, self.caption, self.mask = self.with_statistics(encoder), text, caption, mask
        self.needs = ("video", "text")
        self.hide, self.pictures, self.freeze_text, self.caption_weight = hide, pictures, freeze_text, caption_weight
        text.requires_grad_(not freeze_text)
        if text.mask_embed is not None:
            text.mask_embed.requires_grad_(hide > 0)
        self.logit_scale = nn.Parameter(torch.tensor(float(logit_scale)))
        self.bounds = {"logit_scale": (0, logit_scale_max)}
        self.logit_bias = logit_bias(contrast)
        self.exact_gather: bool = exact_gather
        self.positives: Literal["name", "text"] = positives
        self.chunk_size = check_chunk_size(chunk_size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        video, generator = batch["video"], self.generator(batch["video"].device)
        ids = two_towers.token_ids(self.words, batch, video.device)
        attention_mask = torch.arange(ids.shape[1], device=ids.device) <= ids.argmax(dim=1, keepdim=True)
        keep, masked = self.visible_patches(video, generator), self.mask_tokens(ids, attention_mask, generator)
        feature, text, *errors = in_chunks(self.encode_and_caption, self.chunk_size, video, keep, ids, masked)
        self.clamp_parameters()
        temperature, keys = (-self.logit_scale).exp(), hash_names(batch[self.positives], video.device)
        options = not self.training, self.exact_gather, self.logit_bias
        losses = {"contrast": pair_loss(feature, text, keys, temperature, *options)}
        if errors:
            losses["caption"] = self.caption_weight * caption_loss(errors[0], attention_mask, not self.training)
        return losses

    def on_host(self, batch: Batch) -> Batch:
        """Batches of images become clips of one frame."""
        if not self.pictures:
            return batch
        return {**batch, "video": two_towers.first_frame_if_static(batch["video"], not self.training)}

    def encode_and_caption(
        self, video: Tensor, keep: Tensor | None, ids: Tensor, masked: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Features of videos and texts, `[B, out]`, not normalised; with a caption decoder also the loss per token,
        `[B, L - 1]`.

        Args:
            video: with the visible patches `keep` `[B, K]`.
            ids: texts `[B, L]`, whose `masked` tokens are replaced by the mask token.
        """
        feature, tokens = self.encoder.feature_and_tokens(video, keep)
        text, states = self.text(ids, masked)
        if self.caption is None:
            return feature, text
        return feature, text, next_token_loss(self.caption(states[:, :-1], tokens), ids)

    def visible_patches(self, video: Tensor, generator: torch.Generator) -> Tensor | None:
        """The indices of the visible patches, `[B, K]`; None: all."""
        if self.mask is None or not self.training:
            return None
        slices, h, w = self.encoder.grid
        grid = 1 if video.shape[2] == 1 else slices, h, w
        return self.mask(self.noise(generator, len(video), self.mask.width(grid)), grid)

    def mask_tokens(self, ids: Tensor, attention_mask: Tensor, generator: torch.Generator) -> Tensor | None:
        """True where a token is masked from the text tower, `[B, L]`; None: nowhere."""
        if not self.hide or not self.training:
            return None
        noise = self.noise(generator, len(ids), self.text.context).to(ids.device)
        return choose_tokens(noise[:, : ids.shape[1]], attention_mask, self.hide)

    encode_video, encode_text, predict = two_towers.encode_video, two_towers.encode_text, two_towers.predict
    token_encoder = two_towers.token_encoder


def _check_parts(
    encoder: UniFormerV2, text: CLIPText, caption: CaptionDecoder | None, mask: Mask | None, hide: float
) -> None:
    """A ValueError if the parts do not fit together."""
    if caption is not None and (caption.width, caption.video_width) != (text.width, encoder.width):
        raise ValueError(
            f"the caption decoder is made for texts of width {caption.width} and videos of {caption.video_width}, and "
            f"the towers have {text.width} and {encoder.width}: set its width and video_width"
        )
    if caption is not None and caption.vocabulary < text.token_embed.num_embeddings:
        raise ValueError(
            f"the caption decoder has a vocabulary of {caption.vocabulary} tokens and the text tower of "
            f"{text.token_embed.num_embeddings}: set its vocabulary"
        )
    if mask is not None and not mask.even:
        raise ValueError("the video tower needs equally many patches of each frame: mask by RandomFrames or Tube")
    if hide and text.mask_embed is None:
        raise ValueError("`hide` masks text, which needs a mask token: give the text tower mask_token: true")
