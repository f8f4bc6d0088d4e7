"""ViCLIP: contrastive pretraining of a video tower that sees a tenth of its patches and a text tower (2307.06942)."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.text import CLIPText
from models.tokenizers import CLIPTokenizer, Words
from models.viclip import ViCLIPVision
from pretrain.learning import two_towers
from pretrain.learning.batch import Batch
from pretrain.learning.contrast import ContrastLoss, hash_names, logit_bias, pair_loss
from pretrain.learning.grad_cache import check_chunk_size, in_chunks
from pretrain.learning.masking import Mask
from pretrain.objectives.objective import Objective


class ViCLIP(Objective):
    """The contrastive loss of videos and texts over all ranks.

    Args:
        encoder, text: the towers, with equal `out`; `weights` of CLIP initialise both.
        words: cleans and tokenizes captions; by default CLIP's tokenizer with the text tower's context.
        mask: selects the visible patches in training; None: all, as in evaluation.
        freeze_text: train the video tower and the temperature only, as the released runs do.
        temperature, temperature_min: initial value and minimum. As released, the two are equal.
        exact_gather: the true gradient over ranks; False is the released code's, smaller by the world size.
        positives: which samples of a batch are positives of each other: those with equal names or equal captions.
        contrast: the loss of pairs: softmax, or sigmoid (SigLIP, which starts with a temperature of 0.1).
        chunk_size: pairs that the towers encode at a time if a batch exceeds memory (see `grad_cache`; leave
            `data.micro_batch` alone then); None: all.
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
        contrast: ContrastLoss = "softmax",
        chunk_size: int | None = None,
        **base: Any,
    ) -> None:
        super().__init__(**base)
        two_towers.check_widths(encoder, text)
        self.encoder, self.text, self.mask = self.with_statistics(encoder), text, mask
        self.words = words or Words(CLIPTokenizer(text.context))
        self.needs = ("video", "text")
        self.freeze_text = freeze_text
        text.requires_grad_(not freeze_text)
        self.temperature = nn.Parameter(torch.tensor(float(temperature)))
        self.bounds = {"temperature": (temperature_min, None)}
        self.logit_bias = logit_bias(contrast)
        self.exact_gather: bool = exact_gather
        self.positives: Literal["name", "text"] = positives
        self.chunk_size = check_chunk_size(chunk_size)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        video = batch["video"]
        ids = two_towers.token_ids(self.words, batch, video.device)
        feature, text = in_chunks(self.features, self.chunk_size, video, self.visible_patches(video), ids)
        self.clamp_parameters()
        keys = hash_names(batch[self.positives], video.device)
        options = not self.training, self.exact_gather, self.logit_bias
        return {"contrast": pair_loss(feature, text, keys, self.temperature, *options)}

    def features(self, video: Tensor, keep: Tensor | None, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[B, out]` of videos with the visible patches `keep` `[B, K]`, and of texts; not normalised."""
        feature = self.encoder.feature(video, keep)
        return feature, two_towers.text_features(self.text, ids, self.freeze_text)

    def visible_patches(self, video: Tensor) -> Tensor | None:
        """The indices of the visible patches, `[B, K]`; None: all."""
        if self.mask is None or not self.training:
            return None
        grid = self.encoder.grid
        return self.mask(self.noise(self.generator(video.device), len(video), self.mask.width(grid)), grid)

    encode_video, encode_text, predict = two_towers.encode_video, two_towers.encode_text, two_towers.predict
    token_encoder = two_towers.token_encoder
