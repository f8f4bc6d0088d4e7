"""What a masked autoencoder makes of a few clips: the PSNR of what was hidden, and the clips that its features pair."""

import torch
import torch.nn.functional as F
from torch import Tensor


def hidden_psnr(videos: dict[str, Tensor]) -> tuple[float, list[float]]:
    """PSNR in dB of the hidden pixels, for values in [0, 1]: of all clips together, and of each.

    That of all is the PSNR of the mean squared error, so that a badly reconstructed clip counts in full.

    Args:
        videos: `input`, `seen` and `reconstruction` as `VideoMAE.reconstruct` gives them, `[B, 3, T, H, W]`. A pixel is
            hidden if it differs between the first two.

    Raises:
        ValueError: a clip has no hidden pixel.
    """
    hidden = (videos["seen"] != videos["input"]).any(dim=1, keepdim=True).expand_as(videos["input"])
    count = hidden.flatten(1).sum(dim=1)
    if not count.all():
        raise ValueError("a clip has no hidden pixel: the PSNR of hidden patches needs some")
    error = ((videos["reconstruction"] - videos["input"]).double() ** 2 * hidden).flatten(1).sum(dim=1)
    return -10 * torch.log10(error.sum() / count.sum()).item(), (-10 * torch.log10(error / count)).tolist()


def nearest_clips(features: Tensor) -> list[tuple[int, float]]:
    """Of each row of features `[B, D]`, the number of the most similar other row, and their cosine similarity.

    The mean of the rows is subtracted first: it is most of a feature before long training, and makes all clips alike.

    Raises:
        ValueError: fewer than two rows.
    """
    if len(features) < 2:
        raise ValueError("a nearest clip needs two clips or more")
    rows = F.normalize(features.double() - features.double().mean(dim=0), dim=1)
    value, index = (rows @ rows.t()).fill_diagonal_(-2).max(dim=1)
    return list(zip(index.tolist(), value.tolist(), strict=True))
