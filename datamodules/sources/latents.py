"""Latents in shards: the moments of a VAE's posterior and the states of a text encoder, made once by tools/latents.py.

A folder holds shards as `Shards` reads them, with a safetensors file instead of each video, and `latents.json`: the
settings and encoders of all samples, their sizes, and the `shape` of what the encoders make. Letters: `C` channels of a
latent, `T x h x w` its grid, `K` captions, `L` tokens of a caption, `D` width of a text state.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.decoding.contract import DecodeError
from datamodules.sources.lists import check_size
from datamodules.sources.remote import Store
from datamodules.sources.shards import Shards
from datamodules.sources.source import Sample
from datamodules.storage.json_text import parse_json, read_json

HEADER = "latents.json"
REMEDY = "Make them by one run: python tools/latents.py VIDEOS FOLDER --vae DIR --text DIR"


@dataclass
class Latent:
    """One clip: `moments` [2C, T, h, w] (means, then log variances), `text` [K, L, D] if it has captions, and the rate
    `fps` of its frames (0: unknown)."""

    moments: np.ndarray
    text: np.ndarray | None
    fps: float


class Latents(Shards):
    """The latents in one or several folders that tools/latents.py has made with the same encoders.

    Args:
        path: a folder, or a list of folders; local or remote, as for `Shards`.
        options: further arguments of `Shards`.

    Raises:
        FileNotFoundError: a folder holds no latents.
        ValueError: the folders were made by different encoders, or hold samples that `latents.json` does not describe.
    """

    def __init__(self, path: str | list[str], **options: Any) -> None:
        super().__init__(path, **options)
        headers = [self._header(folder, store) for folder, store in zip(self.folders, self.stores, strict=True)]
        made = {header["encoders"]: folder for header, folder in zip(headers, self.folders, strict=True)}
        if len(made) > 1:
            raise ValueError(
                f"{' and '.join(made.values())} hold latents of different encoders ({' and '.join(made)}): a run "
                f"trains on one kind. {REMEDY}"
            )
        self.latents = headers[0]["encoders"]
        parts = []
        for number, (folder, header) in enumerate(zip(self.folders, headers, strict=True)):
            held, runs = int(self.samples[self.folder_of == number].sum()), _runs(header, folder)
            if held != (described := sum(count for count, *_ in runs)):
                raise ValueError(
                    f"{folder} holds {held} samples and {HEADER} describes {described}: it is a mixture of several "
                    f"folders. {REMEDY}"
                )
            parts.append(np.repeat([size for _, *size in runs], [count for count, *_ in runs], axis=0))
        self._sizes = np.concatenate(parts).astype(np.int32)
        self.shapes = [_shape(header, folder) for header, folder in zip(headers, self.folders, strict=True)]
        self.folder_starts = np.cumsum([0, *(len(part) for part in parts)])

    def __getitem__(self, index: int) -> Sample:
        """As `Shards`; DecodeError also if the latent has not the shape that its folder's encoders give it."""
        index = range(len(self))[index]
        sample = super().__getitem__(index)
        shape = self.shapes[int(np.searchsorted(self.folder_starts, index, side="right")) - 1]
        frames, height, width = self._sizes[index].tolist()
        moments = [shape.channels, frames, height // shape.factor, width // shape.factor]
        for name, wanted, axes in (("moments", moments, 0), ("text", shape.text, 1)):
            found = _stored_shape(sample, name)
            if wanted != (None if found is None else found[axes:]):
                given = "none" if found is None else f"of shape {found}"
                raise DecodeError(sample.name, f"its {name} are {given}, and {HEADER} says {wanted or 'none'}")
        return sample

    def _header(self, folder: str, store: Store | None) -> dict:
        try:
            if store is None:
                file = Path(folder, HEADER)
                if file.exists():  # a missing one is named below
                    check_size(file, "index_bytes", self.limits)
                header = read_json(file)
            else:
                header = store.fetch(HEADER, self.limits.index_bytes, whole=parse_json)
        except (FileNotFoundError, DecodeError) as error:
            raise FileNotFoundError(f"no latents at {folder}: it holds no {HEADER} ({error}). {REMEDY}") from None
        if not isinstance(header, dict) or not isinstance(header.get("encoders"), str) or "sizes" not in header:
            raise ValueError(f"{folder}/{HEADER} lacks the encoders or the sizes. {REMEDY}")
        return header

    def sizes(self) -> np.ndarray:
        return self._sizes


@dataclass
class _Shape:
    """What the encoders of a folder make: `channels` (2C) and `factor` (of height and width) of moments, and the shape
    `text` [L, D] of a caption's states; None: captions are not encoded."""

    channels: int
    factor: int
    text: list[int] | None


def _shape(header: dict, folder: str) -> _Shape:
    try:
        shape = _Shape(**header["shape"])
    except (LookupError, TypeError):
        raise ValueError(f"{folder}/{HEADER} lacks the shape of latents. {REMEDY}") from None
    text = shape.text
    numbers = [shape.channels, shape.factor, *(text if isinstance(text, list) else [])]
    if not all(type(number) is int and number > 0 for number in numbers) or not (text is None or len(numbers) == 4):
        raise ValueError(f"{folder}/{HEADER} has a shape of latents that is not of positive integers. {REMEDY}")
    return shape


def _stored_shape(sample: Sample, tensor: str) -> list[int] | None:
    """The shape of a tensor in a sample's safetensors file, by its header; None: there is no such tensor."""
    assert isinstance(sample.content, bytes)  # `Shards` reads them
    try:
        entry = _file_header(sample.content).get(tensor)
        return None if entry is None else list(entry["shape"])
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise DecodeError(sample.name, f"not a latent: {error}") from None


def _runs(header: dict, folder: str) -> list[list[int]]:
    """The rows of `sizes` in a header: how many samples, and their frames, height and width."""
    runs = header["sizes"]
    if not isinstance(runs, list) or not all(
        isinstance(run, list) and len(run) == 4 and all(type(n) is int and 0 < n < 2**31 for n in run) for run in runs
    ):
        raise ValueError(f"{folder}/{HEADER} has sizes that are not rows of four positive integers. {REMEDY}")
    return runs


def read_latent(content: bytes, name: str, encoders: str) -> Latent:
    """A sample's latent.

    Raises:
        DecodeError: the bytes are damaged, or other encoders made it.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors, about = load(content), _about(content)
        latent = Latent(tensors["moments"], tensors.get("text"), about["fps"])
        made_by = about["encoders"]
    except (SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise DecodeError(name, f"not a latent: {error}") from None
    if reason := _wrong(latent):
        raise DecodeError(name, f"not a latent: {reason}")
    if made_by != encoders:
        raise DecodeError(
            name, f"made by the encoders {str(made_by)[:60]}, and its folder says {encoders}: the folder is a mixture"
        )
    return latent


def write_latent(latent: Latent, about: dict) -> bytes:
    """The safetensors file of a latent, with `about` in its metadata."""
    from safetensors.numpy import save

    arrays = {"moments": latent.moments} | ({} if latent.text is None else {"text": latent.text})
    # safetensors writes the memory of an array as it lies, whatever its strides are.
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    # One entry only: safetensors writes several in an order that differs from process to process.
    return save(tensors, {"about": json.dumps({**about, "fps": latent.fps}, sort_keys=True)})


def _wrong(latent: Latent) -> str | None:
    """Why a latent cannot be trained on; None: it can."""
    arrays = {"moments": (latent.moments, 4), "text": (latent.text, 3)}
    for name, (array, axes) in arrays.items():
        if array is None:
            continue
        if array.ndim != axes or array.dtype.kind != "f" or 0 in array.shape:
            return f"its {name} are {array.dtype} {list(array.shape)}"
        if not np.isfinite(array).all():
            return f"its {name} are not finite"
    if latent.moments.shape[0] % 2:
        return f"its moments have {latent.moments.shape[0]} channels, and means and variances are equally many"
    if isinstance(latent.fps, bool) or not isinstance(latent.fps, int | float) or not 0 <= latent.fps < float("inf"):
        return f"its frame rate is {str(latent.fps)[:60]!r}"
    return None


def _about(content: bytes) -> dict:
    """The metadata in the bytes of a safetensors file, which the library reads only from a path."""
    return json.loads(_file_header(content)["__metadata__"]["about"])


def _file_header(content: bytes) -> dict:
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])
