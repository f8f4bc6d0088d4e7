"""Losses and their targets: functions of tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from models.layers import take_patches


def pixel_target(
    video: Tensor, index: Tensor, tubelet: int, patch: int, mean: Tensor, std: Tensor, normalize: bool = True
) -> Tensor:
    """The target of a masked autoencoder: pixels of the tokens `index` `[B, M]`, `[B, M, tubelet * p * p * 3]`.

    The order inside a token is frame, row, column, channel. With `normalize`, each channel of each token has its mean
    subtracted and is divided by its unbiased standard deviation plus 1e-6 (VideoMAE V2 `engine_for_pretraining.py`).

    Args:
        video: `[B, 3, T, H, W]`, uint8, or normalised by `mean` and `std` `[3]`, which is undone here.
    """
    # Pixels before channels, and statistics over that layout: near-flat tokens amplify even the order of a sum.
    x = take_patches(video, index, tubelet, patch).flatten(3).float().transpose(2, 3)  # [B, M, pixels, 3]
    # In place, here and below: this is about the step's peak of memory.
    x = (x.mul_(std).add_(mean) if video.is_floating_point() else x.div_(255)).contiguous()
    if normalize:
        deviation = x.var(dim=2, unbiased=True, keepdim=True).sqrt()
        x.sub_(x.mean(dim=2, keepdim=True)).div_(deviation + 1e-6)
    return x.flatten(2)


def masked_mse(prediction: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Squared error averaged over values, then over the tokens of the batch whose `weight` `[B, M]` is 1.

    `target` is overwritten and must not be used afterwards.
    """
    error = _MeanSquaredError.apply(prediction, target)
    return (error * weight).sum() / weight.sum()


class _MeanSquaredError(torch.autograd.Function):
    """The mean of (prediction - target)^2 over the last dimension. Autograd would hold four tensors as large as the
    pixels at the step's peak of memory; this function holds two."""

    @staticmethod
    def forward(ctx: Any, prediction: Tensor, target: Tensor) -> Tensor:
        error = target.sub_(prediction)
        ctx.save_for_backward(error)
        ctx.dtype = prediction.dtype
        return torch.linalg.vector_norm(error, dim=-1).square() / error.shape[-1]

    @staticmethod
    @once_differentiable
    def backward(  # pyrefly: ignore[bad-override]  (once_differentiable makes ctx positional-only)
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor, None]:
        (error,), (gradient,) = ctx.saved_tensors, gradients
        return (error * (gradient * (-2 / error.shape[-1])).unsqueeze(-1)).to(ctx.dtype), None


def squared_distance(a: Tensor, b: Tensor) -> Tensor:
    """The mean squared distance of vectors of length 1: 2 - 2 cos."""
    return (2 - 2 * (a * b).sum(dim=-1)).mean()


# UMT's losses of features, by their names in the official code.
ALIGNMENT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "l2": squared_distance,
    "mse": F.mse_loss,
    "smooth_l1": F.smooth_l1_loss,
}


def alignment_loss(student: Sequence[Tensor], teacher: Sequence[Tensor], loss: str = "l2") -> Tensor:
    """The distance between normalised features of student and teacher, averaged over layers.

    Args:
        student, teacher: one tensor `[B, K, D]` per layer.
        loss: a name in `ALIGNMENT`.
    """
    pairs = zip(student, teacher, strict=True)
    unit = [(F.normalize(s.float(), dim=-1), F.normalize(t.float(), dim=-1)) for s, t in pairs]
    return torch.stack([ALIGNMENT[loss](s, t) for s, t in unit]).mean()


def relation_loss(student: Tensor, teacher: Tensor, margin: float = 0.1) -> Tensor:
    """By how much the cosines between all pairs of a clip's tokens differ beyond `margin`, averaged over pairs.

    Pairs lie within frames and between them (the token relation distillation of VideoREPA, arXiv 2505.23656).

    Args:
        student, teacher: `[B, N, D]` and `[B, N, D']`, the same tokens in the same order.
    """
    ours, theirs = (F.normalize(x.float(), dim=-1) for x in (student, teacher))
    difference = ours @ ours.mT - theirs @ theirs.mT  # [B, N, N]
    return (difference.abs() - margin).relu().mean()
