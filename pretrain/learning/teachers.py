"""Teachers: models that are run, never trained and never saved; and what a student learns of a frozen CLIP."""

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import load_weights
from models.clip import CLIPVision
from models.decoders import FeatureDecoder
from models.encoder import Encoder
from models.layers import Grid
from pretrain.learning.masking import Mask


class Frozen(nn.Module):
    """A model with fixed weights: in eval mode always, without gradients, unknown to the optimiser and to checkpoints.

    It is not registered as a part, so that no list of parameters, no state dict and no wrapper of a strategy meets it;
    only moves to a device or a number format reach it.

    Args:
        model: what to run.
        weights: a checkpoint of it; read when a run starts, or at the first call.
        random: in place of weights, the seed of random ones that are the same in every process and every run.
        param_dtype: type in which it is held and run, whatever the precision of the rest.

    Raises:
        ValueError: neither weights nor a seed, or both.
    """

    def __init__(
        self,
        model: nn.Module,
        weights: str | None = None,
        random: int | None = None,
        param_dtype: Literal["float32", "bfloat16"] = "float32",
    ) -> None:
        super().__init__()
        if weights is not None and random is not None:
            raise ValueError(
                f"the teacher {type(model).__name__} has weights, {weights}, and the seed of random ones, {random}: "
                "set one of the two to null"
            )
        if weights is None and random is None:
            raise ValueError(
                f"the teacher {type(model).__name__} needs weights: set model.init_args.teacher.init_args.weights to a "
                "file of them (for CLIP: OpenAI's ViT-B-16.pt or ViT-L-14.pt, an open_clip checkpoint, or a folder of "
                "transformers' CLIPModel such as openai/clip-vit-base-patch16), or `random` to a seed for a toy"
            )
        self.weights, self.param_dtype = weights, getattr(torch, param_dtype)
        model.eval().requires_grad_(False)
        if random is not None:
            _draw_weights(model, random)
        if self.param_dtype != torch.float32:
            model.to(self.param_dtype)
        object.__setattr__(self, "model", model)  # past nn.Module's register

    def load(self) -> None:
        """Read the weights, once. FileNotFoundError says where they were looked for."""
        if self.weights is None:
            return
        try:
            report = load_weights(self.model, self.weights)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}: the teacher's weights belong there, or elsewhere by "
                "--model.init_args.teacher.init_args.weights (README, 'Weights to start from')"
            ) from error
        if report.missing:
            raise ValueError(
                f"{self.weights} does not hold all of the teacher {type(self.model).__name__}: "
                f"{len(report.missing)} tensors are missing, the first is {report.missing[0]} (if only proj.weight: "
                "the file is a CLIP without its projection: take the whole CLIP's, or set the model's `out` to null)"
            )
        self.weights = None

    def forward(self, video: torch.Tensor, *args: Any, **options: Any) -> Any:
        self.load()
        if self.param_dtype == torch.float32:
            with torch.no_grad():
                return self.model(video, *args, **options)
        with torch.no_grad(), torch.autocast(video.device.type, enabled=False):
            return self.model(video.bfloat16(), *args, **options)

    def train(self, mode: bool = True) -> "Frozen":
        return super().train(False)

    def _apply(self, fn, recurse: bool = True):
        self.model._apply(fn, recurse)
        return super()._apply(fn, recurse)


def _draw_weights(model: nn.Module, seed: int) -> None:
    """Start every part anew from `seed`, leaving the process's own random numbers as they were."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()


def teach(
    teacher: Frozen, video: Tensor, taps: tuple[int, ...], mask: Mask | None, noise: Tensor, grid: Grid
) -> tuple[list[Tensor], Tensor]:
    """A frozen CLIP's features `[B, K, out]` of each tapped layer, at the tokens `keep` `[B, K]` that it chose.

    Args:
        video: the student's, normalised; the teacher sees it at its own size.
        mask: chooses by the teacher's attention and by `noise`; None: all tokens, and no noise is looked at.
        grid: of the student's tokens, as many a frame as the teacher's.
    """
    seen = teacher(
        resize_frames(video, teacher.model.size),
        taps=taps,
        choose=None if mask is None else lambda attention: mask(noise, grid, attention),
        even=mask is None or mask.even,
    )
    return seen.features, seen.keep


def check_student(encoder: Encoder, decoder: FeatureDecoder, clip: CLIPVision) -> None:
    """A ValueError where student, decoder and teacher cannot be compared token by token, channel by channel."""
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
