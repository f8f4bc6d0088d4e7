"""Contents of a set of shards: quantiles of the properties of its samples, and a contact sheet."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder, PyAV
from datamodules.sources.source import Sample, Source

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_MARGIN, _LINE = 4, 14


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
        (height, width), frames, fps = video.size, len(video), video.fps
    found: dict[str, float] = {"frames": frames, "width": width, "height": height}
    if fps:
        found |= {"seconds": frames / fps, "fps": fps}
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
        name, text = sample.name, _caption(sample)
        if sample.label is not None:
            text = f"[{sample.label}] {text}"
        with sample.open(decoder) as video:
            pictures = [Image.fromarray(f) for f in video.frames(spread(len(video), frames))]
    except DecodeError as error:
        text, pictures = error.reason, []
    scaled = [p.resize((max(1, round(p.width * height / p.height)), height)) for p in pictures]
    width = max(sum(p.width + _MARGIN for p in scaled), 4 * height)
    strip = Image.new("RGB", (width, height + 2 * _LINE), "white")
    draw = ImageDraw.Draw(strip)
    draw.text((0, 0), _shortened(draw, name, width), fill="gray")
    draw.text((0, _LINE), _shortened(draw, text, width), fill="black")
    at = 0
    for picture in scaled:
        strip.paste(picture, (at, 2 * _LINE))
        at += picture.width + _MARGIN
    return strip


def _shortened(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """The text in one line, cut to `width` pixels."""
    text = " ".join(text.split())
    if draw.textlength(text) <= width:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if draw.textlength(text[:middle] + "...") <= width else (low, middle - 1)
    return text[:low] + "..."


def totals(source: Source, values: dict[str, Sequence[float]], failed: dict[str, str]) -> str:
    """One line about the whole set; the hours are estimated if not all samples were opened."""
    opened = max((len(v) for v in values.values()), default=0) + len(failed)
    sure = "" if opened == len(source) else f" (estimated from {opened} of them)"
    hours = np.mean(values["seconds"]) * len(source) / 3600 if values.get("seconds") else 0.0
    shards = np.size(source.counts)
    return (
        f"{len(source)} samples in {shards} shards, {hours:.2f} hours{sure}; "
        f"{source.texts} with a caption, {source.labels} with a label, {len(failed)} unreadable"
    )
