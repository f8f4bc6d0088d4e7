"""Teachers: frozen models that are not trained or saved, and a student's targets from a frozen CLIP."""

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from timm.layers import LayerNorm as TimmLayerNorm
from torch import Tensor, nn

from models import load_weights
from models.clip import CLIPVision
from models.decoders import FeatureDecoder
from models.encoder import Encoder
from models.fetch import local_path
from models.frame_encoder import Statistics
from models.frame_teacher import FrameTeacher


class Frozen(nn.Module):
    """A model with fixed weights: always in eval mode, without gradients, not in optimisers or checkpoints.

    It is not registered as a submodule: lists of parameters, state dicts and wrappers of strategies do not contain it.
    Moves to a device and conversions of the dtype do reach it.

    Args:
        model: the frozen model.
        weights: its checkpoint (a path, a release's name or an address); read when a run starts, or at the first call.
        random: instead of weights, a seed for random weights, equal in every process and every run.
        param_dtype: type in which it is stored and run, independent of the precision of the rest. LayerNorms stay in
            float32, and softmax is computed in it, as autocast does in the official code.

    Raises:
        ValueError: neither weights nor a seed, or both.
    """

    model: nn.Module

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
                f"the teacher {type(model).__name__} has weights, {weights}, and a seed of random weights, {random}: "
                "set one of the two to null"
            )
        if weights is None and random is None:
            raise ValueError(
                f"the teacher {type(model).__name__} needs weights: set model.teacher.weights to a "
                "checkpoint (for CLIP: OpenAI's ViT-B-16.pt or ViT-L-14.pt, an open_clip checkpoint, or a folder of "
                "transformers' CLIPModel such as openai/clip-vit-base-patch16), or `random` to a seed for a test"
            )
        self.weights, self.param_dtype = weights, getattr(torch, param_dtype)
        model.eval().requires_grad_(False)
        if random is not None:
            _reset_weights(model, random)
        if self.param_dtype != torch.float32:
            model.to(self.param_dtype)
            _keep_norms_in_float32(model)
        object.__setattr__(self, "model", model)  # not registered as a submodule

    def load(self) -> None:
        """Read the weights, once. A FileNotFoundError names the path."""
        if self.weights is None:
            return
        read: Any = getattr(self.model, "read", None)
        if read is not None:  # a model of another library, which reads its own folders whole or not at all
            read(local_path(self.weights))
            self.weights = None
            return
        try:
            report = load_weights(self.model, self.weights)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}: put the teacher's weights there, or set another path by "
                "--model.teacher.weights (README, 'Weights to start from')"
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

    def _apply(self, fn: Any, recurse: bool = True) -> "Frozen":
        self.model._apply(fn, recurse)
        return super()._apply(fn, recurse)


class Float32LayerNorm(nn.LayerNorm):
    """A LayerNorm in float32 between layers of another type."""

    def forward(self, input: Tensor) -> Tensor:
        weight, bias = (None if x is None else x.float() for x in (self.weight, self.bias))
        return F.layer_norm(input.float(), self.normalized_shape, weight, bias, self.eps).to(input.dtype)


def _keep_norms_in_float32(model: nn.Module) -> None:
    """Replaces each LayerNorm, in place; names of parameters do not change."""
    for holder in list(model.modules()):
        for name, part in list(holder.named_children()):
            if type(part) in (nn.LayerNorm, TimmLayerNorm):
                options: Any = (part.normalized_shape, part.eps, part.elementwise_affine, part.bias is not None)
                norm = Float32LayerNorm(*options, device=part.weight.device if part.elementwise_affine else None)
                norm.load_state_dict(part.state_dict())
                setattr(holder, name, norm.eval().requires_grad_(False))


def _reset_weights(model: nn.Module, seed: int) -> None:
    """Initialise every submodule from `seed`, without a change to the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()


def teacher_targets(
    teacher: Frozen,
    video: Tensor,
    taps: tuple[int, ...],
    statistics: Statistics,
    choose: Callable[[Tensor], Tensor] | None = None,
    even: bool = True,
) -> tuple[list[Tensor], Tensor]:
    """A teacher's features `[B, K, out]` of each tapped layer at the visible tokens, and their indices `[B, K]`.

    Args:
        teacher: a frozen `CLIPVision`, or a `FrameTeacher`.
        video: the student's, normalised by `statistics`; it is resized to the teacher's size, and normalised by a
            `FrameTeacher`'s own statistics. (CLIP gets the student's, as in the official code.)
        choose: the indices of the visible tokens, as a function of the teacher's attention `[B, t, h * w]`; None: all.
        even: whether `choose` returns equally many tokens of each frame.
    """
    clip = cast(CLIPVision, teacher.model)
    video = resize_frames(video, clip.size)
    if isinstance(teacher.model, FrameTeacher):
        video = renormalize(video, statistics, teacher.model.statistics)
    made = teacher(video, taps=taps, choose=choose, even=even)
    return made.features, made.keep


def check_student(encoder: Encoder, decoder: FeatureDecoder, clip: CLIPVision) -> None:
    """A ValueError if student, decoder and teacher do not have the same tokens and channels."""
    if encoder.tubelet != 1 or encoder.grid[1:] != clip.grid[1:]:
        raise ValueError(
            f"the student's tokens are {encoder.tubelet} frames deep and {encoder.grid[1:]} a slice, the teacher's "
            f"1 and {clip.grid[1:]}: tokens are compared one by one, so sizes and patches must give equal grids"
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
    """Indices of `layers` blocks, in ascending order: the last one and others before it, `interval` apart."""
    found = tuple(depth - 1 - int(i * interval) for i in reversed(range(layers)))
    if found[0] < 0 or len(set(found)) < layers:
        raise ValueError(f"{layers} layers at an interval of {interval} do not fit into {depth} blocks")
    return found


def renormalize(video: Tensor, old: Statistics, new: Statistics) -> Tensor:
    """`video` `[B, 3, T, H, W]`, normalised by the means and deviations `old`, as it is by `new`."""
    if old == new:
        return video
    channels = zip(video.unbind(1), *old, *new, strict=True)  # numbers of the host: a tensor of them would be copied
    return torch.stack([x * (s / new_s) + (m - new_m) / new_s for x, m, s, new_m, new_s in channels], dim=1)


def resize_frames(video: Tensor, size: int) -> Tensor:
    """Resize `[B, C, T, H, W]` to `size` x `size` pixels: bicubic without antialiasing, as in the official loop."""
    if video.shape[3:] == (size, size):
        return video
    frames = F.interpolate(video.flatten(1, 2), (size, size), mode="bicubic", align_corners=False)
    return frames.unflatten(1, video.shape[1:3])
