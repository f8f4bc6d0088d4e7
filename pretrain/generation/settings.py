"""What is generated and how: the settings of the three stages, with LaVie's as defaults, and one film's request."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from torch import Tensor

from models.diffusion.schedules import (
    Grid,
    leading_grid,
    linspace_grid,
    respaced_grid,
    trailing_grid,
)

Sampler = Literal["ddpm", "ddim", "euler", "dpm_solver"]
SAMPLERS: tuple[Sampler, ...] = ("ddpm", "ddim", "euler", "dpm_solver")
STAGES = ("base", "interpolation", "vsr")


@dataclass(frozen=True)
class StageSettings:
    """How one stage samples.

    Args:
        steps: of the sampler.
        guidance: scale of classifier-free guidance; 1: none.
        sampler: DDPM and Euler draw or start as LaVie's base does, see `grid_of`.
        negative: prompt in the place of the null text; None: the null text that the network was trained with.
        suffix: appended to the prompt.
        window, overlap: frames of a window, and frames that neighbouring windows share, both at the stage's input: for
            interpolation, frames of the low rate. Not used by the base.
        noise_level: of the condition, for super-resolution.
    """

    steps: int = 50
    guidance: float = 7.5
    sampler: Sampler = "ddpm"
    negative: str | None = None
    suffix: str = ""
    window: int = 0
    overlap: int = 0
    noise_level: int = 0

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS:
            raise ValueError(f"no sampler {self.sampler!r}: choose one of {', '.join(SAMPLERS)}")
        if self.steps < 1:
            raise ValueError(f"{self.steps} sampling steps: choose at least 1")
        if self.window and not 0 <= self.overlap <= self.window // 2:
            raise ValueError(
                f"an overlap of {self.overlap} frames of windows of {self.window}: choose 0 to {self.window // 2}"
            )


# LaVie `base/configs/sample.yaml`, `interpolation/configs/sample.yaml`, `vsr/configs/sample.yaml`. Overlaps are ours:
# LaVie interpolates 16 frames only, and puts pieces of 8 frames beside each other in super-resolution.
LAVIE: dict[str, StageSettings] = {
    "base": StageSettings(),
    "interpolation": StageSettings(guidance=4.0, sampler="ddim", suffix=", 4k.", window=16, overlap=2),
    "vsr": StageSettings(
        guidance=5.0,
        sampler="ddim",
        negative="blur, worst quality",
        window=8,
        overlap=2,
        noise_level=50,
    ),
}
FACTOR = 4  # frames of the interpolated clip for each frame of its input
BASE_FPS, INTERPOLATED_FPS = 8.0, 24.0  # of LaVie's files; super-resolution keeps its input's


@dataclass(frozen=True)
class Request:
    """One film.

    Args:
        prompt: of all stages.
        seed: noise is a function of (seed, stage, frame, step).
        frames, height, width: of the base's clip, in pixels.
        stages: those that run, in the order of `STAGES`.
        source: a video that takes the place of the base's clip.
        settings: by stage.
    """

    prompt: str
    seed: int = 0
    frames: int = 16
    height: int = 320
    width: int = 512
    stages: tuple[str, ...] = STAGES
    source: str | None = None
    settings: Mapping[str, StageSettings] = field(default_factory=lambda: dict(LAVIE))

    def __post_init__(self) -> None:
        if unknown := [stage for stage in self.stages if stage not in STAGES]:
            raise ValueError(f"no stage {unknown[0]!r}: choose among {', '.join(STAGES)}")
        if not self.stages:
            raise ValueError(f"no stage to run: choose among {', '.join(STAGES)}")
        if not self.prompt.strip():
            raise ValueError("the prompt is empty: write what the film should show")
        if self.source is None and "base" not in self.stages:
            raise ValueError(f"{self.stages[0]} without the base needs a video to start from: give --source VIDEO")
        if self.source is not None and "base" in self.stages:
            raise ValueError("the base makes its own clip: leave it out of the stages to start from a video")
        if self.source is None and min(self.frames, self.height, self.width) < 1:
            raise ValueError(f"{self.frames} frames of {self.height} x {self.width} pixels: sizes must be positive")
        if self.source is None and "interpolation" in self.stages and self.frames < 2:
            raise ValueError("one frame has nothing to interpolate: generate 2 frames or more, or leave it out")

    def as_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes the same request."""
        settings = {stage: asdict(self.settings[stage]) for stage in self.stages}
        return asdict(replace(self, settings={})) | {"stages": list(self.stages), "settings": settings}

    @staticmethod
    def from_json(values: Mapping[str, Any], where: str) -> "Request":
        """The request that `as_json` wrote; ValueError if the values are of no request."""
        kinds: dict[str, type | tuple[type, ...]] = {"prompt": str, "source": (str, type(None))}
        kinds |= dict.fromkeys(("seed", "frames", "height", "width"), int)
        for name, kind in kinds.items():
            if name in values and (not isinstance(values[name], kind) or isinstance(values[name], bool)):
                raise ValueError(f"{where} does not describe a film of this tool: its {name} is {values[name]!r:.60}")
        try:
            settings = {stage: StageSettings(**each) for stage, each in values["settings"].items()}
            rest: dict[str, Any] = {**values, "stages": tuple(values["stages"]), "settings": settings}
            return Request(**rest)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{where} does not describe a film of this tool: {error}") from None


def grid_of(stage: str, settings: StageSettings, alpha_bar: Tensor) -> Grid:
    """The steps that a sampler takes on the schedule `alpha_bar`, spaced as the released code does for the stage.

    Interpolation respaces from 0 to 999; elsewhere DDPM takes whole strides from 0, DDIM from 1. Euler takes even ones
    from 999. DPM-Solver++, which LaVie does not have, takes even ones back from the last step, and so does each sampler
    on a schedule that ends in pure noise.
    """
    if settings.sampler == "dpm_solver" or float(alpha_bar[-1]) == 0:
        return trailing_grid(alpha_bar, settings.steps)
    if settings.sampler == "euler":
        return linspace_grid(alpha_bar, settings.steps)
    if stage == "interpolation":
        return respaced_grid(alpha_bar, settings.steps)
    if settings.sampler == "ddpm":
        return leading_grid(alpha_bar, settings.steps)
    return leading_grid(alpha_bar, settings.steps, offset=1, final="first")


def with_options(
    stages: Sequence[str], options: Mapping[str, Mapping[str, Any]], defaults: Mapping[str, StageSettings] = LAVIE
) -> dict[str, StageSettings]:
    """The settings of each stage; `options` maps the name of a setting to its values by stage ("all": every one)."""
    found = {}
    for stage in stages:
        changes = {name: values.get(stage, values.get("all")) for name, values in options.items()}
        found[stage] = replace(defaults[stage], **{n: value for n, value in changes.items() if value is not None})
    return found
