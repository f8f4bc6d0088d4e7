"""Search: the videos of an index that are most similar to texts, with the frames that the model encoded.

Letters in shapes: Q queries, D channels, M videos of a file, k hits.
"""

import contextlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

import datamodules
from datamodules.clips.sampling import Dense, Sampler
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder, PyAV
from datamodules.sources.source import Sample, Source
from datamodules.storage.counted import counted
from models import load_weights
from pretrain.export.embedded_recipe import instantiate_embedded
from pretrain.export.load_run import load_objective
from pretrain.features.index import INDEX, TextEncoder
from pretrain.objectives import Objective
from pretrain.plots.result_grid import Row, Tile, result_grid

_CHUNK = 65_536  # rows compared at a time
# Classes that an index may name for its videos: what recipes name by short names, and the rooms that these lie in.
_DATA_CLASSES = (
    *(f"datamodules.{name}" for name in datamodules.__all__ if name != "VideoData"),
    *(f"datamodules.sources.{name}" for name in ("annotated", "files", "mixture", "order", "shards", "synthetic")),
    *("datamodules.clips", "datamodules.decoding"),
)
_LOOKAHEAD = 1000  # samples searched for a video that is not at its expected number


@dataclass
class Hit:
    """A video that was found: its score and name, the rank that wrote its features, and the row of that rank.

    `key` is its name in the source, where that is another one. `frames` are a few of the frames that the model encoded,
    `time` is their time; `error` is why there are none.
    """

    score: float
    name: str
    row: int
    rank: int
    world: int
    frames: list[np.ndarray] = field(default_factory=list)
    time: str = ""
    error: str = ""
    key: str = ""


def text_model(index: dict[str, Any], checkpoint: str | None = None, trust: Sequence[str] = ()) -> TextEncoder:
    """The model that an index was made with, from the index's checkpoint or from `checkpoint`.

    Args:
        trust: full names of classes that the recipe in it may use besides ours (see `embedded_recipe`).

    Raises:
        FileNotFoundError: the checkpoint does not exist.
        ValueError: it is damaged, or not the one that the index was made with, or its recipe names other classes.
    """
    weights = index["model"].get("init_args", {}).get("weights")
    path = checkpoint or index["checkpoint"] or (weights and os.path.join(index["started in"], weights))
    if path is None:
        raise ValueError(
            "the index is of a model as it was initialised, without a checkpoint: its features mean nothing"
        )
    beside = index["folder"].parent / "checkpoints" / os.path.basename(path)  # if the whole run folder was moved
    if not os.path.exists(path) and beside.exists():
        path = str(beside)
    if not os.path.exists(path):
        raise FileNotFoundError(f"the checkpoint of this index, {path}, is not there: say where it is by --ckpt")
    if os.path.isdir(path) or path.endswith(".ckpt"):
        model = load_objective(path, trust=trust)[0]
    else:
        model = instantiate_embedded(Objective, index["model"], str(index["folder"] / INDEX), trust).eval()
        load_weights(model, path)
    if not hasattr(model, "encode_text"):
        raise ValueError(
            f"{path} is a {type(model).__name__}, which has no text encoder: the index was made with another model"
        )
    encoder, probe = cast(TextEncoder, model), index["probe"]
    with torch.no_grad():
        feature = encoder.encode_text([probe["text"]])[0].float().cpu()
    expected = torch.tensor(probe["feature"])
    if feature.shape != expected.shape or not torch.cosine_similarity(feature, expected, dim=0) > 0.99:
        changed = index["changed"]
        hint = f" (it was made with {changed[0]}: write such weights by tools/wise.py)" if changed else ""
        raise ValueError(f"{path} is not the checkpoint that the index was made with: its text features differ{hint}")
    return encoder


def search(files: Sequence[Path], queries: Tensor, k: int) -> list[list[Hit]]:
    """The k rows of all files with the largest product with each of `queries` `[Q, D]`; of equal ones the first.

    Files are read one by one in chunks, hence memory does not grow with their number.
    """
    best = torch.full((len(queries), 0), 0.0)
    places = torch.zeros(len(queries), 0, 2, dtype=torch.long)  # file and row
    for number, file in enumerate(files):
        for start, chunk in _chunks(file):
            if chunk.ndim != 2 or chunk.shape[1] != queries.shape[1]:
                raise ValueError(
                    f"{file} holds features {tuple(chunk.shape[1:])} a video, and a text has {queries.shape[1]} numbers"
                )
            scores = torch.nan_to_num(queries.double() @ chunk.double().t(), nan=-torch.inf).float()
            rows = torch.arange(start, start + len(chunk))
            here = torch.stack([torch.full_like(rows, number), rows], dim=1).expand(len(queries), -1, -1)
            scores, places = torch.cat([best, scores], dim=1), torch.cat([places, here], dim=1)
            first = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
            best, places = scores.gather(1, first), places.gather(1, first[..., None].expand(-1, -1, 2))
    metadata = {number: _metadata(files[number]) for number in places[..., 0].unique().tolist()}
    return [
        [_hit(score, metadata[number], row) for score, (number, row) in zip(scores, where, strict=True)]
        for scores, where in zip(best.tolist(), places.tolist(), strict=True)
    ]


def _chunks(file: Path) -> Iterator[tuple[int, Tensor]]:
    """Features of one file in chunks `[M, D]`, each with the number of its first row."""
    with _open(file) as opened:
        if "features" not in opened.keys():  # noqa: SIM118 it is not a dict
            raise ValueError(f"{file} holds no `features`, only {', '.join(opened.keys())}")
        features = opened.get_slice("features")
        for start in range(0, features.get_shape()[0], _CHUNK):
            yield start, features[start : start + _CHUNK]


def _metadata(file: Path) -> tuple[list[str], dict[str, int], list[str]]:
    """The names of a file's rows; the rank that wrote it, the world size and its rows in earlier files; and the names
    of its rows in the source."""
    with _open(file) as opened:
        metadata = opened.metadata() or {}
    try:
        names, place = json.loads(metadata["names"]), json.loads(metadata["place"])
        keys = json.loads(metadata["keys"]) if "keys" in metadata else names
        lists = isinstance(names, list) and isinstance(keys, list) and len(keys) == len(names)
        if lists and all(isinstance(place[key], int) for key in ("before", "rank", "world")):
            return names, place, keys
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{file} does not say which videos its features are of: {error}") from error
    raise ValueError(f"{file} does not say which videos its features are of")


def _open(file: Path) -> Any:
    """The opened file of features; ValueError if it is damaged."""
    try:
        return safe_open(file, "pt")
    except SafetensorError as error:
        raise ValueError(f"{file} is cut or damaged: {error}") from error


def _hit(score: float, metadata: tuple[list[str], dict[str, int], list[str]], row: int) -> Hit:
    names, place, keys = metadata
    return Hit(score, names[row], place["before"] + row, place["rank"], place["world"], key=keys[row])


# Frames of hits


class Viewer:
    """Opens the videos of an index, from the source of its recipe.

    Args:
        index: see `read_index`.
        trust: full names of classes that the index may name besides ours.

    Raises:
        ValueError: the index names no source of videos, another class, or a command (`pipe:`).
    """

    def __init__(self, index: dict[str, Any], trust: Sequence[str] = ()) -> None:
        where = str(index["folder"] / INDEX)

        def instantiate(kind: type, settings: dict[str, Any]) -> Any:
            return instantiate_embedded(kind, settings, where, trust, _DATA_CLASSES)

        self.folder, settings = index["started in"], index["seen"]
        self.frames, self.stride = settings["frames"], settings["stride"]
        with contextlib.chdir(self.folder) if os.path.isdir(self.folder) else contextlib.nullcontext():
            if index["source"] is None:
                raise ValueError("the index does not name the source of its videos")
            self.source = instantiate(Source, index["source"])
            self.decoder = instantiate(Decoder, settings["decoder"]) if settings["decoder"] else PyAV()
            self.sampler = instantiate(Sampler, settings["sampler"]) if settings["sampler"] else Dense()

    def load_frames(self, hit: Hit, count: int = 3) -> None:
        """Sets the frames and the time of a hit, or its error."""
        with contextlib.chdir(self.folder) if os.path.isdir(self.folder) else contextlib.nullcontext():
            try:
                sample = self._sample(hit)
                with sample.open(self.decoder) as video:
                    clip = self.sampler.view(sample.length(video), self.frames, self.stride, 0, 1)
                    shown = clip[np.unique(np.linspace(0, len(clip) - 1, count).round().astype(int))]
                    start, end = video.seconds([clip.min()])[0], video.ends([clip.max()])[0]
                    if math.isfinite(end):
                        hit.time = f"{_clock(start)}-{_clock(end)} of {_clock(video.duration)}"
                    hit.frames = list(video.frames(shown))
            except DecodeError as error:
                hit.error = error.reason

    def _sample(self, hit: Hit) -> Sample:
        """Row j of rank r is sample r + j * world, or a later one of that rank if some were unreadable."""
        first = hit.rank + hit.row * hit.world
        for number in range(first, min(len(self.source), first + _LOOKAHEAD * hit.world), hit.world):
            with contextlib.suppress(DecodeError):
                sample = self.source[number]
                if sample.name == (hit.key or hit.name):
                    return sample
        raise DecodeError(hit.name, "it is not in the list or the folder any more")


def _clock(seconds: float) -> str:
    """12.3 as 0:12.3, with hours if there are any."""
    minutes, seconds = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{seconds:04.1f}" if hours else f"{minutes}:{seconds:04.1f}"


def as_text(query: str, hits: Sequence[Hit]) -> str:
    """A line per hit: rank, score, time and name."""
    lines = [query]
    width = max((len(hit.time) for hit in hits), default=0)
    lines += [f"{i:4d}  {hit.score:7.4f}  {hit.time:{width}}  {hit.name}" for i, hit in enumerate(hits, 1)]
    return "\n".join(lines)


def hit_grid(queries: Sequence[str], found: Sequence[Sequence[Hit]], videos: int) -> np.ndarray:
    """A picture of all hits, uint8 `[height, width, 3]`."""
    rows = []
    for query, hits in zip(queries, found, strict=True):
        tiles = [
            Tile(
                hit.frames,
                [" · ".join(filter(None, [str(i), f"{hit.score:.3f}", hit.time])), hit.name],
                placeholder=hit.error,
            )
            for i, hit in enumerate(hits, 1)
        ]
        rows.append(Row(query, f"the first {len(hits)} of {counted(videos, 'video')}", tiles))
    return result_grid(rows, height=110, columns=2)


def count_videos(files: Sequence[Path]) -> int:
    """The number of videos in an index."""
    return sum(len(_metadata(file)[0]) for file in files)
