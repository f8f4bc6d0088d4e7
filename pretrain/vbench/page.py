"""A page of a run, in one file: the radar, the table, and the best and worst videos of each dimension as frames."""

import base64
import html
import io
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder
from datamodules.storage.whole_files import write_whole
from pretrain.metrics.vbench.frames import middle_frames
from pretrain.metrics.vbench.results import as_markdown, labelled
from pretrain.metrics.vbench.run import Scores
from pretrain.metrics.vbench.scoring import means
from pretrain.metrics.vbench.totals import normalise
from pretrain.plots.radar import radar

_STYLE = (
    "body{font:15px sans-serif;margin:2em;max-width:1100px}pre{overflow:auto}figure{margin:.6em 0}img{max-width:100%}"
)


def _image(picture: np.ndarray, kind: str = "JPEG") -> str:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind)
    return f'<img src="data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}">'


def filmstrip(path: Path, decoder: Decoder, frames: int = 5, height: int = 96) -> np.ndarray:
    """Frames of a video side by side, uint8 `[height, width, 3]`; DecodeError if it cannot be read."""
    with decoder.open(str(path), path.name) as video:
        shots = video.frames(sorted(set(middle_frames(min(frames, len(video)), len(video)))))
    width = max(1, round(height * shots.shape[2] / shots.shape[1]))
    return np.concatenate([np.asarray(Image.fromarray(shot).resize((width, height))) for shot in shots], axis=1)


def normalised(scores: Scores, random: Collection[str] = ()) -> dict[str, float]:
    """The normalised official score of each dimension that was scored, by its name with its label."""
    raw = {name: means(score for _, score in rows) for name, rows in scores.items()}
    return {labelled(name, random): normalise(name, b.official(name)) for name, b in raw.items() if b.scored}


def write_page(
    path: Path,
    name: str,
    scores: Scores,
    labels: Sequence[str],
    decoder: Decoder,
    random: Collection[str] = (),
    stand_ins: Scores | None = None,
    shown: int = 2,
) -> None:
    """Write the page.

    Args:
        random: dimensions whose models have random weights.
        stand_ins: scores of models in the place of VBench's, by what they are called here.
        shown: best and worst videos of each dimension.
    """
    parts = [f"<!doctype html><meta charset=utf-8><title>{html.escape(name)}</title><style>{_STYLE}</style>"]
    parts.append(f"<h1>{html.escape(name)}</h1>")
    if found := normalised(scores, random):
        parts.append(_image(radar({name: found}), "PNG"))
    parts.append(f"<pre>{html.escape(as_markdown(scores, list(labels), random))}</pre>")
    strips: dict[Path, str] = {}  # a video may be the best of many dimensions
    for dimension, rows in {**scores, **(stand_ins or {})}.items():
        ordered = sorted((row for row in rows if row[1].count), key=lambda row: -row[1].value)
        parts.append(f"<h2>{html.escape(labelled(dimension, random))}</h2>")
        best = ordered[:shown]
        for title, part in (("best", best), ("worst", ordered[max(len(best), len(ordered) - shown) :])):
            for job, score in part:
                if job.path not in strips:
                    try:
                        strips[job.path] = _image(filmstrip(job.path, decoder))
                    except DecodeError as error:
                        strips[job.path] = html.escape(str(error))
                text = html.escape(f"{title}, {score.value:.4f}: {job.prompt} ({job.path.name})")
                parts.append(f"<figure>{strips[job.path]}<figcaption>{text}</figcaption></figure>")
    write_whole(path, "\n".join(parts) + "\n")
