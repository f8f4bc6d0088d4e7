"""Align: VideoChat2's first stage (arXiv 2311.17005): a Q-Former between a frozen video encoder and texts, by contrast,
matching and captions.

Letters in shapes: B pairs, G pairs to draw negatives from, N video tokens, L places of a text.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.chat.alignment import Alignment, Summary
from models.chat.qformer import QFormer
from models.convert.videochat import load_bert
from models.encoder import Encoder
from models.tokenizers import BertTokenizer
from pretrain.learning.batch import Batch
from pretrain.learning.contrast import all_gather, global_masked_mean, hash_names, pair_loss
from pretrain.learning.matching import matching_loss, matching_pairs, sample_negatives
from pretrain.learning.transfer import to_device
from pretrain.learning.two_towers import first_frame_if_static, padded_ids, unit_texts
from pretrain.objectives.objective import Objective

SMOOTHING = 0.1  # of the captions' targets


class Align(Objective):
    """Contrast, matching and captions of videos and texts; the losses are those of UMT's second stage.

    Args:
        encoder: frozen, without a final norm.
        qformer: with a text branch and a head for captions.
        words: BERT's tokenizer. The Q-Former has one token more, the last, with which captions start ([DEC]).
        queries, features, temperature, summary, repeat_images: see `Alignment`.
        contrast_weight, matching_weight, caption_weight: of the losses.
        positives: which samples of a batch are positives of each other: those of equal names or of equal texts.
        negatives: draw negatives for matching from this rank's pairs, as released, or from all.
        bert: weights of BERT (bert-base-uncased) with which the Q-Former starts; the queries' feed-forward layers start
            with the text's. None: random.
        images: batches whose clips all stand still become images of one frame.
        missing, unused: see `Converse`.
        base: see `Objective`.
    """

    def __init__(
        self,
        encoder: Encoder,
        qformer: QFormer,
        words: BertTokenizer,
        queries: int = 32,
        features: int = 768,
        temperature: float = 0.07,
        summary: Summary = "concatenate",
        repeat_images: bool = False,
        contrast_weight: float = 1.0,
        matching_weight: float = 1.0,
        caption_weight: float = 1.0,
        positives: Literal["name", "text"] = "name",
        negatives: Literal["rank", "all"] = "rank",
        bert: str | None = None,
        images: bool = False,
        missing: list[str] | None = None,
        unused: list[str] | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        self.needs = ("video", "text")
        self.model = Alignment(encoder, qformer, queries, features, temperature, summary, True, repeat_images)
        self.words = words
        self.loss_weights = {"contrast": contrast_weight, "matching": matching_weight, "caption": caption_weight}
        self.positives: Literal["name", "text"] = positives
        self.negatives, self.images = negatives, images
        self.bounds = {"model.temperature": (0.001, 0.5)}
        self.may_lack, self.may_leave = missing, unused
        if not self.model.queries.is_meta:  # on the meta device a recipe is inspected, perhaps without the files
            if bert is not None:
                load_bert(qformer, bert)
            qformer.copy_text_to_queries()

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        self.clamp_parameters()
        model, device = self.model, batch["video"].device
        ids, visible = self.tokenize(batch["text"], batch.get("ids"))
        keys = hash_names(batch[self.positives], device)
        tokens = model.video_tokens(self.normalize(batch["video"]))
        states = model.video_states(tokens)
        feature, text = model.video_proj(states[-1]), model.text_proj(model.text_states(ids, visible)[:, 0])

        losses = {"contrast": pair_loss(feature, text, keys, model.temperature, not self.training)}
        noise = self.noise(self.generator(device), len(ids), 2 * len(self.gather(keys)) + 1)
        drawn = sample_negatives(feature, text, keys, model.temperature, noise, self.gather)
        pairs = matching_pairs(tokens, ids, visible, *drawn[:2], self.gather)
        losses["matching"] = matching_loss(model.match_logits(*pairs), drawn[2], not self.training)
        losses["caption"] = self.caption_loss(states, ids, visible)
        return {name: self.loss_weights[name] * loss for name, loss in losses.items()}

    def caption_loss(self, states: list[Tensor], ids: Tensor, visible: Tensor) -> Tensor:
        """The smoothed cross entropy of each next token of the texts, given the queries' states."""
        start = self.model.qformer.vocabulary - 1
        scores = self.model.caption_logits(states, ids, visible, start)[:, :-1].float().flatten(0, 1)
        targets, counted = ids[:, 1:].flatten(), visible[:, 1:].flatten().float()
        error = F.cross_entropy(scores, targets, reduction="none", label_smoothing=SMOOTHING)
        return global_masked_mean(error, counted, not self.training)

    def gather(self, x: Tensor) -> Tensor:
        """The rows that negatives are drawn from."""
        return all_gather(x) if self.training and self.negatives == "all" else x

    def tokenize(self, texts: list[str], made: np.ndarray | None = None) -> tuple[Tensor, Tensor]:
        """Ids of texts and True where there is no padding, `[B, L]`; L is the tokenizer's context if ranks exchange
        texts, else the longest text's length.

        Args:
            made: the ids, if the loading processes have made them.
        """
        if made is None:
            made = padded_ids(self.words, self.words.pad, self.training and self.negatives == "all", texts)
        ids = to_device(torch.from_numpy(made), self.device)
        return ids, ids != self.words.pad

    def token_encoder(self) -> Callable[[list[str]], np.ndarray]:
        return partial(padded_ids, self.words, self.words.pad, self.negatives == "all")

    def on_host(self, batch: Batch) -> Batch:
        """Batches of images become clips of one frame, if there are `images`."""
        if not self.images:
            return batch
        return {**batch, "video": first_frame_if_static(batch["video"], not self.training)}

    # For metrics

    @torch.no_grad()
    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """`features` `[B, D]`, the mean of the queries' unit features; `tokens` `[B, N, C]`, an input of `match`."""
        tokens = self.model.video_tokens(self.normalize(batch["video"]))
        feature = self.model.video_proj(self.model.video_states(tokens)[-1])
        return {"features": F.normalize(feature.float(), dim=-1).mean(dim=1), "tokens": tokens}

    def encode_video(self, video: Tensor) -> Tensor:
        """`[B, D]` of `video` `[B, 3, T, H, W]`: its product with a text's feature is the mean of the queries' cosine
        similarities."""
        return self.predict({"video": video})["features"]

    def encode_text(self, texts: list[str]) -> Tensor:
        """Normalised features `[n, D]` of any number of texts."""

        def embed(chunk: Any) -> Tensor:
            return self.model.text_proj(self.model.text_states(*self.tokenize(list(chunk)))[:, 0])

        return unit_texts(embed, texts)

    @torch.no_grad()
    def match(self, tokens: Tensor, texts: list[str]) -> Tensor:
        """The matching score of each video, with `tokens` `[n, N, C]`, and the text at the same index, `[n]`."""
        return self.model.match_logits(tokens, *self.tokenize(texts))[:, 1].float()
