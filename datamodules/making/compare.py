"""What encoding anew costs and brings, measured: bytes, likeness to the source, time to decode a clip."""

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import PyAV
from datamodules.making.encode import RECOMMENDED, Frames, Recipe, prepare_video
from datamodules.making.prepare import inputs

_FRAMES, _STRIDE = 16, 4  # of the clip that is decoded
_EVERY = 8  # frames of which one is looked at for quality
CHOICES: dict[str, Recipe | None] = {
    "as it is": None,
    "256, long GOP": Recipe(256, encode=True),
    "256, keyframe every 8": Recipe(256, keyframes=8, encode=True),
    "256, keyframe every 4": Recipe(256, keyframes=4, encode=True),
    "256, keyframe every 4, fast": Recipe(256, keyframes=4, encode=True, fast=True),
    "256, only keyframes, fast": Recipe(256, keyframes=1, encode=True, fast=True),
    "256, 3 B-frames": Recipe(256, keyframes=24, encode=True, b_frames=3),
    "256, 3 B-frames, fast": Recipe(256, keyframes=24, encode=True, b_frames=3, fast=True),
    "recommended": RECOMMENDED,
    "256, 7 B-frames, fast, CRF 21": Recipe(256, crf=21, keyframes=24, encode=True, b_frames=7, fast=True),
    "320, as recommended": Recipe(320, crf=21, keyframes=24, encode=True, b_frames=3, fast=True),
    "256, HEVC": Recipe(256, encode=True, codec="hevc"),
    "256, AV1": Recipe(256, encode=True, codec="av1"),
}


def compare(
    videos: str,
    choices: dict[str, Recipe | None] = CHOICES,
    root: str | None = None,
    rounds: int = 5,
    progress: bool = True,
) -> tuple[list[dict], dict[str, str]]:
    """Measures each choice on the same videos, decoding in turns so that what else the machine does hits all alike.

    Args:
        videos: a folder or a list, as `prepare` takes it.
        choices: recipe by name; None stands for the untouched file.
        root: what relative paths of a list start from.
        rounds: clips that are decoded of each video, each time from another random frame on.
        progress: shows a bar.

    Returns:
        A row a choice: `choice`, `bytes` (share of the source's), `ssim` and `psnr` (luma, against the source scaled
        to the same size by bicubic; means over videos), `decode_ms` (processor time to open a file in memory and
        decode 16 frames at stride 4; mean over videos of the median over rounds), `encode_s` (a video). And by name
        why videos were left out.
    """
    rows, made, failed = inputs(videos, root), [], {}
    for row in tqdm(rows, disable=not progress, unit="video"):
        try:
            made.append({name: _make(row["path"], recipe) for name, recipe in choices.items()})
        except DecodeError as error:
            failed[row["name"]] = error.reason
    if not made:
        raise ValueError(f"none of the {len(rows)} videos can be compared: {failed}")
    times = _decode_times([{name: m["data"] for name, m in video.items()} for video in made], rounds)
    source = sum(video[name]["source"] for video in made for name in list(choices)[:1])
    table = []
    for name in choices:
        mean = {key: float(np.mean([video[name][key] for video in made])) for key in ("ssim", "psnr", "encode_s")}
        size = sum(len(video[name]["data"]) for video in made) / source
        table.append({"choice": name, "bytes": size, **mean, "decode_ms": 1000 * times[name]})
    return table, failed


def as_markdown(rows: Sequence[dict]) -> str:
    """The measures as a table, in Markdown."""
    head = "| choice | bytes, of the source | SSIM | PSNR, dB | decode 16 x 4, ms | times faster | encode a video, s |"
    first, lines = rows[0]["decode_ms"], [head, "|---|" + "---:|" * 6]
    for row in rows:
        psnr = f"{row['psnr']:.1f}" if math.isfinite(row["psnr"]) else "same"
        lines.append(
            f"| {row['choice']} | {row['bytes']:.2f} | {row['ssim']:.4f} | {psnr} | {row['decode_ms']:.1f} | "
            f"{first / row['decode_ms']:.1f} | {row['encode_s']:.1f} |"
        )
    return "\n".join(lines)


def _make(path: str, recipe: Recipe | None) -> dict:
    with open(path, "rb") as file:
        source = file.read()
    if recipe is None:
        return {"data": source, "source": len(source), "ssim": 1.0, "psnr": math.inf, "encode_s": 0.0}
    began = time.process_time()
    data = prepare_video(path, recipe)[0].data
    spent = time.process_time() - began
    ssim, psnr = _quality(path, data)
    return {"data": data, "source": len(source), "ssim": ssim, "psnr": psnr, "encode_s": spent}


def _quality(path: str, data: bytes) -> tuple[float, float]:
    """Mean SSIM, and PSNR of the mean error, of every 8th frame's luma."""
    likeness, errors = [], []
    for i, ((_, ours), (_, theirs)) in enumerate(zip(Frames(data), Frames(path), strict=False)):
        if i % _EVERY == 0 and ours is not None and theirs is not None:
            a = _luma(ours, ours.height, ours.width)
            b = _luma(theirs, ours.height, ours.width)
            likeness.append(ssim(a, b))
            errors.append(float(((a - b) ** 2).mean()))
    return float(np.mean(likeness)), 10 * math.log10(255**2 / max(np.mean(errors), 1e-9))


def _luma(frame: object, height: int, width: int) -> torch.Tensor:
    """float32 [height, width] of 0 to 255."""
    frame = frame.reformat(width=width, height=height, format="yuv420p", interpolation="BICUBIC")
    return torch.from_numpy(frame.to_ndarray()[:height].astype(np.float32))


def ssim(a: torch.Tensor, b: torch.Tensor) -> float:
    """Structural similarity of two [H, W] pictures of 0 to 255: windows of 8 x 8 every 4 pixels, as x264 takes them.

    Wang et al. 2004, equation 13.
    """
    means = F.avg_pool2d(torch.stack([a, b, a * a, b * b, a * b])[:, None], 8, 4)[:, 0]
    ma, mb = means[0], means[1]
    va, vb, cov = means[2] - ma * ma, means[3] - mb * mb, means[4] - ma * mb
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float(((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean())


def _decode_times(videos: Sequence[dict[str, bytes]], rounds: int) -> dict[str, float]:
    """Seconds by choice."""
    rng = np.random.RandomState(0)
    spent: dict[str, list[list[float]]] = {name: [[] for _ in videos] for name in videos[0]}
    for _ in range(rounds):
        for i, video in enumerate(videos):
            where = rng.rand()
            for name, data in video.items():
                began = time.process_time()
                with PyAV().open(data, name) as opened:
                    start = int(where * max(1, len(opened) - _FRAMES * _STRIDE + 1))
                    opened.frames(np.minimum(start + _STRIDE * np.arange(_FRAMES), len(opened) - 1))
                spent[name][i].append(time.process_time() - began)
    return {name: float(np.mean([np.median(v) for v in each])) for name, each in spent.items()}
