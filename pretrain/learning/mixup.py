"""Mixup and CutMix: clips and their targets blended in pairs (arXiv 1710.09412 and 1905.04899, by timm's rules).

Letters in shapes: B clips of one device, C channels, T frames, H W pixels, K classes.
"""

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.learning.transfer import to_device

Box = tuple[int, int, int, int]  # top, bottom, left, right


class Mix:
    """The random parameters of mixup and CutMix.

    Clip i of the Q clips of a device is paired with clip Q - 1 - i, as in timm.

    Args:
        mixup, cutmix: parameters of the Beta distributions of mixup and CutMix; 0 disables one of them.
        prob: probability that a pair is blended at all.
        switch: probability of CutMix if both are enabled.
        together: one draw for all clips of a device's micro-batch (timm's mode "batch", as in the official runs); else
            one per pair (timm's "pair").
        across_ranks: pair the Q clips of all devices: the pairs do not depend on the number of devices, which send each
            other all their clips.
    """

    def __init__(
        self,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        prob: float = 1.0,
        switch: float = 0.5,
        together: bool = False,
        across_ranks: bool = False,
    ) -> None:
        if min(mixup, cutmix) < 0 or mixup == cutmix == 0 or not (0 <= prob <= 1 and 0 <= switch <= 1):
            raise ValueError(
                "Mix needs mixup and cutmix of 0 or more, at least one above 0, and probabilities from 0 to 1, not "
                f"{mixup}, {cutmix}, {prob} and {switch}: to blend nothing, leave `mix` out"
            )
        self.mixup, self.cutmix, self.prob, self.switch = mixup, cutmix, prob, switch
        self.together, self.across_ranks = together, across_ranks

    def draw(self, generator: np.random.RandomState, height: int, width: int) -> tuple[float, Box | None]:
        """The weight of a clip itself, and for CutMix the box that its partner fills.

        Random numbers are drawn in timm's order (`timm/data/mixup.py: Mixup._params_per_batch, cutmix_bbox_and_lam`).
        """
        if generator.rand() >= self.prob:
            return 1.0, None
        cut = self.cutmix > 0 and (self.mixup == 0 or generator.rand() < self.switch)
        alpha = self.cutmix if cut else self.mixup
        weight = float(generator.beta(alpha, alpha))
        if not cut:
            return weight, None
        side = np.sqrt(1 - weight)
        half_height, half_width = int(height * side) // 2, int(width * side) // 2
        y, x = int(generator.randint(height)), int(generator.randint(width))
        box = max(0, y - half_height), min(height, y + half_height), max(0, x - half_width), min(width, x + half_width)
        return 1 - (box[1] - box[0]) * (box[3] - box[2]) / (height * width), box


def blend(own: Tensor, partner: Tensor, draws: list[tuple[float, Box | None]]) -> tuple[Tensor, Tensor]:
    """Clips `[B, C, T, H, W]` blended with their partners as drawn, and the clips' own weights `[B, 1]`."""
    height, width = own.shape[3:]
    weight = torch.tensor([[weight] for weight, _ in draws], dtype=own.dtype)
    everywhere = torch.tensor([0.0 if box else 1 - weight for weight, box in draws], dtype=own.dtype)  # of mixup
    boxes = torch.tensor([box or (0, 0, 0, 0) for _, box in draws])
    weight, everywhere, boxes = (to_device(x, own.device) for x in (weight, everywhere, boxes))
    top, bottom, left, right = boxes[:, :, None].unbind(dim=1)  # [B, 1]
    y, x = (torch.arange(side, device=own.device) for side in (height, width))
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)  # [B, H], [B, W]
    alpha = (rows[:, :, None] & columns[:, None]).to(own.dtype) + everywhere[:, None, None]  # [B, H, W]
    alpha = alpha[:, None, None]
    return own * (1 - alpha) + partner * alpha, weight


def partner_rows(x: Tensor, rank: int = 0, world: int = 1) -> Tensor:
    """Each row's partner: the rows of rank `world - 1 - rank` in reverse order. A copy."""
    partner = world - 1 - rank
    if partner == rank:
        return x.flip(0)
    own, received = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    for work in dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, own, partner), dist.P2POp(dist.irecv, received, partner)]
    ):
        work.wait()
    return received.flip(0)
