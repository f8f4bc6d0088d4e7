"""What methods with a video tower and a text tower share: tokens, normalised features, and batches of still images.

`encode_video`, `encode_text`, `predict` and `token_encoder` are methods: a class with CLIP's text tower takes them into
its body.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.text import CLIPText
from models.tokenizers import Words
from models.uniformerv2 import UniFormerV2
from models.viclip import ViCLIPVision
from pretrain.learning.batch import Batch
from pretrain.learning.parallel import agree
from pretrain.learning.transfer import to_device


class TwoTowers(Protocol):
    """The parts of a method that the functions below use."""

    encoder: ViCLIPVision | UniFormerV2
    text: CLIPText
    words: Words
    normalize: nn.Module

    @property
    def device(self) -> torch.device: ...


def encode_video(self: TwoTowers, video: Tensor) -> Tensor:
    """Normalised features `[B, out]` of `video` `[B, 3, T, H, W]`, without a mask."""
    with torch.no_grad():
        return F.normalize(self.encoder.feature(self.normalize(video)).float(), dim=-1)


def encode_text(self: TwoTowers, texts: Sequence[str]) -> Tensor:
    """Normalised features `[n, out]` of any number of texts."""
    return unit_texts(lambda chunk: self.text.feature(tokenize(self.words, chunk, self.device)), texts)


def predict(self: TwoTowers, batch: Any) -> dict[str, Tensor]:
    """`features` `[B, out]`, whose product with the features of `encode_text` is the cosine similarity."""
    return {"features": encode_video(self, batch["video"])}


@torch.no_grad()
def unit_texts(embed: Callable[[Sequence[str]], Tensor], texts: Sequence[str], chunk_size: int = 256) -> Tensor:
    """Normalised features `[n, out]` of any number of texts, `chunk_size` at a time."""
    parts = [embed(texts[i : i + chunk_size]) for i in range(0, len(texts), chunk_size)]
    return F.normalize(torch.cat(parts).float(), dim=-1)


def text_features(text: CLIPText, ids: Tensor, frozen: bool) -> Tensor:
    """Features `[B, out]` of texts `ids` `[B, L]`, not normalised; without a graph if the tower is frozen."""
    with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
        return text.feature(ids)


def tokenize(words: Words, texts: Sequence[str], device: torch.device) -> Tensor:
    """Token ids `[B, L]` of CLIP's tokenizer, cut after the longest text: no token attends to those after the end."""
    return to_device(torch.from_numpy(clip_ids(words, texts)), device)


def clip_ids(words: Words, texts: Sequence[str]) -> np.ndarray:
    """The ids of `tokenize`, on the host."""
    ids = words(texts)
    return ids[:, : int(ids.argmax(dim=1).max()) + 1].numpy()


def padded_ids(words: Callable[[Sequence[str]], Tensor], pad: int, whole: bool, texts: Sequence[str]) -> np.ndarray:
    """Token ids `[B, L]`, padded to the longest text, or if `whole` to the tokenizer's context."""
    ids = words(texts)
    if not whole:
        ids = ids[:, : int((ids != pad).any(dim=0).nonzero().max()) + 1]
    return ids.numpy()


def token_encoder(self: TwoTowers) -> Callable[[list[str]], np.ndarray]:
    """See `Objective.token_encoder`."""
    return partial(clip_ids, self.words)


def token_ids(words: Words, batch: Batch, device: torch.device) -> Tensor:
    """The token ids `[B, L]` of a batch's texts, by `clip_ids`, which the loading processes have called if they can."""
    if "ids" not in batch:
        return tokenize(words, batch["text"], device)
    return to_device(torch.from_numpy(batch["ids"]), device)


def first_frame_if_static(video: Tensor, local: bool = False) -> Tensor:
    """`video` `[B, C, T, H, W]`, or its first frame if all frames are equal in the batches of all ranks: still images.

    It reads the pixels: `video` should be on the host (see `Objective.on_host`).

    Args:
        local: test this rank's batch only, as in evaluation.
    """
    if video.shape[2] == 1:
        return video
    static = all(torch.equal(clip, clip[:, :1].expand_as(clip)) for clip in video)  # the first moving clip ends it
    if not (static if local else agree(static)):
        return video
    image = video[:, :, :1].contiguous()
    return image.pin_memory() if video.is_pinned() else image


def check_widths(encoder: ViCLIPVision | UniFormerV2, text: CLIPText) -> None:
    """A ValueError if the towers have features of different widths."""
    if encoder.out is None or encoder.out != text.out:
        raise ValueError(f"the towers differ: the video's `out` is {encoder.out}, the text's {text.out}")
