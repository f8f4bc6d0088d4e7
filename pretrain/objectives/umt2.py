"""UMT, second stage: contrast, matching and masked tokens of video and text, while the student stays aligned to the
unmasked teacher (arXiv 2303.16058, section 3.3).

Letters in shapes: B pairs, G pairs to draw negatives from, K visible tokens, L places of a text, D the shared width.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.bert import Bert
from models.clip import CLIPVision
from models.decoders import FeatureDecoder
from models.encoder import Encoder
from models.layers import Grid
from models.tokenizers import Words
from pretrain.learning.batch import Batch
from pretrain.learning.contrast import (
    ContrastLoss,
    all_gather,
    global_masked_mean,
    hash_names,
    logit_bias,
    pair_loss,
)
from pretrain.learning.losses import alignment_loss
from pretrain.learning.masking import Mask
from pretrain.learning.matching import check_text_tower, matching_loss, matching_pairs, sample_negatives
from pretrain.learning.teachers import Frozen, check_student, last_blocks, teacher_targets
from pretrain.learning.text_masking import IGNORE_INDEX, bert_mask, choose_tokens, masked_labels
from pretrain.learning.transfer import to_device
from pretrain.learning.two_towers import first_frame_if_static, padded_ids, unit_texts
from pretrain.objectives.objective import Objective


class UMT2(Objective):
    """A video student and BERT, whose upper layers have cross-attention to the video.

    A loss of weight 0 is not computed, and its parts must be absent.

    Args:
        encoder: the student; alignment and images need tokens of one frame.
        text: BERT, whose upper layers attend to `encoder.width` channels.
        words: cleans and tokenizes texts.
        embed: D, the width in which video and text are compared.
        decoder, teacher: for alignment, as in `UMT`; a mask by attention needs the teacher too.
        mask: selects the student's visible tokens in training; None: all.
        image_mask: the same for image batches, whose frames are all equal: they become clips of one frame. None: do not
            test for images.
        contrast_weight, matching_weight, words_weight, alignment_weight: of the losses.
        hide: share of masked tokens of a text, which are predicted.
        temperature: its initial value; it stays between `temperature_min` and `temperature_max`.
        per_frame: compare a text with each frame of an unmasked video and average the similarities. False: compare with
            the mean of all tokens, as for masked videos.
        positives: which samples of a batch are positives of each other: those with equal names or equal captions.
        contrast: the loss of pairs: softmax, or sigmoid (SigLIP).
        negatives: draw negatives for matching from this rank's pairs, as released, or from all, whose tokens are then
            gathered.
        exact_gather: the true gradient over ranks; False is the released code's, smaller by the world size.
        interval, loss: of alignment, as in `UMT`.
        base: see `Objective`.
    """

    def __init__(
        self,
        encoder: Encoder,
        text: Bert,
        words: Words,
        embed: int = 512,
        decoder: FeatureDecoder | None = None,
        teacher: Frozen | None = None,
        mask: Mask | None = None,
        image_mask: Mask | None = None,
        contrast_weight: float = 1.0,
        matching_weight: float = 1.0,
        words_weight: float = 1.0,
        alignment_weight: float = 1.0,
        hide: float = 0.5,
        temperature: float = 0.07,
        temperature_min: float = 0.001,
        temperature_max: float = 0.5,
        per_frame: bool = True,
        positives: Literal["name", "text"] = "name",
        contrast: ContrastLoss = "softmax",
        negatives: Literal["rank", "all"] = "rank",
        exact_gather: bool = True,
        interval: float = 1,
        loss: Literal["l2", "mse", "smooth_l1"] = "l2",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.needs = ("video", "text")
        self.loss_weights = {
            "contrast": contrast_weight,
            "matching": matching_weight,
            "words": words_weight,
            "alignment": alignment_weight,
        }
        _check_parts(self.loss_weights, encoder, text, words, decoder, teacher)
        if image_mask is not None and encoder.tubelet != 1:
            raise ValueError(
                f"images are one frame and the student's tokens {encoder.tubelet} deep: set its tubelet to 1"
            )
        self.encoder, self.text, self.words, self.decoder, self.teacher = encoder, text, words, decoder, teacher
        self.taps: tuple[int, ...] = ()
        self.teacher_taps: tuple[int, ...] = ()
        if decoder is not None and teacher is not None:
            self.taps = last_blocks(len(encoder.blocks), len(decoder.heads), interval)
            depth = len(cast(CLIPVision, teacher.model).blocks)
            self.teacher_taps = last_blocks(depth, len(decoder.heads), interval)
        self.pool_norm = nn.LayerNorm(encoder.width, 1e-6)
        self.video_proj = nn.Linear(encoder.width, embed)
        self.text_proj = nn.Linear(text.width, embed)
        self.match_head = nn.Linear(text.width, 2) if matching_weight else None
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.bounds = {"temperature": (temperature_min, temperature_max)}
        self.logit_bias = logit_bias(contrast)
        self.mask, self.image_mask, self.hide, self.per_frame = mask, image_mask, hide, per_frame
        self.positives: Literal["name", "text"] = positives
        self.negatives, self.exact_gather, self.loss = negatives, exact_gather, loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.clamp_parameters()
        video, generator = self.normalize(batch["video"]), self.generator(batch["video"].device)
        ids, attention_mask = self.tokenize(batch["text"], batch.get("ids"))
        keys = hash_names(batch[self.positives], video.device)

        keep, target = self.visible_and_targets(video, generator)
        tokens, layers = self.encode(video, keep)
        states = self.text.encode(ids, attention_mask)
        whole = tokens.shape[1] == math.prod(self.grid_of(video))
        feature, text = self.project_video(tokens, whole), self.text_proj(states[:, 0])

        options = not self.training, self.exact_gather, self.logit_bias
        losses = {"contrast": pair_loss(feature, text, keys, self.temperature, *options)}
        if self.loss_weights["matching"]:
            negative_video, negative_text, has_negative = self.sample_negatives(feature, text, keys, generator)
            pairs = matching_pairs(tokens, states, attention_mask, negative_video, negative_text, self.gather)
            losses["matching"] = matching_loss(self.match_logits(*pairs), has_negative, not self.training)
        if self.loss_weights["words"]:
            masked, labels = self.mask_tokens(ids, attention_mask, generator)
            losses["words"] = self.masked_token_loss(tokens, attention_mask, masked, labels)
        if self.decoder is not None and target is not None:
            losses["alignment"] = alignment_loss(self.decoder(layers, keep), target, self.loss)
        return {name: self.loss_weights[name] * loss for name, loss in losses.items()}

    # Encoding

    def on_host(self, batch: Batch) -> Batch:
        """Batches of images become clips of one frame, if there is an `image_mask`."""
        if self.image_mask is None:
            return batch
        return {**batch, "video": first_frame_if_static(batch["video"], not self.training)}

    def grid_of(self, video: Tensor) -> Grid:
        """The token grid of `video`: time, rows, columns. An image has one slice."""
        return video.shape[2] // self.encoder.tubelet, *self.encoder.grid[1:]

    def tokenize(self, texts: Sequence[str], made: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Token ids of texts and their attention mask, `[B, L]` each.

        Args:
            made: the ids, if the loading processes have made them.
        """
        ids = to_device(torch.from_numpy(self.ids_of(texts) if made is None else made), self.device)
        return ids, ids != self.words.tokenizer.pad

    def ids_of(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids of texts, `[B, L]`. L is the longest text's length; if ranks exchange texts, it is the tokenizer's
        context."""
        return padded_ids(self.words, self.words.tokenizer.pad, self.training and self.negatives == "all", texts)

    def token_encoder(self) -> Callable[[list[str]], np.ndarray]:
        return partial(padded_ids, self.words, self.words.tokenizer.pad, self.negatives == "all")

    def visible_and_targets(
        self, video: Tensor, generator: torch.Generator
    ) -> tuple[Tensor | None, list[Tensor] | None]:
        """The indices of the student's visible tokens, `[B, K]` (None: all), and the teacher's features of those
        tokens, `[B, K, out]` per layer (None: no teacher)."""
        grid = self.grid_of(video)
        mask = self.image_mask if grid[0] == 1 and self.image_mask is not None else self.mask
        if mask is None:
            if self.teacher is None:
                return None, None
            target, keep = teacher_targets(self.teacher, video, self.teacher_taps, self.normalize.values)
            return keep, target
        noise = self.noise(generator, len(video), mask.width(grid))
        if self.teacher is None:
            return mask(noise, grid), None
        choose = lambda attention: mask(noise, grid, attention)  # noqa: E731
        target, keep = teacher_targets(self.teacher, video, self.teacher_taps, self.normalize.values, choose, mask.even)
        return keep, target

    def encode(self, video: Tensor, keep: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """The student's tokens `[B, K, C]` of a normalised video, and those of the aligned layers."""
        return self.encoder(video, keep, self.taps) if self.taps else (self.encoder(video, keep), [])

    def project_video(self, tokens: Tensor, whole: bool) -> Tensor:
        """Tokens `[B, K, C]` to video features: `[B, T, D]`, one per frame, of a `whole` video, or `[B, 1, D]`."""
        per_frame = self.encoder.grid[1] * self.encoder.grid[2] if whole and self.per_frame else tokens.shape[1]
        return self.video_proj(self.pool_norm(tokens.unflatten(1, (-1, per_frame)).mean(dim=2)))

    # Losses

    def gather(self, x: Tensor) -> Tensor:
        """The rows that negatives are drawn from: `x` of all ranks in training with `negatives: all`, else `x`."""
        return all_gather(x, self.exact_gather) if self.training and self.negatives == "all" else x

    def sample_negatives(
        self, video: Tensor, text: Tensor, keys: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A negative video for each text and a negative text for each video; see `matching.sample_negatives`."""
        noise = self.noise(generator, len(video), 2 * len(self.gather(keys)) + 1)
        return sample_negatives(video, text, keys, self.temperature, noise, self.gather)

    def match_logits(self, tokens: Tensor, states: Tensor, attention_mask: Tensor) -> Tensor:
        """Whether text and video are a pair: logits of no and yes, `[B, 2]`."""
        if self.match_head is None:
            raise ValueError("a UMT2 without a matching loss has no head to match by: give it a matching_weight")
        return self.match_head(self.text.fuse(states, attention_mask, tokens)[:, 0])

    def mask_tokens(self, ids: Tensor, attention_mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`ids` `[B, L]` with masked tokens, and the labels to predict, `IGNORE_INDEX` elsewhere. The start token is
        never masked, the end token may be."""
        tokenizer = self.words.tokenizer
        if tokenizer.mask is None:
            raise ValueError(f"{type(tokenizer).__name__} has no mask token: set words_weight to 0, or BertTokenizer")
        noise = self.noise(generator, len(ids), 2 * tokenizer.context).to(ids.device).unflatten(1, (2, -1))
        noise = noise[:, :, : ids.shape[1]]
        masked = choose_tokens(noise[:, 0], attention_mask & (ids != tokenizer.start), self.hide)
        return bert_mask(ids, masked, noise[:, 1], tokenizer.mask, tokenizer.vocabulary), masked_labels(ids, masked)

    def masked_token_loss(self, tokens: Tensor, attention_mask: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
        """Cross entropy of the masked tokens `labels` `[B, L]`, predicted from the masked text `ids` and the video."""
        scores = self.text.token_logits(self.text(ids, attention_mask, tokens))  # [B, L, V]
        error = F.cross_entropy(
            scores.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="none"
        )
        return global_masked_mean(error, (labels != IGNORE_INDEX).flatten().float(), not self.training)

    # For metrics

    def encode_video(self, video: Tensor) -> Tensor:
        """`[B, D]` of `video` `[B, 3, T, H, W]`, without a mask: its product with a text's feature is the cosine
        similarity, or the mean of the frames' cosine similarities."""
        return self.predict({"video": video})["features"]

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Normalised features `[n, D]` of any number of texts."""
        return unit_texts(lambda chunk: self.text_proj(self.text.encode(*self.tokenize(chunk))[:, 0]), texts)

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`features` `[B, D]`, see `encode_video`, and `tokens` `[B, N, C]`, an input of `match`."""
        tokens = self.encoder(self.normalize(batch["video"]))
        feature = F.normalize(self.project_video(tokens, True).float(), dim=-1).mean(dim=1)
        return {"features": feature, "tokens": tokens}

    @torch.no_grad()
    def match(self, tokens: Tensor, texts: Sequence[str]) -> Tensor:
        """The matching score of each video, with `tokens` `[n, N, C]`, and the text at the same index, `[n]`."""
        number = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        ids, attention_mask = self.tokenize(list(number))
        states = self.text.encode(ids, attention_mask)
        rows = to_device(torch.tensor([number[text] for text in texts]), states.device)
        return self.match_logits(tokens, states[rows], attention_mask[rows])[:, 1].float()


def _check_parts(
    loss_weights: dict[str, float],
    encoder: Encoder,
    text: Bert,
    words: Words,
    decoder: FeatureDecoder | None,
    teacher: Frozen | None,
) -> None:
    """A ValueError if a part is missing, would not be trained, or does not fit."""
    if loss_weights["contrast"] <= 0:
        raise ValueError("contrast_weight must be above 0: matching draws its negatives by the features of contrast")
    aligned, predicts = loss_weights["alignment"] > 0, loss_weights["words"] > 0
    fuses = loss_weights["matching"] + loss_weights["words"] > 0
    if aligned != (decoder is not None) or (aligned and teacher is None):
        raise ValueError("alignment needs a decoder and a teacher, and nothing else the decoder: see alignment_weight")
    if predicts != (text.head is not None):
        raise ValueError("masked tokens need the text tower's `head`, and nothing else does: see words_weight")
    if fuses != (text.fusion < len(text.blocks)):
        raise ValueError(
            f"of {len(text.blocks)} layers {text.fusion} have no cross-attention (`fusion`): matching and masked "
            "tokens need layers with it, and nothing else does"
        )
    if decoder is not None and teacher is not None:
        check_student(encoder, decoder, cast(CLIPVision, teacher.model))
    check_text_tower(encoder, text, words)
