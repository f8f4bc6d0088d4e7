"""UMT: a student learns a frozen CLIP's features of the tokens that CLIP attends to (arXiv 2303.16058)."""

from typing import Any, Literal, cast

from torch import Tensor

from models.clip import CLIPVision
from models.decoders import FeatureDecoder
from models.encoder import Encoder
from pretrain.learning.batch import Batch
from pretrain.learning.losses import alignment_loss
from pretrain.learning.masking import Attention, Mask
from pretrain.learning.teachers import Frozen, check_student, last_blocks, teacher_targets
from pretrain.objectives.objective import Objective


class UMT(Objective):
    """A student with few visible tokens, aligned on those tokens to a teacher that sees all tokens.

    Args:
        encoder: the student, with a tubelet of one frame, because the teacher encodes frames.
        decoder: one head per pair of layers, counted from the last layers of both.
        teacher: a frozen `CLIPVision` or `FrameTeacher` with as many tokens per frame as the student.
        mask: selects the student's visible tokens.
        interval: blocks between two aligned layers.
        loss: l2 is the squared distance of normalised vectors; mse and smooth_l1 are means over their elements.
        base: see `Objective`. CLIP's input has the same normalisation, as in the official code.
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
        clip = cast(CLIPVision, teacher.model)
        check_student(encoder, decoder, clip)
        self.encoder, self.decoder, self.teacher = encoder, decoder, teacher
        self.mask = mask or Attention()
        layers = len(decoder.heads)
        self.taps = last_blocks(len(encoder.blocks), layers, interval)
        self.teacher_taps = last_blocks(len(clip.blocks), layers, interval)
        self.loss = loss

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        video = self.normalize(batch["video"])
        target, keep = self.teacher_targets(video)
        return {"alignment": self.alignment_loss(video, keep, target)}

    def teacher_targets(self, video: Tensor, noise: Tensor | None = None) -> tuple[list[Tensor], Tensor]:
        """The teacher's features `[B, K, out]` of each tapped layer at the visible tokens, and the indices `[B, K]`."""
        grid, mask = self.encoder.grid, self.mask
        if noise is None:
            noise = self.noise(self.generator(video.device), video.shape[0], mask.width(grid))
        uniform = noise
        return teacher_targets(
            self.teacher,
            video,
            self.teacher_taps,
            self.normalize.values,
            lambda attention: mask(uniform, grid, attention),
            mask.even,
        )

    def alignment_loss(self, video: Tensor, keep: Tensor, target: list[Tensor]) -> Tensor:
        """The distance of the student's features to `target` at the visible tokens `keep` `[B, K]`."""
        _, layers = self.encoder(video, keep, self.taps)
        return alignment_loss(self.decoder(layers, keep), target, self.loss)

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """The mean of all tokens, `features [B, D]`, and the maximum of each channel, `peaks [B, D]`."""
        tokens = self.encoder(self.normalize(batch["video"]))
        return {"features": tokens.mean(dim=1), "peaks": tokens.amax(dim=1)}
