"""UMT: see what a frozen CLIP finds worth seeing, and learn its features of that (arXiv 2303.16058)."""

from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from models.decoders import FeatureDecoder
from models.encoder import Encoder
from pretrain.losses import alignment
from pretrain.masking import Attention, Mask
from pretrain.objectives.objective import Batch, Objective
from pretrain.teachers import Frozen


class UMT(Objective):
    """A student that sees few tokens, aligned to a teacher that sees all, on those few.

    Args:
        encoder: the student, with a tubelet of one frame: the teacher looks at frames.
        decoder: a head for each pair of layers, counted from the last of both.
        teacher: a frozen `CLIPVision`, whose tokens a frame are as many as the student's.
        mask: which tokens the student sees.
        interval: blocks between two layers that are compared.
        loss: l2 is the squared distance of vectors of length 1; mse and smooth_l1 are means over their elements.
        base: see `Objective`. The statistics of normalisation serve the teacher too, as in the official code.
    """

    def __init__(
        self,
        encoder: Encoder,
        decoder: FeatureDecoder,
        teacher: Frozen,
        mask: Mask | None = None,
        interval: float = 1,
        loss: Literal["l2", "mse", "smooth_l1"] = "l2",
        **base: Any,
    ) -> None:
        super().__init__(**base)
        clip, layers = teacher.model, len(decoder.heads)
        if encoder.tubelet != 1 or encoder.grid[1:] != clip.grid[1:]:
            raise ValueError(
                f"the student's tokens are {encoder.tubelet} frames deep and {encoder.grid[1:]} a slice, the teacher's "
                f"1 and {clip.grid[1:]}: they are compared one by one, so sizes and patches must give the same"
            )
        if decoder.positions.grid != encoder.grid or decoder.heads[0].in_features != encoder.width:
            raise ValueError(
                f"student and decoder differ: token grid {encoder.grid} and {decoder.positions.grid}, "
                f"width {encoder.width} and {decoder.heads[0].in_features} (encoder_width)"
            )
        if decoder.heads[0].out_features != clip.out:
            raise ValueError(
                f"the decoder makes {decoder.heads[0].out_features} channels and the teacher {clip.out}: set its `out`"
            )
        self.encoder, self.decoder, self.teacher = encoder, decoder, teacher
        self.mask = mask or Attention()
        self.taps = last_blocks(len(encoder.blocks), layers, interval)
        self.teacher_taps = last_blocks(len(clip.blocks), layers, interval)
        self.loss = loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        video = self.normalize(batch["video"])
        target, keep = self.teach(video)
        return {"alignment": self.align(video, keep, target)}

    def teach(self, video: Tensor, noise: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """The teacher's features `[B, K, out]` of each tapped layer, at the tokens `keep` `[B, K]` that it chose."""
        grid = self.encoder.grid
        if noise is None:
            noise = self.noise(self.dice(video.device), video.shape[0], self.mask.width(grid))
        seen = self.teacher(
            resize_frames(video, self.teacher.model.size),
            taps=self.teacher_taps,
            choose=lambda attention: self.mask(noise, grid, attention),
            even=self.mask.even,
        )
        return seen.features, seen.keep

    def align(self, video: Tensor, keep: Tensor, target: list[Tensor]) -> Tensor:
        """How far the student, who sees the tokens `keep` `[B, K]`, is from the teacher's `target` on them."""
        _, layers = self.encoder(video, keep, self.taps)
        return alignment(self.decoder(layers, keep), target, self.loss)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """The mean of all tokens, `features [B, D]`, and the largest value of each channel, `peaks [B, D]`."""
        tokens = self.encoder(self.normalize(batch["video"]))
        return {"features": tokens.mean(dim=1), "peaks": tokens.amax(dim=1)}


def last_blocks(depth: int, layers: int, interval: float) -> tuple[int, ...]:
    """The numbers of `layers` blocks, the last one and others at `interval` before it, in ascending order."""
    found = tuple(depth - 1 - int(i * interval) for i in reversed(range(layers)))
    if found[0] < 0 or len(set(found)) < layers:
        raise ValueError(f"{layers} layers at an interval of {interval} do not fit into {depth} blocks")
    return found


def resize_frames(video: Tensor, size: int) -> Tensor:
    """`[B, C, T, H, W]` to `size` pixels square: bicubic without antialiasing, as the official loop does."""
    if video.shape[3:] == (size, size):
        return video
    frames = F.interpolate(video.flatten(1, 2), (size, size), mode="bicubic", align_corners=False)
    return frames.unflatten(1, video.shape[1:3])
