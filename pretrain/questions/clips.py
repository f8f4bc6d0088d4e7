"""Which frames and which pixels of a question's video are shown, and the controls that take away what it shows."""

import math
import random
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from datamodules.clips.chat_sampling import centres
from datamodules.clips.eval_views import EvalView
from datamodules.clips.frame_by_frame import scaled_frames
from datamodules.decoding.contract import DecodeError, Video
from datamodules.decoding.frame_folder import FrameFolder
from datamodules.decoding.reader import Decoder
from pretrain.questions.question import Question
from pretrain.questions.subtitles import read_spoken

# What is changed to learn what a score needs: nothing of the video is shown; one frame, T times; all frames in a random
# order; backwards.
Control = Literal["none", "no_video", "one_frame", "shuffled", "reversed"]
_DIGITS = 6  # of the number of a frame; the rest is the error of arithmetic
CONTROLS: tuple[Control, ...] = get_args(Control)


def open_question(question: Question, decoder: Decoder) -> Video:
    """The open video of a question; DecodeError if it cannot be read."""
    if question.fps is not None:
        return FrameFolder(question.place, question.fps, decoder.limits)
    return decoder.open(question.place, question.place)


def shown_frames(question: Question, video: Video, frames: int, control: Control) -> np.ndarray:
    """Numbers of the frames that are shown, from 0, `[frames]`."""
    bound, fps, length = question.bound, video.fps, len(video)
    if bound is not None and math.isinf(bound[1]):
        bound = (bound[0], max(bound[0], video.duration))
    if bound is not None and question.fps is None:
        # The official rule takes seconds times the frame rate for a number of a frame. The place of a time among those
        # of the frames is the same number where the rate is constant, and right where it is not.
        times = video.seconds(np.arange(length))
        start, end = np.interp(bound, times, np.arange(length)).round(_DIGITS).tolist()
        bound, fps = (start, end), 1.0
    # The names of published frames begin at 1, and the rule counts so.
    first = 1 if question.fps is not None else 0
    indices = centres(length, frames, fps, bound, first) - first
    indices = np.clip(indices, 0, length - 1)
    return _CONTROLLED[control](indices, question.key)


def _one(indices: np.ndarray, _: str) -> np.ndarray:
    return np.full_like(indices, indices[len(indices) // 2])


def _shuffled(indices: np.ndarray, key: str) -> np.ndarray:
    """In an order that the question decides on, and never the true one."""
    order = list(range(len(indices)))
    rng = random.Random(key)
    while len(order) > 1 and order == sorted(order):
        rng.shuffle(order)
    return indices[order]


_CONTROLLED: dict[str, Callable[[np.ndarray, str], np.ndarray]] = {
    "none": lambda indices, _: indices,
    "no_video": lambda indices, _: indices[:0],
    "one_frame": _one,
    "shuffled": _shuffled,
    "reversed": lambda indices, _: indices[::-1].copy(),
}


def load_clip(
    question: Question, decoder: Decoder, view: EvalView, frames: int, size: int, control: Control = "none"
) -> tuple[Tensor, str]:
    """The clip of a question, uint8 `[C, T, size, size]`; T is 0 without a video. And what is said at its frames, if
    the question has subtitles.

    Raises:
        DecodeError: the video or its subtitles cannot be read.
    """
    nothing = torch.empty(3, 0, size, size, dtype=torch.uint8)
    if control == "no_video" and question.subtitles is None:
        return nothing, ""
    with open_question(question, decoder) as video:
        if (question.bound is not None or question.subtitles is not None) and not math.isfinite(video.duration):
            raise DecodeError(question.place, "no times and no frame rate, so its part in seconds cannot be found")
        timed = "none" if control == "no_video" else control
        indices = shown_frames(question, video, frames, timed)
        spoken = "" if question.subtitles is None else read_spoken(question.subtitles, video.seconds(indices))
        if control == "no_video":
            return nothing, spoken
        pixels = scaled_frames(video, indices, lambda frame: view(frame, size))
    return torch.from_numpy(pixels).permute(3, 0, 1, 2), spoken
