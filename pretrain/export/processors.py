"""Writes the processors beside an export: they make a model's input from a video file as the run's evaluation did."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from models.encoder import Encoder

_SAMPLERS = ("Dense", "Span", "Segments", "Spaced", "Sparse")
_VIEWS = ("Squares", "Squash")
_BILINEAR, _BICUBIC = 2, 3  # PIL's numbers

READ_VIDEO = """from transformers import AutoVideoProcessor
processor = AutoVideoProcessor.from_pretrained("PATH", trust_remote_code=True)
pixel_values = processor(["video.mp4"]).pixel_values  # [B, T, 3, H, W]
"""


@dataclass
class Evaluation:
    """The clip that validation and prediction take of a video: its frames, and how they become squares.

    `sampling` names a rule of `models/convert/processing_video.py`; `crop`: the short side is scaled to `size` and the
    central square cut (`Squares`), else the whole frame is scaled to a square (`Squash`).
    """

    frames: int
    stride: int
    size: int
    sampling: str
    crop: bool
    antialias: bool

    @property
    def pixels(self) -> dict[str, Any]:
        """The arguments of transformers' processors that make the pixels."""
        square = {"height": self.size, "width": self.size}
        if self.crop:
            return {"size": {"shortest_edge": self.size}, "do_center_crop": True, "crop_size": square,
                    "resample": _BILINEAR}  # fmt: skip
        return {"size": square, "do_center_crop": False, "resample": _BICUBIC}


def evaluation_of(recipe: str, encoder: Encoder) -> Evaluation:
    """The evaluation of a run, by its resolved recipe; ValueError for what the processors cannot do.

    Of the recipe only names and numbers are read: nothing that it names is imported.
    """
    try:
        settings = yaml.safe_load(recipe)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError("the recipe in the checkpoint cannot be read") from error
    data = settings.get("data") if isinstance(settings, dict) else None
    if not isinstance(data, dict):
        raise ValueError("the recipe in the checkpoint describes no data")
    _known(data, "data", ("VideoData",))
    given = data.get("init_args") or {}
    frames, stride, size = (given.get(name) for name in ("frames", "stride", "size"))
    if not (isinstance(frames, int) and isinstance(stride, int) and isinstance(size, int)):
        raise ValueError("its recipe does not state frames, stride and size")
    if (frames, size) != (encoder.frames, encoder.size):
        raise ValueError(
            f"its data were {frames} frames of {size} pixels, and the exported model takes {encoder.frames} of "
            f"{encoder.size}"
        )
    sampler, view = given.get("sampler"), given.get("view")
    sampling = "Dense" if sampler is None else _known(sampler, "sampler", _SAMPLERS)
    crop = view is None or _known(view, "view", _VIEWS) == "Squares"
    antialias = crop or bool((view.get("init_args") or {}).get("antialias", True))
    return Evaluation(frames, stride, size, sampling.lower(), crop, antialias)


def _known(part: dict[str, Any], what: str, names: tuple[str, ...]) -> str:
    """The name of the class that a part of a recipe describes, if it is one of `names` in `datamodules`, by the path
    that it has there or had in earlier versions."""
    path = str(part.get("class_path"))
    package, _, rest = path.partition(".")
    name = rest.rpartition(".")[2]
    if package != "datamodules" or name not in names:
        raise ValueError(f"the {what} of its recipe is {path}, which no processor knows")
    return name


def save_processors(folder: Path, evaluation: Evaluation, mean: tuple[float, ...], std: tuple[float, ...]) -> str:
    """Write a video processor with its file, for `AutoVideoProcessor`, and, where transformers' own classes do the
    same, image processors for `AutoImageProcessor`, of clips whose frames are chosen already; returns a description.
    """
    from transformers import CLIPImageProcessor, VideoMAEImageProcessor

    from models.convert.processing_video import TubeletVideoProcessor

    values: dict[str, Any] = {**evaluation.pixels, "image_mean": list(mean), "image_std": list(std)}
    TubeletVideoProcessor.register_for_auto_class("AutoVideoProcessor")
    TubeletVideoProcessor(
        num_frames=evaluation.frames,
        stride=evaluation.stride,
        sampling=evaluation.sampling,
        antialias=evaluation.antialias,
        **values,
    ).save_pretrained(folder)
    if not evaluation.antialias:
        return "a video processor (no image processor: transformers' own always antialias, and evaluation did not)"
    VideoMAEImageProcessor(**values).save_pretrained(folder)
    if (folder / "clip").is_dir():
        CLIPImageProcessor(**values).save_pretrained(folder / "clip")
    return "a video processor and an image processor"
