"""Compares ways to re-encode videos: bytes, similarity to the source, time to decode a clip."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import PyAV
from datamodules.making.encode import prepare_video
from datamodules.making.encoding import RECOMMENDED, RECOMMENDED_AT_CADENCE, Encoding
from datamodules.making.frames import Frames
from datamodules.making.pieces import Piece
from datamodules.making.prepare import inputs

if TYPE_CHECKING:
    from av import VideoFrame

_FRAMES, _STRIDE = 16, 4  # of the timed clip
_EVERY = 7  # every 7th stored frame is compared for quality: of all kinds, as B-frames come in threes
_ROUNDING = 2e-3  # seconds: the times of stored frames are rounded
CHOICES: dict[str, Encoding | None] = {
    "as it is": None,
    "256, long GOP": Encoding(256, encode=True),
    "256, keyframe every 8": Encoding(256, keyframes=8, encode=True),
    "256, keyframe every 4": Encoding(256, keyframes=4, encode=True),
    "256, keyframe every 4, fast": Encoding(256, keyframes=4, encode=True, fast=True),
    "256, only keyframes, fast": Encoding(256, keyframes=1, encode=True, fast=True),
    "256, 3 B-frames": Encoding(256, keyframes=24, encode=True, b_frames=3),
    "256, 3 B-frames, fast": Encoding(256, keyframes=24, encode=True, b_frames=3, fast=True),
    "recommended": RECOMMENDED,
    "256, 7 B-frames, fast, CRF 21": Encoding(256, crf=21, keyframes=24, encode=True, b_frames=7, fast=True),
    "320, as recommended": Encoding(320, crf=21, keyframes=24, encode=True, b_frames=3, fast=True),
    "recommended, 7.5 frames a second": replace(RECOMMENDED_AT_CADENCE, fps=7.5),
    "the same, keyframe every 4": replace(RECOMMENDED_AT_CADENCE, fps=7.5, keyframes=4),
    "256, HEVC": Encoding(256, encode=True, codec="hevc"),
    "256, AV1": Encoding(256, encode=True, codec="av1"),
}


def compare(
    videos: str,
    choices: dict[str, Encoding | None] = CHOICES,
    root: str | None = None,
    rounds: int = 5,
    progress: bool = True,
) -> tuple[list[dict], dict[str, str]]:
    """Measures each choice on the same videos; they decode in turns, so that other load affects all alike.

    Args:
        videos: a folder or a list, as `prepare` takes it.
        choices: encoding by name; None is the original file.
        root: folder for relative paths of a list.
        rounds: clips decoded of each video, each from another random frame.
        progress: shows a progress bar.

    Returns:
        A row per choice: `choice`, `bytes` (relative to the source), `ssim` and `psnr` (luma, against the source
        scaled to the same size by bicubic; means over videos), `decode_ms` (CPU time to open a file in memory and
        decode 16 frames at stride 4, at a cadence one after the other; mean over videos of the median over rounds),
        `encode_s` (CPU time per video).
        And the reason by video that was left out.
    """
    rows, made, failed = inputs(videos, root)[0], [], {}
    for row in tqdm(rows, disable=not progress, unit="video"):
        try:
            made.append({name: _make(row["path"], encoding) for name, encoding in choices.items()})
        except DecodeError as error:
            failed[row["name"]] = error.reason
    if not made:
        raise ValueError(f"none of the {len(rows)} videos can be compared: {failed}")
    strides = {name: 1 if choice is not None and choice.fps else _STRIDE for name, choice in choices.items()}
    times = _decode_times([{name: m["data"] for name, m in video.items()} for video in made], strides, rounds)
    source = sum(video[name]["source"] for video in made for name in list(choices)[:1])
    measured = []
    for name in choices:
        mean = {key: float(np.mean([video[name][key] for video in made])) for key in ("ssim", "psnr", "encode_s")}
        size = sum(len(video[name]["data"]) for video in made) / source
        measured.append({"choice": name, "bytes": size, **mean, "decode_ms": 1000 * times[name]})
    return measured, failed


def as_markdown(rows: Sequence[dict]) -> str:
    """The measures as a Markdown table."""
    head = "| choice | bytes, of the source | SSIM | PSNR, dB | decode 16 x 4, ms | times faster | encode a video, s |"
    first, lines = rows[0]["decode_ms"], [head, "|---|" + "---:|" * 6]
    for row in rows:
        psnr = f"{row['psnr']:.1f}" if math.isfinite(row["psnr"]) else "same"
        lines.append(
            f"| {row['choice']} | {row['bytes']:.2f} | {row['ssim']:.4f} | {psnr} | {row['decode_ms']:.1f} | "
            f"{first / row['decode_ms']:.1f} | {row['encode_s']:.1f} |"
        )
    return "\n".join(lines)


def _make(path: str, encoding: Encoding | None) -> dict:
    with open(path, "rb") as file:
        source = file.read()
    if encoding is None:
        return {"data": source, "source": len(source), "ssim": 1.0, "psnr": math.inf, "encode_s": 0.0}
    began = time.process_time()
    clip = prepare_video(path, encoding)[0]
    spent = time.process_time() - began
    assert isinstance(clip, Piece)  # a whole video is never `Lost`
    similarity, psnr = _quality(path, clip.data)
    return {"data": clip.data, "source": len(source), "ssim": similarity, "psnr": psnr, "encode_s": spent}


def _quality(path: str, data: bytes) -> tuple[float, float]:
    """Mean SSIM, and the PSNR of the mean squared error, over the luma of every 7th frame."""
    similarities, errors = [], []
    source = iter(Frames(path))
    for i, (shown, ours) in enumerate(Frames(data)):
        theirs = next((frame for moment, frame in source if moment > shown - _ROUNDING), None)
        if i % _EVERY == 0 and ours is not None and theirs is not None:
            a = _luma(ours, ours.height, ours.width)
            b = _luma(theirs, ours.height, ours.width)
            similarities.append(ssim(a, b))
            errors.append(float(((a - b) ** 2).mean()))
    return float(np.mean(similarities)), 10 * math.log10(255**2 / max(np.mean(errors), 1e-9))


def _luma(frame: "VideoFrame", height: int, width: int) -> torch.Tensor:
    """float32 [height, width], 0 to 255."""
    frame = frame.reformat(width=width, height=height, format="yuv420p", interpolation="BICUBIC")
    return torch.from_numpy(frame.to_ndarray()[:height].astype(np.float32))


def ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """SSIM (Wang et al. 2004, equation 13) of two [H, W] pictures, 0 to 255.

    Windows of 8 x 8 every 4 pixels, as in x264.
    """
    means = F.avg_pool2d(torch.stack([a, b, a * a, b * b, a * b])[:, None], 8, 4)[:, 0]
    ma, mb = means[0], means[1]
    va, vb, cov = means[2] - ma * ma, means[3] - mb * mb, means[4] - ma * mb
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())


def _decode_times(videos: Sequence[dict[str, bytes]], strides: dict[str, int], rounds: int) -> dict[str, float]:
    """CPU seconds by choice; `strides` are those of the decoded frames."""
    rng = np.random.RandomState(0)
    spent: dict[str, list[list[float]]] = {name: [[] for _ in videos] for name in videos[0]}
    for _ in range(rounds):
        for i, video in enumerate(videos):
            where = rng.rand()
            for name, data in video.items():
                began, stride = time.process_time(), strides[name]
                with PyAV().open(data, name) as opened:
                    start = int(where * max(1, len(opened) - _FRAMES * stride + 1))
                    opened.frames(np.minimum(start + stride * np.arange(_FRAMES), len(opened) - 1))
                spent[name][i].append(time.process_time() - began)
    return {name: float(np.mean([np.median(v) for v in each])) for name, each in spent.items()}
