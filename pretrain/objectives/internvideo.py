"""InternVideo's multimodal stage: a video and its caption get the same vector, and the caption is told from the video
word by word (arXiv 2212.03191, section 3.2)."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.caption import CaptionDecoder
from models.text import CLIPText
from models.tokenizers import CLIPTokenizer, Words
from models.uniformerv2 import UniFormerV2
from pretrain.learning.contrast import first_if_still, keys, pair_loss, read, unit_texts, unit_videos
from pretrain.learning.grad_cache import check, in_parts
from pretrain.learning.masking import Mask
from pretrain.learning.text_masking import caption_loss, hidden_words, next_word_errors
from pretrain.objectives.objective import Batch, Objective


class InternVideo(Objective):
    """Contrast of videos and texts over all ranks, and captions said from the video's tokens.

    The two align before they fuse: the caption decoder reads the text tower's states and the video tower's tokens.

    Args:
        encoder, text: the towers, of one `out`; `weights` of CLIP start both, at CLIP's own output.
        caption: says captions; None: contrast alone.
        words: how captions are read; by default cleaned, then CLIP's tokenizer at the text tower's context.
        mask: which patches are seen in training, as many of each frame; None: all, as in evaluation and as released.
        hide: share of the words that the text tower does not see in training, start and end too, as released: both
            losses then work from what is left. The text tower needs `mask_token`.
        pictures: batches whose frames are all alike are pictures, seen as clips of one frame; False: none are looked
            for.
        freeze_text: train neither the text tower's blocks nor its tables; what stands for hidden words trains.
        caption_weight: of the captions' loss against that of contrast.
        logit_scale, logit_scale_max: the logarithm of what cosines are multiplied by, where it starts; it is kept
            between 0 and the most.
        exact_gather: the true gradient over ranks, as released here; False: smaller by the number of ranks.
        positives: what makes two samples of a batch one: the video's name, or the caption too.
        chunk_size: see `ViCLIP`; captions are said in the same parts.
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
        chunk_size: int | None = None,
        mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073),
        std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711),
        **base: Any,
    ) -> None:
        super().__init__(mean=mean, std=std, **base)
        self.words = words or Words(CLIPTokenizer(text.context))
        _check_parts(encoder, text, caption, mask, hide)
        self.encoder, self.text, self.caption, self.mask = encoder, text, caption, mask
        self.needs = ("video", "text")
        self.hide, self.pictures, self.freeze_text, self.caption_weight = hide, pictures, freeze_text, caption_weight
        text.requires_grad_(not freeze_text)
        if text.mask_embed is not None:
            text.mask_embed.requires_grad_(hide > 0)
        self.logit_scale = nn.Parameter(torch.tensor(float(logit_scale)))
        self.bounds = {"logit_scale": (0, logit_scale_max)}
        self.exact_gather, self.positives = exact_gather, positives
        self.chunk_size = check(chunk_size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        video, generator = batch["video"], self.generator(batch["video"].device)
        if self.pictures:
            video = first_if_still(video, not self.training)
        ids = read(self.words, batch["text"], video.device)
        seen = torch.arange(ids.shape[1], device=ids.device) <= ids.argmax(dim=1, keepdim=True)
        keep, hidden = self.choose(video, generator), self.hide_words(ids, seen, generator)
        feature, text, *errors = in_parts(self.look_and_say, self.chunk_size, video, keep, ids, hidden)
        self.keep_in_bounds()
        temperature, same = (-self.logit_scale).exp(), keys(batch[self.positives], video.device)
        losses = {"contrast": pair_loss(feature, text, same, temperature, not self.training, self.exact_gather)}
        if errors:
            losses["caption"] = self.caption_weight * caption_loss(errors[0], seen, not self.training)
        return losses

    def look_and_say(
        self, video: Tensor, keep: Tensor | None, ids: Tensor, hidden: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Features of both, `[B, out]`, not of length 1, and, where captions are said, the error of each word, `[B, L -
        1]`; of videos whose patches `keep` `[B, K]` are seen, and of texts `ids` `[B, L]` but for what is `hidden`."""
        feature, tokens = self.encoder.look(self.normalize(video), keep)
        text, states = self.text(ids, hidden)
        if self.caption is None:
            return feature, text
        return feature, text, next_word_errors(self.caption(states[:, :-1], tokens), ids)

    def choose(self, video: Tensor, generator: torch.Generator) -> Tensor | None:
        """The patches `[B, K]` that are seen; None: all."""
        if self.mask is None or not self.training:
            return None
        slices, *places = self.encoder.grid
        grid = (1 if video.shape[2] == 1 else slices, *places)
        return self.mask(self.noise(generator, len(video), self.mask.width(grid)), grid)

    def hide_words(self, ids: Tensor, seen: Tensor, generator: torch.Generator) -> Tensor | None:
        """True where the text tower does not see a word, `[B, L]`; None: it sees all."""
        if not self.hide or not self.training:
            return None
        noise = self.noise(generator, len(ids), self.text.context).to(ids.device)
        return hidden_words(noise[:, : ids.shape[1]], seen, self.hide)

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Features of whole texts, `[B, out]`, not of length 1."""
        return self.text.feature(read(self.words, texts, self.device))

    def encode_video(self, video: Tensor) -> Tensor:
        """Unit features `[B, out]` of `video` `[B, 3, T, H, W]`, all of whose patches are seen."""
        return unit_videos(self.encoder, self.normalize(video))

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit features `[n, out]` of any number of texts."""
        return unit_texts(self.embed, texts)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`features` `[B, out]`, whose product with `encode_text`'s is the cosine."""
        return {"features": self.encode_video(batch["video"])}


def _check_parts(
    encoder: UniFormerV2, text: CLIPText, caption: CaptionDecoder | None, mask: Mask | None, hide: float
) -> None:
    """A ValueError where parts do not fit."""
    if encoder.out is None or encoder.out != text.out:
        raise ValueError(f"the towers differ: the video's `out` is {encoder.out}, the text's {text.out}")
    if caption is not None and (caption.width, caption.video_width) != (text.width, encoder.width):
        raise ValueError(
            f"the caption decoder is made for texts of width {caption.width} and videos of {caption.video_width}, and "
            f"the towers have {text.width} and {encoder.width}: set its width and video_width"
        )
    if caption is not None and caption.vocabulary < text.token_embed.num_embeddings:
        raise ValueError(
            f"the caption decoder can say {caption.vocabulary} words and the text tower knows "
            f"{text.token_embed.num_embeddings}: set its vocabulary"
        )
    if mask is not None and not mask.even:
        raise ValueError("the video tower sees as many patches of each frame: mask by RandomFrames or Tube")
    if hide and text.mask_embed is None:
        raise ValueError("the text tower mask_token no words: give it mask_token: true")
