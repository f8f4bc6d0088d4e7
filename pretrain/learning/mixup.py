"""Mixup and CutMix: clips blended in pairs, with their targets (arXiv 1710.09412 and 1905.04899, by timm's rules).

Letters in shapes: B clips of one device, C channels, T frames, H W pixels, K classes.
"""

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

Box = tuple[int, int, int, int]  # top, bottom, left, right


class Mix:
    """How much of each clip is another's, and where.

    Clip number i of the Q clips of all devices is paired with number Q - 1 - i, as timm pairs the clips of one device:
    so that a pair does not depend on how many devices there are.

    Args:
        mixup, cutmix: of the Beta distribution that the shares of mixup and of CutMix come from; 0 leaves one out.
        prob: chance that a pair is blended at all.
        switch: chance of CutMix where both are on.
        together: one draw for all clips of a step's micro-batch (timm's mode "batch"); else one a pair (its "pair").
            The official runs draw one a device.
    """

    def __init__(
        self,
        mixup: float = 0.8,
        cutmix: float = 1.0,
        prob: float = 1.0,
        switch: float = 0.5,
        together: bool = False,
    ) -> None:
        if min(mixup, cutmix) < 0 or mixup == cutmix == 0 or not (0 <= prob <= 1 and 0 <= switch <= 1):
            raise ValueError(
                f"Mix takes mixup and cutmix of 0 or more, one of them above 0, and chances of 0 to 1, not {mixup}, "
                f"{cutmix}, {prob} and {switch}: to blend nothing leave `mix` out"
            )
        self.mixup, self.cutmix, self.prob, self.switch, self.together = mixup, cutmix, prob, switch, together

    def draw(self, generator: np.random.RandomState, height: int, width: int) -> tuple[float, Box | None]:
        """The share that stays a clip's own, and for CutMix the box that becomes the other's.

        Numbers come in timm's order (`timm/data/mixup.py: Mixup._params_per_batch, cutmix_bbox_and_lam`).
        """
        if generator.rand() >= self.prob:
            return 1.0, None
        cut = self.cutmix > 0 and (self.mixup == 0 or generator.rand() < self.switch)
        alpha = self.cutmix if cut else self.mixup
        share = float(generator.beta(alpha, alpha))
        if not cut:
            return share, None
        side = np.sqrt(1 - share)
        down, across = int(height * side) // 2, int(width * side) // 2
        y, x = int(generator.randint(height)), int(generator.randint(width))
        box = max(0, y - down), min(height, y + down), max(0, x - across), min(width, x + across)
        return 1 - (box[1] - box[0]) * (box[3] - box[2]) / (height * width), box


def blend(own: Tensor, other: Tensor, draws: list[tuple[float, Box | None]]) -> tuple[Tensor, Tensor]:
    """Clips `[B, C, T, H, W]` with what the draws give to the other's, and the shares `[B, 1]` that stay their own."""
    height, width = own.shape[3:]
    share = torch.tensor([[share] for share, _ in draws], dtype=own.dtype)
    whole = torch.tensor([0.0 if box else 1 - share for share, box in draws], dtype=own.dtype)  # mixup's, all over
    boxes = torch.tensor([box or (0, 0, 0, 0) for _, box in draws])
    share, whole, boxes = (_to(x, own.device) for x in (share, whole, boxes))
    top, bottom, left, right = boxes[:, :, None].unbind(dim=1)  # [B, 1]
    y, x = (torch.arange(side, device=own.device) for side in (height, width))
    rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)  # [B, H], [B, W]
    given = (rows[:, :, None] & columns[:, None]).to(own.dtype) + whole[:, None, None]  # [B, H, W]
    given = given[:, None, None]
    return own * (1 - given) + other * given, share


def _to(x: Tensor, device: torch.device) -> Tensor:
    """A small tensor of the CPU to a device, without waiting for it."""
    return x.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else x.to(device)


def opposite(x: Tensor, rank: int = 0, world: int = 1) -> Tensor:
    """The rows of the opposite device, `world - 1 - rank`, last first: each row's partner. A copy."""
    partner = world - 1 - rank
    if partner == rank:
        return x.flip(0)
    mine, theirs = x.contiguous(), torch.empty_like(x, memory_format=torch.contiguous_format)
    for work in dist.batch_isend_irecv(
        [dist.P2POp(dist.isend, mine, partner), dist.P2POp(dist.irecv, theirs, partner)]
    ):
        work.wait()
    return theirs.flip(0)
