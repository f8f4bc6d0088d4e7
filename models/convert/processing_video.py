"""Tubelet's evaluation as a video processor for transformers: copied beside exported weights; needs no Tubelet.

`AutoVideoProcessor.from_pretrained(folder, trust_remote_code=True)` makes `pixel_values` `[B, T, 3, H, W]` of paths or
URLs of videos, or of decoded ones (uint8 `[N, H, W, 3]` or `[N, 3, H, W]`, or lists of PIL images). It takes the frames
and the pixels that validation and `python -m pretrain predict` took: one central clip of a video, in one view. With
`do_sample_frames=False` a decoded video is the clip itself.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BatchFeature
from transformers.utils import is_av_available, is_cv2_available, is_decord_available
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import load_video, make_batched_videos

_FILTERS = {2: "bilinear", 3: "bicubic"}  # by PIL's numbers


# The rules for the frames of a central clip: of `length` frames, `frames` at a distance of `stride`.


def dense(length: int, frames: int, stride: int) -> np.ndarray:
    """Every `stride`-th frame of the middle; a shorter video repeats its last one."""
    start = max(0, (length - frames * stride) // 2)
    last = start + max(0, -(-(length - 1 - start) // stride) - 1) * stride
    return np.minimum(start + stride * np.arange(frames), last)


def span(length: int, frames: int, stride: int) -> np.ndarray:
    """Evenly spaced points over the `frames * stride` frames of the middle."""
    width = frames * stride
    if length <= width:
        points = np.linspace(0, length, length // stride)
        return np.clip(np.r_[points, np.full(frames - len(points), length)], 0, length - 1).astype(np.int64)
    start = (length - width) // 2
    return np.clip(np.linspace(start, start + width, frames), start, start + width - 1).astype(np.int64)


def segments(length: int, frames: int, stride: int) -> np.ndarray:
    """The middle of each of `frames` equal segments of the video."""
    width = length / frames
    return np.array([int(width / 2 + width * i) for i in range(frames)])


def spaced(length: int, frames: int, stride: int) -> np.ndarray:
    """As `segments`, between the first frame and the last."""
    width = (length - 1) / frames
    return np.array([int(np.round(width * i)) for i in range(frames)]) + int(width / 2)


def sparse(length: int, frames: int, stride: int) -> np.ndarray:
    """The middle of each of `frames` nearly equal segments; a shorter video repeats its last frame."""
    edges = np.linspace(0, length, min(frames, length) + 1).astype(np.int64)
    middles = (edges[:-1] + np.maximum(edges[:-1], edges[1:] - 1)) // 2
    return np.r_[middles, np.full(frames - len(middles), middles[-1], np.int64)]


RULES: dict[str, Callable[[int, int, int], np.ndarray]] = {
    "dense": dense,
    "span": span,
    "segments": segments,
    "spaced": spaced,
    "sparse": sparse,
}


class TubeletVideoProcessor(BaseVideoProcessor):
    """Samples, scales, crops and normalises as the evaluation of the run that trained the model.

    Args:
        num_frames, stride, sampling: T, the distance of the frames, and the name of their rule in `RULES`.
        size: `shortest_edge`, or `height` and `width`, to which frames are scaled.
        resample: PIL's number of the filter, 2 (bilinear) or 3 (bicubic). antialias: of the filter, when downscaling.
        crop_size: of the central square that is cut if `do_center_crop`.
        image_mean, image_std: of the channels, for pixels of 0 to 1.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012 transformers' way
    do_sample_frames = True
    # transformers sets these from the file of settings
    num_frames: int
    size: Any
    crop_size: Any
    resample: Any
    do_center_crop: bool
    image_mean: list[float]
    image_std: list[float]

    def __init__(self, sampling: str = "dense", stride: int = 1, antialias: bool = True, **kwargs) -> None:
        if sampling not in RULES:
            raise ValueError(f"sampling is one of {', '.join(RULES)}, not {sampling}")
        super().__init__(**kwargs)
        self.sampling, self.stride, self.antialias = sampling, stride, antialias

    def preprocess(  # pyrefly: ignore[bad-override] transformers checks the names of keywords at run time too
        self, videos: Any, do_sample_frames: bool | None = None, return_tensors: str | None = "pt", **unknown
    ) -> BatchFeature:
        """`pixel_values` `[B, T, 3, H, W]` of one video or several."""
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)} cannot be set in a call: the settings are those of the run's evaluation; "
                "change them in video_preprocessor_config.json"
            )
        sample = self.do_sample_frames if do_sample_frames is None else do_sample_frames
        clips = [self.clip(video, sample) for video in make_batched_videos(videos)]
        return BatchFeature({"pixel_values": torch.stack(clips)}, tensor_type=return_tensors)

    def indices(self, length: int) -> np.ndarray:
        """The frames `[T]` of the clip of a video with `length` frames."""
        if length < 1:
            raise ValueError("the video states no number of frames: install torchcodec, or pass its frames instead")
        return RULES[self.sampling](length, self.num_frames, self.stride)

    def clip(self, video: Any, sample: bool) -> Tensor:
        """The normalised clip `[T, 3, H, W]` of a video's path, URL or frames."""
        if isinstance(video, str):
            frames = channels_first(self.read(video))
        else:
            frames = channels_first(video)
            frames = frames[self.indices(len(frames))] if sample else frames
        if len(frames) != self.num_frames:
            raise ValueError(
                f"the model takes {self.num_frames} frames, and this clip has {len(frames)}: with "
                "do_sample_frames=True they are sampled"
            )
        pixels = self.crop(self.scale(frames)).float() / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.image_mean, self.image_std))
        return (pixels - mean) / std

    def read(self, path: str) -> Any:
        """The clip's frames out of a file."""
        place = np.empty(0, np.int64)  # the place of each of the clip's frames among those that are decoded

        def distinct(metadata: Any, **_) -> np.ndarray:
            nonlocal place  # decoders differ in how often they return a frame that is named twice
            found, place = np.unique(self.indices(metadata.total_num_frames), return_inverse=True)
            return found

        video: Any = path  # the types of `load_video` leave out text
        frames, _ = load_video(video, backend=decoder(), sample_indices_fn=distinct)
        return frames[place]

    def scale(self, frames: Tensor) -> Tensor:
        """uint8 `[T, 3, H, W]` scaled to `size`."""
        (height, width), short = frames.shape[2:], self.size.get("shortest_edge")
        if short is not None:
            least = min(height, width)
            wanted = int(height * short / least), int(width * short / least)
        else:
            wanted = self.size["height"], self.size["width"]
        if (height, width) == wanted:
            return frames
        mode = _FILTERS[int(self.resample)]
        if self.antialias:
            return F.interpolate(frames, wanted, mode=mode, antialias=True)
        return F.interpolate(frames.float(), wanted, mode=mode).clamp(0, 255).round().to(torch.uint8)

    def crop(self, frames: Tensor) -> Tensor:
        """The central `crop_size` of `[T, 3, H, W]`."""
        if not self.do_center_crop:
            return frames
        height, width = self.crop_size["height"], self.crop_size["width"]
        top, left = (frames.shape[2] - height) // 2, (frames.shape[3] - width) // 2
        return frames[:, :, top : top + height, left : left + width]


def channels_first(frames: Any) -> Tensor:
    """uint8 `[N, H, W, 3]` or `[N, 3, H, W]` as `[N, 3, H, W]`."""
    frames = torch.as_tensor(frames)
    if frames.dtype != torch.uint8 or frames.ndim != 4 or 3 not in (frames.shape[1], frames.shape[3]):
        raise ValueError(
            f"a decoded video is uint8 [N, H, W, 3] or [N, 3, H, W], not {frames.dtype} {list(frames.shape)}"
        )
    return frames if frames.shape[3] != 3 else frames.permute(0, 3, 1, 2)


def decoder() -> str:
    """The name of an installed decoder of transformers' `load_video`."""
    try:
        import torchcodec  # noqa: F401

        return "torchcodec"
    except (ImportError, RuntimeError, OSError):  # it is there without FFmpeg's libraries
        pass
    others = {"pyav": is_av_available, "decord": is_decord_available, "opencv": is_cv2_available}
    found = next((name for name, is_there in others.items() if is_there()), None)
    if found is None:
        raise ImportError("no decoder of videos is installed: pip install torchcodec, or av")
    return found
