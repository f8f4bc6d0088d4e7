"""Times decoding and preprocessing of VBench's ten dimensions of custom mode: one decode for all, against one for each.

The official way is written after VBench 0.1.5: each dimension opens the video anew (decord, or OpenCV frame by frame),
holds all of its frames, and prepares them for itself. Both sides end where a model would begin; neither runs one.
Temporal flickering, which needs no model, is computed by both.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as tv

from datamodules.decoding.reader import PyAV
from pretrain.metrics.vbench.dynamic_degree import DynamicDegree
from pretrain.metrics.vbench.frame_mean import FrameMean
from pretrain.metrics.vbench.frames import ALL, Block, Selection, middle_frames
from pretrain.metrics.vbench.imaging_quality import BATCH
from pretrain.metrics.vbench.motion_smoothness import padded
from pretrain.metrics.vbench.scorer import Scorer
from pretrain.metrics.vbench.scoring import score_video
from pretrain.metrics.vbench.temporal_flickering import TemporalFlickering
from pretrain.metrics.vbench.transforms import even_padding, for_clip, for_dino, for_musiq, for_umt, for_viclip
from pretrain.metrics.vbench.video_score import VideoFacts

_CLIP = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
_IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def _decord(path: str, count: int = 0) -> np.ndarray:
    import decord

    reader = decord.VideoReader(path, num_threads=1)
    return reader.get_batch(middle_frames(count, len(reader)) if count else range(len(reader))).asnumpy()


def _load(path: str) -> Tensor:
    return torch.Tensor(_decord(path)).permute(0, 3, 1, 2)  # float32, as VBench's load_video


def _opencv(path: str, rgb: bool) -> tuple[list[np.ndarray], float]:
    import cv2

    video, frames = cv2.VideoCapture(path), []
    while (read := video.read())[0]:
        frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB) if rgb else read[1])
    return frames, video.get(cv2.CAP_PROP_FPS)


def _clip(x: Tensor) -> Tensor:
    x = tv.center_crop(tv.resize(x, [224], InterpolationMode.BICUBIC, antialias=False), [224, 224])
    return tv.normalize(x.float().div(255.0), *_CLIP)


def _subject(path: str) -> None:
    tv.normalize(tv.resize(_load(path), [224], antialias=False).float().div(255.0), *_IMAGENET)


def _frames_for_clip(path: str) -> None:
    _clip(_load(path))


def _flickering(path: str) -> float:
    import cv2

    frames, _ = _opencv(path, rgb=False)
    found = [np.mean(cv2.absdiff(np.array(a, np.float32), np.array(b, np.float32))) for a, b in pairwise(frames)]
    return (255.0 - np.mean(found).item()) / 255.0


def _smoothness(path: str) -> None:
    frames, _ = _opencv(path, rgb=True)
    inputs = [torch.tensor(frame).permute(2, 0, 1).unsqueeze(0) / 255.0 for frame in frames[::2]]
    padding = even_padding(inputs[0].shape[-2], inputs[0].shape[-1], 16)
    [F.pad(x, padding, mode="replicate") for x in inputs]


def _dynamic(path: str) -> None:
    frames, fps = _opencv(path, rgb=True)
    tensors = [torch.from_numpy(frame.astype(np.uint8)).permute(2, 0, 1).float()[None] for frame in frames]
    chosen = tensors[:: max(1, round(fps / 8))]
    padding = even_padding(chosen[0].shape[-2], chosen[0].shape[-1], 8)
    for a, b in pairwise(chosen):
        F.pad(a, padding, mode="replicate"), F.pad(b, padding, mode="replicate")


def _imaging(path: str) -> None:
    images = _load(path)
    h, w = images.shape[-2:]
    if max(h, w) > 512:
        scale = 512.0 / max(h, w)
        images = tv.resize(images, [int(scale * h), int(scale * w)], antialias=False)
    images / 255.0


def _prompted(path: str) -> None:
    _clip(torch.from_numpy(_decord(path, 8)).permute(0, 3, 1, 2))


def _action(path: str) -> None:
    import cv2

    frames = _decord(path, 16)
    h, w = frames.shape[1:3]
    size = (256, int(256 * h / w)) if w < h else (int(256 * w / h), 256)
    small = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in frames])
    top, left = round((size[1] - 224) / 2), round((size[0] - 224) / 2)
    x = torch.from_numpy(small[:, top : top + 224, left : left + 224]).permute(3, 0, 1, 2).float().div(255.0)
    (x - torch.tensor(_IMAGENET[0]).view(3, 1, 1, 1)) / torch.tensor(_IMAGENET[1]).view(3, 1, 1, 1)


OFFICIAL: dict[str, Callable[[str], Any]] = {
    "subject_consistency": _subject,
    "background_consistency": _frames_for_clip,
    "temporal_flickering": _flickering,
    "motion_smoothness": _smoothness,
    "dynamic_degree": _dynamic,
    "aesthetic_quality": _frames_for_clip,
    "imaging_quality": _imaging,
    "overall_consistency": _prompted,
    "temporal_style": _prompted,
    "human_action": _action,
}


def official(path: str) -> float:
    """All ten dimensions, one after the other; returns temporal flickering."""
    return {name: prepare(path) for name, prepare in OFFICIAL.items()}["temporal_flickering"]


class Prepared:
    """A scorer that stops where its model would begin."""

    version = 1

    def __init__(self, dimension: str, selection: Selection, prepare: Callable[[Block], Any]) -> None:
        self.dimension, self.selection, self.prepare = dimension, selection, prepare

    def start(self, video: VideoFacts) -> FrameMean:
        def nothing(block: Block) -> Tensor:
            self.prepare(block)
            return torch.zeros(len(block.frames))

        return FrameMean(video, nothing)


def _shared_clip(block: Block) -> Tensor:
    return block.once("clip", lambda: for_clip(block.frames))


def _shared_viclip(block: Block) -> Tensor:
    return block.once("viclip", lambda: for_viclip(block.frames))


def _even_frames(block: Block) -> None:
    [padded(frame) for frame in block.frames[block.index % 2 :: 2].split(1) if len(frame)]


OURS: list[Scorer] = [
    Prepared("subject_consistency", ALL, lambda block: for_dino(block.frames)),
    Prepared("background_consistency", ALL, _shared_clip),
    TemporalFlickering(),
    Prepared("motion_smoothness", ALL, _even_frames),
    DynamicDegree(lambda a, b: a[:, :2, :8, :8]),
    Prepared("aesthetic_quality", ALL, _shared_clip),
    Prepared("imaging_quality", ALL, lambda block: [for_musiq(part) for part in block.frames.split(BATCH)]),
    Prepared("overall_consistency", Selection(middle=8), _shared_viclip),
    Prepared("temporal_style", Selection(middle=8), _shared_viclip),
    Prepared("human_action", Selection(middle=16), lambda block: for_umt(block.frames)),
]


def ours(path: str) -> float:
    """All ten dimensions of one decode, as a run makes them; returns temporal flickering."""
    with PyAV().open(path, path) as video:
        facts = VideoFacts(path, len(video), video.fps)
        return score_video(video, facts, OURS)["temporal_flickering"].value


def race(paths: Sequence[Path], rounds: int = 3) -> tuple[dict, str]:
    """Medians of both ways over all videos, in alternating rounds on one thread, and their ratio.

    Raises:
        ValueError: the two ways disagree on temporal flickering by more than 0.005 (decoders differ by rounding).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    rows = {}
    try:
        for path in map(str, paths):
            if abs(ours(path) - official(path)) > 0.005:  # also warms both up
                raise ValueError(f"{path}: {ours(path)} and {official(path)} are not the same temporal flickering")
            seconds: dict[str, list[float]] = {"ours": [], "official": []}
            for _ in range(rounds):
                for name, run in (("ours", ours), ("official", official)):
                    start = time.perf_counter()
                    run(path)
                    seconds[name].append(time.perf_counter() - start)
            rows[Path(path).name] = {name: statistics.median(found) for name, found in seconds.items()}
    finally:
        torch.set_num_threads(threads)
    lines = ["| video | official way, s | ours, s | ratio |", "|---|---:|---:|---:|"]
    every = {**rows, "all": {name: sum(row[name] for row in rows.values()) for name in ("ours", "official")}}
    for name, row in every.items():
        ratio = row["official"] / row["ours"]
        lines.append(f"| {name} | {row['official']:.2f} | {row['ours']:.2f} | {ratio:.2f} |")
    return {"rounds": rounds, "seconds": every}, "\n".join(lines)
