"""Search: which videos of an index are like words, what they look like, and where in them the model looked.

Letters in shapes: Q queries, D channels, M videos of a file, k hits.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonargparse
import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from datamodules.clips.sampling import Dense, Sampler
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder, PyAV
from datamodules.sources.source import Sample, Source
from models import load_weights
from pretrain.export.load_run import build, load_objective
from pretrain.objectives import Objective
from pretrain.plots.result_grid import Row, Tile, result_grid

_ROWS = 65_536  # compared at a time
_LOST = 1000  # samples looked at for one that is not where it should be


@dataclass
class Hit:
    """A video that was found: its score and name, and its row among those that one rank wrote.

    `frames` are a few of those that the model saw, `time` when they were, `lost` why there are none.
    """

    score: float
    name: str
    row: int
    rank: int
    world: int
    frames: list[np.ndarray] = field(default_factory=list)
    time: str = ""
    lost: str = ""


def text_model(about: dict[str, Any], checkpoint: str | None = None) -> Objective:
    """The model that made an index, from its checkpoint or from `checkpoint`.

    Raises:
        FileNotFoundError: the checkpoint is not where it was.
        ValueError: it is damaged, or not the one that the index was made with.
    """
    weights = about["model"].get("init_args", {}).get("weights")
    path = checkpoint or about["checkpoint"] or (weights and os.path.join(about["started in"], weights))
    if path is None:
        raise ValueError(
            "the index is of a model as it was initialised, without a checkpoint: its features mean nothing"
        )
    beside = about["folder"].parent / "checkpoints" / os.path.basename(path)  # a run folder that was moved as a whole
    if not os.path.exists(path) and beside.exists():
        path = str(beside)
    if not os.path.exists(path):
        raise FileNotFoundError(f"the checkpoint of this index, {path}, is not there: say where it is by --ckpt")
    if os.path.isdir(path) or path.endswith(".ckpt"):
        model = load_objective(path)[0]
    else:
        model = build(about["model"]).eval()
        load_weights(model, path)
    probe = about["probe"]
    if not hasattr(model, "encode_text"):
        raise ValueError(f"{path} is a {type(model).__name__}, which knows no texts: the index was made with another")
    with torch.no_grad():
        found = model.encode_text([probe["text"]])[0].float().cpu()
    expected = torch.tensor(probe["feature"])
    if found.shape != expected.shape or not torch.cosine_similarity(found, expected, dim=0) > 0.99:
        mixed = (
            f" (it was made with {about['changed'][0]}: write such weights by tools/wise.py)"
            if about["changed"]
            else ""
        )
        raise ValueError(f"{path} is not the checkpoint that the index was made with: it reads texts otherwise{mixed}")
    return model


def search(files: Sequence[Path], queries: Tensor, k: int) -> list[list[Hit]]:
    """The k rows of all files that are most like each of `queries` `[Q, D]`; of equal ones those that come first.

    Files are gone through one by one, in parts: memory does not grow with their number.
    """
    best = torch.full((len(queries), 0), 0.0)
    places = torch.zeros(len(queries), 0, 2, dtype=torch.long)  # file and row
    for number, file in enumerate(files):
        for start, part in _parts(file):
            if part.ndim != 2 or part.shape[1] != queries.shape[1]:
                raise ValueError(
                    f"{file} holds features {tuple(part.shape[1:])} a video, and a text has {queries.shape[1]} numbers"
                )
            scores = torch.nan_to_num(queries.double() @ part.double().t(), nan=-torch.inf).float()
            rows = torch.arange(start, start + len(part))
            here = torch.stack([torch.full_like(rows, number), rows], dim=1).expand(len(queries), -1, -1)
            scores, places = torch.cat([best, scores], dim=1), torch.cat([places, here], dim=1)
            first = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
            best, places = scores.gather(1, first), places.gather(1, first[..., None].expand(-1, -1, 2))
    about = {number: _about(files[number]) for number in places[..., 0].unique().tolist()}
    return [
        [_hit(score, about[number], row) for score, (number, row) in zip(scores, where, strict=True)]
        for scores, where in zip(best.tolist(), places.tolist(), strict=True)
    ]


def _parts(file: Path) -> Iterator[tuple[int, Tensor]]:
    """Features of one file from row so and so, `[M, D]`."""
    with safe_open(file, "pt") as opened:
        if "features" not in opened.keys():  # noqa: SIM118 it is no dict
            raise ValueError(f"{file} holds no `features`, only {', '.join(opened.keys())}")
        features = opened.get_slice("features")
        for start in range(0, features.get_shape()[0], _ROWS):
            yield start, features[start : start + _ROWS]


def _about(file: Path) -> tuple[list[str], dict[str, int]]:
    """Names of a file's rows, and whose they are."""
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    return json.loads(metadata["names"]), json.loads(metadata["place"])


def _hit(score: float, about: tuple[list[str], dict[str, int]], row: int) -> Hit:
    names, place = about
    return Hit(score, names[row], place["before"] + row, place["rank"], place["world"])


# What was found


class Viewer:
    """Opens the videos of an index, from the source that the recipe named.

    Args:
        about: the index.
    """

    def __init__(self, about: dict[str, Any]) -> None:
        self.folder, seen = about["started in"], about["seen"]
        self.frames, self.stride = seen["frames"], seen["stride"]
        with contextlib.chdir(self.folder) if os.path.isdir(self.folder) else contextlib.nullcontext():
            if about["source"] is None:
                raise ValueError("the index does not say what its videos are")
            self.source = _made(Source, about["source"])
            self.decoder = _made(Decoder, seen["decoder"]) if seen["decoder"] else PyAV()
            self.sampler = _made(Sampler, seen["sampler"]) if seen["sampler"] else Dense()

    def look(self, hit: Hit, shots: int = 3) -> None:
        """Fills in frames and time of a hit, or why they are lost."""
        with contextlib.chdir(self.folder) if os.path.isdir(self.folder) else contextlib.nullcontext():
            try:
                sample = self._sample(hit)
                with sample.open(self.decoder) as video:
                    seen = self.sampler.view(sample.length(video), self.frames, self.stride, 0, 1)
                    chosen = seen[np.unique(np.linspace(0, len(seen) - 1, shots).round().astype(int))]
                    if video.fps:
                        hit.time = f"{_clock(seen.min() / video.fps)}-{_clock((seen.max() + 1) / video.fps)} "
                        hit.time += f"of {_clock(len(video) / video.fps)}"
                    hit.frames = list(video.frames(chosen))
            except DecodeError as error:
                hit.lost = error.reason

    def _sample(self, hit: Hit) -> Sample:
        """Row j of rank r was sample r + j * world, or a later one of that rank where some could not be read."""
        first = hit.rank + hit.row * hit.world
        for number in range(first, min(len(self.source), first + _LOST * hit.world), hit.world):
            with contextlib.suppress(DecodeError):
                sample = self.source[number]
                if sample.name == hit.name:
                    return sample
        raise DecodeError(hit.name, "it is not in the list or the folder any more")


def _made(kind: type, settings: dict[str, Any]) -> Any:
    """What a recipe names by class_path and init_args."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "made")
    return parser.instantiate_classes(parser.parse_object({"made": settings})).made


def _clock(seconds: float) -> str:
    """12.3 as 0:12.3, and hours where there are some."""
    minutes, seconds = divmod(round(seconds, 1), 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}:{minutes:02d}:{seconds:04.1f}" if hours else f"{minutes}:{seconds:04.1f}"


def table(query: str, hits: Sequence[Hit]) -> str:
    """Rank, score, time and name, a line a hit."""
    lines = [query]
    width = max((len(hit.time) for hit in hits), default=0)
    lines += [f"{i:4d}  {hit.score:7.4f}  {hit.time:{width}}  {hit.name}" for i, hit in enumerate(hits, 1)]
    return "\n".join(lines)


def sheet(queries: Sequence[str], found: Sequence[Sequence[Hit]], videos: int) -> np.ndarray:
    """A picture of all hits, uint8 `[height, width, 3]`."""
    rows = []
    for query, hits in zip(queries, found, strict=True):
        tiles = [
            Tile(
                hit.frames,
                [" · ".join(filter(None, [str(i), f"{hit.score:.3f}", hit.time])), hit.name],
                placeholder=hit.lost,
            )
            for i, hit in enumerate(hits, 1)
        ]
        rows.append(Row(query, f"the first {len(hits)} of {videos} videos", tiles))
    return result_grid(rows, height=110, columns=2)


def count(files: Sequence[Path]) -> int:
    """Videos in an index."""
    return sum(len(_about(file)[0]) for file in files)
