"""Teachers: models that are run, never trained and never saved."""

from typing import Any

import torch
from torch import nn

from models import load_weights


class Frozen(nn.Module):
    """A model with fixed weights: in eval mode always, without gradients, unknown to the optimiser and to checkpoints.

    It is not registered as a part, so that no list of parameters, no state dict and no wrapper of a strategy meets it;
    only moves to a device or a number format reach it.

    Args:
        model: what to run.
        weights: a checkpoint of it; read when a run starts, or at the first call.
        random: in place of weights, the seed of random ones that are the same in every process and every run.
        half: hold and run it in bfloat16, whatever the precision of the rest.

    Raises:
        ValueError: neither weights nor a seed, or both.
    """

    def __init__(
        self, model: nn.Module, weights: str | None = None, random: int | None = None, half: bool = False
    ) -> None:
        super().__init__()
        if (weights is None) == (random is None):
            raise ValueError(
                f"the teacher {type(model).__name__} needs weights: set model.init_args.teacher.init_args.weights to a "
                "file of them (for CLIP: OpenAI's ViT-B-16.pt or ViT-L-14.pt, an open_clip checkpoint, or a folder of "
                "transformers' CLIPModel such as openai/clip-vit-base-patch16), or `random` to a seed for a toy"
            )
        self.weights, self.half_precision = weights, half
        model.eval().requires_grad_(False)
        if random is not None:
            _draw_weights(model, random)
        if half:
            model.bfloat16()
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
                "--model.init_args.teacher.init_args.weights (README, 'Weights of teachers')"
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
        if not self.half_precision:
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
