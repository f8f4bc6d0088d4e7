"""Stand-ins for VBench's models that need no weights, and scorers of all dimensions made of them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pretrain.metrics.vbench.aesthetic_quality import AestheticQuality
from pretrain.metrics.vbench.appearance_style import AppearanceStyle
from pretrain.metrics.vbench.background_consistency import BackgroundConsistency
from pretrain.metrics.vbench.color import Color
from pretrain.metrics.vbench.dynamic_degree import DynamicDegree
from pretrain.metrics.vbench.human_action import HumanAction
from pretrain.metrics.vbench.imaging_quality import ImagingQuality
from pretrain.metrics.vbench.interfaces import Detections
from pretrain.metrics.vbench.motion_smoothness import MotionSmoothness
from pretrain.metrics.vbench.multiple_objects import MultipleObjects
from pretrain.metrics.vbench.object_class import ObjectClass
from pretrain.metrics.vbench.overall_consistency import OverallConsistency
from pretrain.metrics.vbench.scene import Scene
from pretrain.metrics.vbench.scorer import Scorer
from pretrain.metrics.vbench.spatial_relationship import SpatialRelationship
from pretrain.metrics.vbench.subject_consistency import SubjectConsistency
from pretrain.metrics.vbench.temporal_flickering import TemporalFlickering
from pretrain.metrics.vbench.temporal_style import TemporalStyle
from pretrain.metrics.vbench.video_score import VideoFacts

SIZE = 16
AUXILIARY = {
    "object_class": {"object": "cat"},
    "multiple_objects": {"object": "cat and dog"},
    "color": {"color": "red"},
    "spatial_relationship": {
        "spatial_relationship": {"object_a": "cat", "object_b": "dog", "relationship": "on the left of"}
    },
    "scene": {"scene": {"scene": "ball pit"}},
    "appearance_style": {"appearance_style": "oil painting"},
}


def video_facts(name: str, length: int, fps: float = 8.0, prompt: str | None = "a red cat") -> VideoFacts:
    return VideoFacts(name, length, fps, prompt, AUXILIARY)


def moving_frames(length: int, seed: int = 0, size: int = 20) -> Tensor:
    """uint8 `[3, T, size, size]`: noise whose brightness rises and falls."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(3, 1, size, size, generator=generator)
    light = (torch.arange(length) / 3 + seed).sin().abs()[None, :, None, None] * 0.8
    flicker = torch.rand(3, length, size, size, generator=generator) * 0.1
    return ((noise * 0.1 + light + flicker) * 255).to(torch.uint8)


class Pooled(nn.Module):
    """Features of frames or clips: means over regions. Counts the frames it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.frames = 0

    def forward(self, frames: Tensor) -> Tensor:
        flat = frames.mean(2) if frames.ndim == 5 else frames
        self.frames += len(frames) * (frames.shape[2] if frames.ndim == 5 else 1)
        return nn.functional.adaptive_avg_pool2d(flat, 2).flatten(1)


class Sentences(nn.Module):
    """Features of sentences: letters counted in twelve bins."""

    def forward(self, sentences: Sequence[str]) -> Tensor:
        return torch.stack([torch.tensor([float(s.count(c)) for c in "abcdefghilno"]) + 0.1 for s in sentences])


class Brightness(nn.Module):
    """The mean of a frame, 0 to 100."""

    def forward(self, frames: Tensor) -> Tensor:
        return 100 * frames.mean(dim=(1, 2, 3))


class Actions(nn.Module):
    """Logits of ten classes; the first is certain for bright clips."""

    def forward(self, clips: Tensor) -> Tensor:
        bright = clips.mean(dim=(1, 2, 3, 4))
        return torch.stack([20 * bright, *([-bright - i for i in range(9)])], dim=1)


def brightness_flow(a: Tensor, b: Tensor) -> Tensor:
    """Flow to the right by the change of brightness."""
    return torch.stack(((b - a).mean(1), torch.zeros_like(a[:, 0])), dim=1)


class Midpoint:
    """The mean of two frames."""

    name = "mean of neighbours"

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return (a + b) / 2


class Detector:
    """Finds a cat in bright frames and a dog in very bright ones. Counts the frames it was given."""

    name = "brightness"

    def __init__(self) -> None:
        self.frames = 0

    def __call__(self, frames: Tensor) -> list[Detections]:
        self.frames += len(frames)
        return [self._objects(frame.float().mean().item()) for frame in frames]

    def _objects(self, light: float) -> Detections:
        names = ["cat"] * (light > 90) + ["dog"] * (light > 150)
        boxes = torch.tensor([[0.0, 0, 4, 4], [8.0, 0, 12, 4]])[: len(names)]
        return Detections(boxes, names, [f"a {'red' if light > 120 else 'blue'} {name}" for name in names])


class Captioner:
    """Names the scene in bright frames."""

    name = "brightness"

    def __call__(self, frames: Tensor) -> list[str]:
        return ["a ball in a pit" if frame.float().mean() > 100 else "a dark room" for frame in frames]


def all_scorers(
    clip: nn.Module | None = None, viclip: nn.Module | None = None, detector: Detector | None = None
) -> list[Scorer]:
    """All sixteen dimensions, in VBench's order."""
    clip, viclip, detector = clip or Pooled(), viclip or Pooled(), detector or Detector()
    head = nn.Linear(12, 1)
    nn.init.constant_(head.weight, 2.0)
    nn.init.constant_(head.bias, 1.0)
    actions = [f"action {i}" for i in range(9)]
    return [
        SubjectConsistency(Pooled(), SIZE),
        BackgroundConsistency(clip, SIZE),
        TemporalFlickering(),
        MotionSmoothness(Midpoint()),
        DynamicDegree(brightness_flow),
        AestheticQuality(clip, head.requires_grad_(False), SIZE),
        ImagingQuality(Brightness()),
        ObjectClass(detector),
        MultipleObjects(detector),
        HumanAction(Actions(), ["a red cat", *actions]),
        Color(detector),
        SpatialRelationship(detector),
        Scene(Captioner()),
        AppearanceStyle(clip, Sentences(), SIZE),
        TemporalStyle(viclip, Sentences(), SIZE),
        OverallConsistency(viclip, Sentences(), SIZE),
    ]
