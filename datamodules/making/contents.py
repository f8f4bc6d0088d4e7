"""Contents of a set of shards: quantiles of the properties of its samples, and a contact sheet."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from datamodules.clips.frame_by_frame import scaled_frames
from datamodules.decoding.contract import DecodeError, Video
from datamodules.decoding.reader import Decoder, PyAV
from datamodules.lettering import draw_text, shortened
from datamodules.sources.source import Sample, Source
from datamodules.storage.counted import clock, counted

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_MARGIN, _LINE, _SIZE = 4, 16, 11


def sample_properties(
    source: Source, samples: int = 1000, decoder: Decoder | None = None
) -> tuple[dict[str, list], dict]:
    """Opens `samples` of a source, evenly spaced, without decoding them.

    Returns:
        Values by property (`seconds`, `frames`, `fps`, `width`, `height`, `kilobytes`, `caption words`), and the
        reason by sample that cannot be read.
    """
    values: dict[str, list] = {}
    failed: dict[str, str] = {}
    for i in spread(len(source), samples):
        name = f"sample {i}"
        try:
            sample = source[int(i)]
            name = sample.name
            for key, value in _properties(sample, decoder or PyAV()).items():
                values.setdefault(key, []).append(value)
        except DecodeError as error:
            failed[name] = error.reason
    return values, failed


def spread(length: int, count: int) -> np.ndarray:
    """At most `count` indices below `length`: the middles of equal parts."""
    count = min(count, length)
    return ((np.arange(count) + 0.5) * length / max(count, 1)).astype(np.int64)


def _properties(sample: Sample, decoder: Decoder) -> dict[str, float]:
    with sample.open(decoder) as video:
        (height, width), frames, fps, seconds = video.size, len(video), video.fps, video.duration
    found: dict[str, float] = {"frames": frames, "width": width, "height": height}
    if fps and math.isfinite(seconds):
        found |= {"seconds": seconds, "fps": fps}
    if isinstance(sample.content, bytes):
        found["kilobytes"] = len(sample.content) / 1e3
    if sample.text is not None:
        found["caption words"] = len(_caption(sample).split())
    return found


def _caption(sample: Sample) -> str:
    """The caption of a sample, or the first of several; "" if it has none."""
    text = sample.text or ""
    return text if isinstance(text, str) else text[0]


def as_markdown(values: dict[str, list]) -> str:
    """Markdown table of quantiles, a row per property."""
    names = ["least", *(f"{q:.0%}" for q in QUANTILES[1:-1]), "most"]
    lines = [f"| | {' | '.join(names)} | mean |", "|---|" + "---:|" * (len(names) + 1)]
    for key, found in values.items():
        cells = " | ".join(f"{v:.4g}" for v in [*np.quantile(found, QUANTILES), np.mean(found)])
        lines.append(f"| {key} | {cells} |")
    return "\n".join(lines)


def contact_sheet(
    source: Source, samples: int = 24, frames: int = 5, height: int = 96, decoder: Decoder | None = None
) -> Image.Image:
    """A picture of `samples` evenly spaced samples in two columns: name and caption above `frames` frames of each.

    A sample that cannot be read shows the reason instead.
    """
    chosen = spread(len(source), samples)
    strips = [_strip(source, int(i), frames, height, decoder or PyAV()) for i in chosen]
    width = max(strip.width for strip in strips) + _MARGIN
    columns = 2 if len(strips) > 1 else 1
    block = height + 2 * _LINE + 2 * _MARGIN
    sheet = Image.new("RGB", (columns * width + _MARGIN, -(-len(strips) // columns) * block + _MARGIN), "white")
    for i, strip in enumerate(strips):
        sheet.paste(strip, (_MARGIN + i % columns * width, _MARGIN + i // columns * block))
    return sheet


def _strip(source: Source, index: int, frames: int, height: int, decoder: Decoder) -> Image.Image:
    """One sample: two lines of text above its frames."""
    name, text = f"sample {index}", ""
    try:
        sample = source[index]
        name, text = sample.origin or sample.name, _text(sample, source)
        with sample.open(decoder) as video:
            scaled = _pictures(video, frames, height)
    except DecodeError as error:
        text, scaled = error.reason, []
    width = max(sum(p.width + _MARGIN for p in scaled), 4 * height)
    strip = Image.new("RGB", (width, height + 2 * _LINE), "white")
    draw = ImageDraw.Draw(strip)
    draw_text(draw, (0, 0), shortened(name, width, _SIZE), _SIZE, "gray")
    draw_text(draw, (0, _LINE), shortened(text, width, _SIZE), _SIZE, "black")
    at = 0
    for picture in scaled:
        strip.paste(picture, (at, 2 * _LINE))
        at += picture.width + _MARGIN
    return strip


@dataclass
class Thumbnail:
    """A sample as a page shows it: its own name, seconds (NaN: unknown), class and caption, and a JPEG of some frames,
    side by side; without one, the reason."""

    name: str
    seconds: float = math.nan
    text: str = ""
    jpeg: bytes = b""
    error: str = ""


def thumbnails(
    source: Source, samples: int = 24, frames: int = 3, height: int = 72, decoder: Decoder | None = None
) -> list[Thumbnail]:
    """Of `samples` evenly spaced samples."""
    found = []
    for index in spread(len(source), samples).tolist():
        about = Thumbnail(f"sample {index}")
        found.append(about)
        try:
            sample = source[index]
            about.name, about.text = sample.origin or sample.name, _text(sample, source)
            with sample.open(decoder or PyAV()) as video:
                about.seconds = video.duration if len(video) > 1 else math.nan
                scaled = _pictures(video, frames, height)
        except DecodeError as error:
            about.error = error.reason
            continue
        strip = Image.new("RGB", (sum(p.width for p in scaled) + 2 * (len(scaled) - 1), height), "white")
        at = 0
        for picture in scaled:
            strip.paste(picture, (at, 0))
            at += picture.width + 2
        file = io.BytesIO()
        strip.save(file, "JPEG", quality=80)
        about.jpeg = file.getvalue()
    return found


def _pictures(video: Video, frames: int, height: int) -> list[Image.Image]:
    """Evenly spaced frames of this height, each scaled as it is decoded."""

    def scaled(frame: np.ndarray) -> np.ndarray:
        picture = Image.fromarray(frame[0])
        return np.asarray(picture.resize((max(1, round(picture.width * height / picture.height)), height)))[None]

    return [Image.fromarray(each) for each in scaled_frames(video, spread(len(video), frames), scaled)]


def _text(sample: Sample, source: Source) -> str:
    """The class of a sample, by name if it has one, and its caption."""
    label = sample.label
    if isinstance(label, int) and source.classes is not None and label < len(source.classes):
        return f"[{source.classes[label]}] {_caption(sample)}".strip()
    return (f"[{label}] " if label is not None else "") + _caption(sample)


def totals(source: Source, values: dict[str, Sequence[float]], failed: dict[str, str]) -> str:
    """One line about the whole set; the hours are estimated if not all samples were opened."""
    opened = max((len(v) for v in values.values()), default=0) + len(failed)
    sure = "" if opened == len(source) else f" (estimated from {opened} of them)"
    seconds = round(np.mean(values["seconds"]) * len(source)) if values.get("seconds") else 0
    shards = int(np.size(source.counts))
    return (
        f"{counted(len(source), 'sample')} in {counted(shards, 'shard')}, {clock(seconds)} long in all{sure}; "
        f"{source.texts} with a caption, {source.labels} with a label, {len(failed)} unreadable"
    )
