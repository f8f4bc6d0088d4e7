"""Generated test videos: the pixels of every frame encode its number, which a test can read back."""

import wave
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

BITS = 9  # frame numbers to 511


def picture(number: int, height: int, width: int) -> np.ndarray:
    """A frame, uint8 [H, W, 3]: its number as columns of bits in the upper half, a moving pattern in the lower half."""
    image = np.full((height, width, 3), 40, np.uint8)
    for bit, (a, b) in enumerate(_columns(width)):
        image[: height // 2, a:b] = 220 if number >> bit & 1 else 30
    x = np.arange(width)
    image[height // 2 :, :, 0] = (x * 3 + number * 7) % 200
    image[height // 2 :, :, 1] = (x + 2 * number) % 120
    return image


def number(image: np.ndarray) -> int:
    """The number that a decoded frame [H, W, 3] encodes."""
    top = image[: image.shape[0] // 2].mean(axis=(0, 2))
    return sum(
        int(top[(3 * a + b) // 4 : (a + 3 * b + 3) // 4].mean() > 125) << i
        for i, (a, b) in enumerate(_columns(image.shape[1]))
    )


def _columns(width: int) -> list[tuple[int, int]]:
    edges = np.linspace(0, width, BITS + 1).astype(int)
    return [(int(a), int(b)) for a, b in pairwise(edges)]


def make(
    path: Path | str,
    frames: int = 40,
    height: int = 48,
    width: int = 80,
    fps: int = 24,
    gop: int = 12,
    b_frames: int = 2,
    codec: str = "libx264",
    stamps: Sequence[int] | None = None,
    options: dict | None = None,
) -> str:
    """Write a video; returns its path. `stamps`: the frame times in units of 1/fps; `options`: of the muxer."""
    own = {"bf": str(b_frames), "g": str(gop), "crf": "16", "preset": "fast"} if codec == "libx264" else {}
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps, options=own)
        stream.height, stream.width = height, width
        stream.pix_fmt = "yuv444p" if codec == "libx264" and (height % 2 or width % 2) else "yuv420p"
        stream.codec_context.time_base = Fraction(1, fps)
        stream.codec_context.thread_count = 1
        if codec != "libx264":
            stream.codec_context.gop_size, stream.codec_context.max_b_frames = gop, b_frames
            stream.codec_context.bit_rate = 2_000_000
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(i, height, width), format="rgb24")
            frame.pts, frame.time_base = (stamps[i] if stamps is not None else i), Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return str(path)


def two_rates(path: Path | str) -> tuple[str, np.ndarray]:
    """Write a video of two seconds at 24 frames a second and ten at 3; returns its path and the times of its frames."""
    stamps = [*range(48), *range(48, 288, 8)]
    return make(path, frames=len(stamps), stamps=stamps, b_frames=0), np.array(stamps) / 24


def hide_first(path: str, out: Path, hidden: int) -> str:
    """Copy a video with an edit list that hides its first frames, as cutting without re-encoding does."""
    options = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    with av.open(path) as source, av.open(str(out), "w", options=options) as target:
        stream = source.streams.video[0]
        copy = target.add_stream_from_template(stream)
        shift = int(hidden / stream.average_rate / stream.time_base)
        for packet in source.demux(stream):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copy
                target.mux(packet)
    return str(out)


def make_audio(path: Path) -> str:
    """Write a sound without images at any path."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(8000)
        file.writeframes(np.zeros(8000, np.int16).tobytes())
    return str(path)


def make_bad(folder: Path) -> dict[str, str]:
    """Write files that are not videos; returns their paths by the kind of defect."""
    whole = Path(make(folder / "whole.mp4")).read_bytes()
    (folder / "whole.mp4").unlink()
    contents = {"empty": b"", "text": b"this is no video\n" * 40, "cut": whole[: len(whole) // 2]}
    for name, data in contents.items():
        (folder / f"{name}.mp4").write_bytes(data)
    make_audio(folder / "audio.mp4")
    fast = Path(make(folder / "fast.mp4", frames=200, options={"movflags": "faststart"}))
    data = fast.read_bytes()
    fast.unlink()
    (folder / "cut_fast.mp4").write_bytes(data[: len(data) * 2 // 3])
    return {p.stem: str(p) for p in folder.glob("*.mp4")}


def make_odd(folder: Path) -> Path:
    """Write `good ü/0 é.mp4` to `5 é.mp4` (1 has one frame, 2 odd sizes, 3 is upright, 4 has a low frame rate), and in
    `bad` five files that are not videos. Returns the folder."""
    (folder / "good ü").mkdir()
    for i, how in enumerate(
        [{}, {"frames": 1}, {"height": 51, "width": 75}, {"height": 90, "width": 64}, {"fps": 10}, {}]
    ):
        make(folder / "good ü" / f"{i} é.mp4", **{"frames": 30, **how})
    (folder / "bad").mkdir()
    make_bad(folder / "bad")
    return folder
