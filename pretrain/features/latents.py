"""Makes shards of latents: each clip through a VAE and its captions through a text encoder, once for many runs.

FOLDER/latents-NNNNNN.tar   samples as `datamodules.sources.latents` reads them, with their index
FOLDER/latents.json         the encoders and settings of all samples, their sizes and shape; written last
FOLDER/report.json          what was kept and dropped, and why
FOLDER/.latents             the settings, and a report for each finished shard, after which a killed run continues

Samples go to shards by their number in the source. Every sample is keyed by its content, and every file holds what
follows from the sources, the settings and the encoders alone: a run that was killed gives the same bytes.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset
from tqdm import tqdm

from datamodules.decoding.reader import Decoder, PyAV
from datamodules.loading.loader import Loader
from datamodules.making.shard_progress import ShardProgress
from datamodules.sources.buckets import Bucket
from datamodules.sources.latents import HEADER, Latent, write_latent
from datamodules.sources.source import Source
from datamodules.sources.tars import LATENT_SUFFIX, write_index, write_shard
from datamodules.storage.json_text import json_text, printable
from datamodules.storage.lock import lock_folder
from datamodules.storage.whole_files import write_whole
from pretrain.features.latent_clips import Clips, Keys
from pretrain.features.latent_encoders import LatentEncoders

PARTS = ".latents"
REPORT = "report.json"
_REPORT = {"keys": [(str, type(None))], "kept": [[int]], "dropped": [{"name": str, "reason": str}], "cut": [str]}


def make_latents(
    source: Source,
    out: str,
    encoders: LatentEncoders,
    buckets: Sequence[Bucket],
    stride: int = 4,
    clips: int = 1,
    dtype: str = "float16",
    shard_samples: int = 256,
    workers: int = 2,
    limit: float | None = 60.0,
    decoder: Decoder | None = None,
    progress: bool = True,
) -> dict:
    """Writes the latents of all samples to `out`; returns the report. An interrupted run is continued.

    Args:
        source: of videos.
        encoders: what encodes clips and captions.
        buckets: sizes and lengths of clips; a video gives clips for each bucket that it belongs to.
        stride: between the frames of a clip, in frames of the video.
        clips: of a video for each bucket, spread over its length; a single one is central.
        dtype: of the stored numbers, float16 or float32.
        shard_samples: videos per shard.
        workers: decoding processes.
        limit: seconds for reading and for decoding a video.

    Raises:
        ValueError: `out` was begun with other encoders, settings or videos, or another process writes it; or a bucket
            does not suit the VAE.
    """
    for bucket in buckets:
        encoders.autoencoder.check_size(bucket.height, bucket.width)
    settings = {
        "encoders": encoders.name,
        "buckets": [[b.frames, b.height, b.width] for b in buckets],
        **{"stride": stride, "clips": clips, "dtype": dtype, "decoder": type(decoder or PyAV()).__name__},
        **{"shard_samples": shard_samples, "samples": len(source)},
    }
    folder = Path(out)
    with lock_folder(folder):
        shards = ShardProgress(folder, PARTS, _REPORT)
        if not shards.settings.exists() and any(folder.glob("*.tar")):
            raise ValueError(f"{folder} holds shards that are not of this tool: choose another folder")
        shards.begin(settings)
        groups = [range(a, min(a + shard_samples, len(source))) for a in range(0, len(source), shard_samples)]
        done = shards.finished(len(groups))
        _check_unchanged(source, groups, done, workers, limit)
        waiting = [number for s, group in enumerate(groups) if s not in done for number in group]
        bar = tqdm(total=len(source), initial=len(source) - len(waiting), disable=not progress, unit="video")
        with bar:
            items = _load(Clips(source, buckets, stride, clips, decoder or PyAV()), waiting, workers, limit)
            for s, group in enumerate(groups):
                if s not in done:
                    shard = _Shard(folder, s, encoders, dtype)
                    done[s] = shard.make((next(items) for _ in group), bar)
                    shards.finish(s, done[s])
        return _finish(folder, settings, _shape(encoders), [done[s] for s in range(len(groups))])


class _Shard:
    """One shard: the latents of consecutive samples of the source.

    Args:
        folder: of all shards.
        number: of the shard.
    """

    def __init__(self, folder: Path, number: int, encoders: LatentEncoders, dtype: str) -> None:
        self.folder, self.number, self.encoders, self.dtype = folder, number, encoders, np.dtype(dtype)
        self.report: dict[str, Any] = {"keys": [], "kept": [], "dropped": [], "cut": []}

    def make(self, items: Iterator[dict], bar: tqdm) -> dict:
        """Writes the shard; returns its report."""

        def samples() -> Iterator[tuple[str, str, bytes, dict]]:
            for place, item in enumerate(items):
                self.report["keys"].append(item["key"])
                made = item["reason"] or self._encode(place, item)
                if isinstance(made, str):
                    self.report["dropped"].append({"name": item["name"], "reason": made})
                    if not bar.disable:
                        tqdm.write(printable(f"dropped {item['name']}: {made}"))
                else:
                    yield from made
                bar.update()

        self.report["row"] = write_shard(self.folder / f"latents-{self.number:06d}.tar", samples())
        return self.report

    def _encode(self, place: int, item: dict) -> list[tuple[str, str, bytes, dict]] | str:
        """The shard's samples of a video, or why there are none."""
        text, states, cut = item["text"], None, False
        if self.encoders.prompts is not None:
            if text is None:
                return "it has no text"
            encoded, cut = self.encoders.states(text if isinstance(text, list) else [text])
            states = encoded.astype(self.dtype)
        made, kept = [], []
        for number, (_, clip) in enumerate(item["clips"]):
            with np.errstate(over="ignore"):  # checked below
                moments = self.encoders.moments(clip).astype(self.dtype)
            if not np.isfinite(moments).all():
                return f"its latent is not finite as {self.dtype}"
            frames, height, width = clip.shape[:3]
            about = {"encoders": self.encoders.name, "key": item["key"], "clip": number}
            data = write_latent(Latent(moments, states, item["fps"]), about)
            meta = {"source": item["name"], "frames": frames, "height": height, "width": width, "fps": item["fps"]}
            fields = {name: item[name] for name in ("text", "label") if item[name] is not None}
            key = f"{self.number:06d}{place:06d}" + (f"-{number:04d}" if len(item["clips"]) > 1 else "")
            made.append((key, LATENT_SUFFIX[1:], data, {**fields, **meta, "key": item["key"]}))
            kept.append([frames, height, width])
        self.report["kept"] += kept
        self.report["cut"] += [item["name"]] if cut else []
        return made


def _load(dataset: Dataset, numbers: Sequence[int], workers: int, limit: float | None) -> Iterator[dict]:
    """The items of these numbers, in order."""
    prefetch = 2 if workers else None
    return iter(
        Loader(
            dataset,
            batch_size=None,
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=prefetch,
            collate_fn=_as_is,
            limit=limit,
        )
    )


def _as_is(item: dict) -> dict:
    return item


def _check_unchanged(
    source: Source, groups: Sequence[range], done: dict[int, dict], workers: int, limit: float | None
) -> None:
    """ValueError if the content of a sample of a finished shard is not what was encoded."""
    for s, report in done.items():
        if len(report["keys"]) != len(groups[s]):
            raise ValueError(f"{PARTS}/{s:06d}.json is not of the samples of its shard: delete it, to make them again")
    numbers = [number for s in done for number in groups[s]]
    made_of = [(s, key) for s in done for key in done[s]["keys"]]
    for (s, key), now in zip(made_of, _load(Keys(source), numbers, workers, limit), strict=True):
        if now["key"] != key:
            raise ValueError(
                f"{printable(now['name'])} has changed since its latents were made (its video, name, text or label): "
                f"choose another folder, or delete latents-{s:06d}.tar and {PARTS}/{s:06d}.json to make them again"
            )


def _shape(encoders: LatentEncoders) -> dict:
    """What `Latents` compares each sample with."""
    text = None if encoders.prompts is None else list(encoders.states([""])[0].shape[1:])
    return {"channels": 2 * encoders.autoencoder.channels, "factor": encoders.autoencoder.factor, "text": text}


def _finish(folder: Path, settings: dict, shape: dict, parts: list[dict]) -> dict:
    """Writes the report, the index, and the header that completes the folder."""
    sizes = [tuple(size) for part in parts for size in part["kept"]]
    dropped = [each for part in parts for each in part["dropped"]]
    report = {
        "kept": len(sizes),
        "buckets": {"x".join(map(str, size)): count for size, count in sorted(Counter(sizes).items())},
        "dropped": len(dropped),
        "reasons": dict(Counter(each["reason"] for each in dropped).most_common()),
        "captions cut": [name for part in parts for name in part["cut"]],
        "settings": settings,
        "dropped_files": dropped,
    }
    write_whole(folder / REPORT, json_text(report, indent=1))
    write_index(folder, [part["row"] for part in parts])
    runs = [[len(list(run)), *size] for size, run in groupby(sizes)]
    write_whole(folder / HEADER, json_text({**settings, "shape": shape, "sizes": runs}))
    return report
