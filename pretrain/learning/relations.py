"""Alignment of the relations between tokens in one block of a denoiser with those in a frozen video encoder."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from models.encoder import Encoder
from models.frame_encoder import FrameEncoder, Statistics
from models.layers import IMAGENET_MEAN, IMAGENET_STD, Grid
from pretrain.learning.losses import relation_loss
from pretrain.learning.parallel import blocks
from pretrain.learning.teachers import Frozen, renormalize, resize_frames


class Relations(nn.Module):
    """Which tokens of a clip are alike: a block of the denoiser learns it from a teacher (VideoREPA, arXiv 2505.23656).

    Only similarities of tokens to each other are compared, so that channels need not match and nothing else is trained.
    (VideoREPA has an MLP between block and relations.) Both sides are averaged to the coarser of their grids along each
    axis. Frames are squeezed to the teacher's square, and images beside a video take no part.

    Args:
        teacher: a frozen encoder whose `frames` are those of a clip, and whose tokens fill its grid.
        block: a block of the network by its name, such as "mid.blocks.0".
        weight: of the loss. margin: differences of similarity up to this cost nothing.
        until: the step from which on the loss is left out; None: it stays.
        mean, std: statistics of the pixels that the teacher was trained on; a `FrameEncoder` brings its own.

    Raises:
        ValueError: the teacher is no `Encoder`.
    """

    def __init__(
        self,
        teacher: Frozen,
        block: str,
        weight: float = 0.5,
        margin: float = 0.1,
        until: int | None = None,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        if not isinstance(teacher.model, Encoder):
            raise ValueError(
                f"relations are learnt from an encoder of videos, and {type(teacher.model).__name__} is none: take "
                "VideoViT, ViCLIPVision, UniFormerV2, TransformersEncoder or another Encoder"
            )
        self.teacher, self.size, self.encoder_grid = teacher, teacher.model.size, teacher.model.grid
        self.block, self.weight, self.margin, self.until = block, weight, margin, until
        self.statistics: Statistics = mean, std
        if isinstance(teacher.model, FrameEncoder):
            self.statistics = teacher.model.statistics

    def check_block(self, network: nn.Module) -> None:
        """A ValueError if the network has no such block."""
        known = [name for name, part in network.named_modules() if any(part is each for each in blocks(network))]
        if self.block not in known:
            raise ValueError(f"the network has no block {self.block!r} to align: set it to one of {', '.join(known)}")

    def forward(self, output: Tensor, video: Tensor, statistics: Statistics) -> Tensor:
        """The weighted loss of the block's `output` `[B, C, F, h, w]` for `video` `[B, 3, T, H, W]`.

        Frames of the output beyond T are images. The video is normalised by `statistics`. ValueError: the teacher was
        made for another number of frames, or its tokens do not fill its grid.
        """
        video = renormalize(resize_frames(video, self.size), statistics, self.statistics)
        tokens = self.teacher(video)  # [B, N, D]
        theirs = to_grid(tokens, self.encoder_grid)
        ours = output[:, :, : video.shape[2]].float()
        t, h, w = (min(sides) for sides in zip(ours.shape[2:], self.encoder_grid, strict=True))
        ours, theirs = (F.adaptive_avg_pool3d(x, (t, h, w)).flatten(2).mT for x in (ours, theirs))
        return self.weight * relation_loss(ours, theirs, self.margin)


@contextmanager
def watch_block(align: Relations | None, network: nn.Module, step: int) -> Iterator[list[Tensor]]:
    """Within it, outputs `[B, C, F, h, w]` of the aligned block are appended to the list, if there is one at `step`."""
    outputs: list[Tensor] = []
    if align is None or (align.until is not None and step >= align.until):
        yield outputs
        return

    def keep(_block: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(output)

    # A hook stays outside of what recomputes, compiles or shards a block.
    handle = network.get_submodule(align.block).register_forward_hook(keep)
    try:
        yield outputs
    finally:
        handle.remove()


def to_grid(tokens: Tensor, grid: Grid) -> Tensor:
    """Tokens `[B, t * h * w, D]` as `[B, D, t, h, w]`, float32. ValueError: there are more or fewer of them."""
    t, h, w = grid
    if tokens.shape[1] != t * h * w:
        raise ValueError(
            f"the teacher makes {tokens.shape[1]} tokens of a clip and its grid of {t} x {h} x {w} has {t * h * w}: "
            "relations need an encoder without further tokens, whose `frames` are the data's"
        )
    return tokens.float().transpose(1, 2).unflatten(2, grid)
