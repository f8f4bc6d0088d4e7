"""How clips are cut from videos: numbers and rules, the same for every sample."""

from dataclasses import dataclass

from datamodules.clips import crops
from datamodules.clips.augment import Augment
from datamodules.clips.eval_views import EvalView, Squares
from datamodules.clips.rectangles import CentreRectangle, Rectangle
from datamodules.clips.sampling import Dense, Sampler
from datamodules.decoding.reader import Decoder, PyAV
from datamodules.loading.argument_checks import check_numbers


@dataclass
class Clip:
    """How a clip is cut from a video: numbers and rules, the same for every sample."""

    frames: int
    stride: int
    size: crops.Size
    views: int
    flip: float
    sampler: Sampler
    crop: crops.Crop
    decoder: Decoder
    view: EvalView = Squares()  # noqa: RUF009 (it has no state)
    augment: Augment | None = None


def make_clip(
    frames: int,
    stride: int,
    size: crops.Size,
    views: int = 1,
    flip: float = 0.0,
    sampler: Sampler | None = None,
    crop: crops.Crop | None = None,
    decoder: Decoder | None = None,
    view: EvalView | None = None,
    augment: Augment | None = None,
) -> Clip:
    """A clip with the rules of its shape where none are given: other clips than squares are cut as rectangles.

    Raises:
        ValueError: a number is below 1.
    """
    check_numbers(frames=frames, stride=stride, size=min(crops.sides(size)), views=views)
    height, width = crops.sides(size)
    square = height == width
    crop = crop or (crops.MultiScaleCrop() if square else Rectangle())
    view = view or (Squares() if square else CentreRectangle())
    side = height if square else (height, width)
    return Clip(frames, stride, side, views, flip, sampler or Dense(), crop, decoder or PyAV(), view, augment)


def video_shape(views: int, micro: int, clip: Clip) -> tuple[int, ...]:
    """[V, m, T, H, W, C]."""
    return views, micro, clip.frames, *crops.sides(clip.size), 3
