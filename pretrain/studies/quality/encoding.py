"""What a video encoder knows of clips: a vector and the tokens of each."""

from typing import Any

import torch
from torch import Tensor, nn

from models import Encoder

_CLIPS_AT_ONCE = 64


@torch.no_grad()
def encode(encoder: Any, normalize: nn.Module, clips: Tensor, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """A vector `[N, D]` and float16 tokens `[N, K, D]` of each of uint8 `clips` `[N, 3, T, H, W]`, on the CPU; they are
    computed on `device`."""
    encoder.to(device)
    normalize.to(device)
    features, tokens = [], []
    for part in clips.split(_CLIPS_AT_ONCE):
        video = normalize(part.to(device))
        seen = encoder(video)
        # Where the vector is the mean of the tokens, they are not computed twice.
        vector = seen.mean(dim=1) if type(encoder).summary is Encoder.summary else encoder.summary(video)
        features.append(vector.cpu())
        tokens.append(seen.half().cpu())
    return torch.cat(features), torch.cat(tokens)
