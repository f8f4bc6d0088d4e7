"""Latents in shards: the moments of a VAE's posterior and the states of a text encoder, made once by tools/latents.py.

A folder holds shards as `Shards` reads them, with a safetensors file instead of each video, and `latents.json`: the
settings and encoders of all samples, and their sizes. Letters: `C` channels of a latent, `T x h x w` its grid, `K`
captions, `L` tokens of a caption, `D` width of a text state.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.decoding.contract import DecodeError
from datamodules.sources.files import check_size
from datamodules.sources.remote import Store
from datamodules.sources.shards import Shards
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
        DecodeError: the bytes are damaged.
        ValueError: other encoders made it; the folder is a mixture.
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
        raise ValueError(
            f"{name} was made by the encoders {made_by}, and its folder says {encoders}: the folder is a "
            f"mixture. {REMEDY}"
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
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["about"])
