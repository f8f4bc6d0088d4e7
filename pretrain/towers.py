"""What methods with a video and a text tower do alike: read texts, and give both sides vectors of length 1."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.tokenizers import Words
from models.uniformerv2 import UniFormerV2
from models.viclip import ViCLIPVision
from pretrain.contrast import gather


def read(words: Words, texts: Sequence[str], device: torch.device) -> Tensor:
    """Ids `[B, L]` of CLIP's texts, no longer than the longest of them: what comes after the end cannot be seen."""
    ids = words(texts)
    return ids[:, : int(ids.argmax(dim=1).max()) + 1].to(device)


def first_if_still(video: Tensor, alone: bool = False) -> Tensor:
    """`video` `[B, C, T, H, W]`, or its first frame where no frame differs from it: a batch of pictures, on all ranks.

    Args:
        alone: ask this rank's batch alone, as in evaluation.
    """
    if video.shape[2] == 1:
        return video
    still = (video == video[:, :, :1]).all().int()[None]
    return video[:, :, :1] if (still if alone else gather(still)).all() else video


@torch.no_grad()
def unit_videos(encoder: ViCLIPVision | UniFormerV2, video: Tensor) -> Tensor:
    """Features `[B, out]` of `video` `[B, 3, T, H, W]`, normalised, all of whose patches are seen."""
    return F.normalize(encoder.feature(video).float(), dim=-1)


@torch.no_grad()
def unit_texts(embed: Callable[[Sequence[str]], Tensor], texts: Sequence[str], at_once: int = 256) -> Tensor:
    """Features `[n, out]` of any number of texts, `at_once` at a time."""
    parts = [embed(texts[i : i + at_once]) for i in range(0, len(texts), at_once)]
    return F.normalize(torch.cat(parts).float(), dim=-1)
