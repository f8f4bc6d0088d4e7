"""UMT: see what a frozen CLIP finds worth seeing, and learn its features of that (arXiv 2303.16058)."""

from typing import Any, Literal

from torch import Tensor

from models.decoders import FeatureDecoder
from models.encoder import Encoder
from pretrain.learning.losses import alignment
from pretrain.learning.masking import Attention, Mask
from pretrain.learning.teachers import Frozen, check_student, last_blocks, resize_frames, teach  # noqa: F401
from pretrain.objectives.objective import Batch, Objective


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
        check_student(encoder, decoder, teacher.model)
        self.encoder, self.decoder, self.teacher = encoder, decoder, teacher
        self.mask = mask or Attention()
        layers = len(decoder.heads)
        self.taps = last_blocks(len(encoder.blocks), layers, interval)
        self.teacher_taps = last_blocks(len(teacher.model.blocks), layers, interval)
        self.loss = loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        video = self.normalize(batch["video"])
        target, keep = self.teach(video)
        return {"alignment": self.align(video, keep, target)}

    def teach(self, video: Tensor, noise: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """The teacher's features `[B, K, out]` of each tapped layer, at the tokens `keep` `[B, K]` that it chose."""
        grid = self.encoder.grid
        if noise is None:
            noise = self.noise(self.generator(video.device), video.shape[0], self.mask.width(grid))
        return teach(self.teacher, video, self.teacher_taps, self.mask, noise, grid)

    def align(self, video: Tensor, keep: Tensor, target: list[Tensor]) -> Tensor:
        """How far the student, who sees the tokens `keep` `[B, K]`, is from the teacher's `target` on them."""
        _, layers = self.encoder(video, keep, self.taps)
        return alignment(self.decoder(layers, keep), target, self.loss)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """The mean of all tokens, `features [B, D]`, and the largest value of each channel, `peaks [B, D]`."""
        tokens = self.encoder(self.normalize(batch["video"]))
        return {"features": tokens.mean(dim=1), "peaks": tokens.amax(dim=1)}
