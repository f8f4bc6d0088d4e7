"""Dense features of whole videos: a row a window in one .npy file a video, written whole or not at all, and never
mixed with those of another model or of other windows.

    FOLDER/dense.json           what the features are of: model, weights, windows
    FOLDER/sub/NAME.npy         float32 [n, D] of the video sub/NAME.mp4
    FOLDER/sub/NAME.json        its frame rate, frames, window and step, and the second that each window's middle is at
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import numpy as np
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from datamodules.decoding.images import IMAGE_SUFFIXES
from datamodules.loading.survey import VideoInfo
from datamodules.sources.files import VIDEO_SUFFIXES

_ABOUT = "dense.json"
# Of the model's and the data's settings: what changes no feature, and what makes one.
_NO_MATTER = ("optim", "metrics", "weights", "seed", "global_batch", "recompute", "compile")
_CLIP = ("frames", "stride", "size", "window_step", "view", "decoder")


class DenseFolder:
    """Where features of many videos lie, and what they are of.

    Args:
        folder: made where there is none.
        settings: what features depend on; those of another folder, or of an earlier run, may differ.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, json.loads(json.dumps(settings, default=str))
        self.digest = hashlib.blake2b(json.dumps(self.settings, sort_keys=True).encode(), digest_size=8).hexdigest()

    def open(self) -> None:
        """Says in the folder what its features are of. MisconfigurationException if it holds others."""
        file = self.folder / _ABOUT
        if file.is_file():
            old = json.loads(file.read_text(encoding="utf-8"))
            other = [key for key in self.settings if old.get(key) != self.settings[key]]
            if other:
                raise MisconfigurationException(
                    f"{self.folder} holds dense features made with other settings ({', '.join(other)}; see {file}): "
                    "repeat those, choose another folder by --features.folder, or delete this one"
                )
            return
        if any(self.folder.rglob("*.npy")):
            raise MisconfigurationException(
                f"{self.folder} holds .npy files and no {_ABOUT} that says what they are: choose another folder by "
                "--features.folder"
            )
        _write(file, json.dumps(self.settings, indent=1, ensure_ascii=False) + "\n")

    def place(self, name: str) -> Path:
        """The file of a video's features: the folders of its name, without what leads out of here."""
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
        last = parts[-1] if parts else "video"
        stem, suffix = os.path.splitext(last)
        parts[-1:] = [stem if suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES else last]
        return self.folder.joinpath(*parts[:-1], f"{parts[-1]}.npy")

    def holds(self, name: str) -> bool:
        """Whether a video is done. MisconfigurationException if the file is another video's, or of other settings."""
        file = self.place(name)
        if not file.is_file():
            return False
        about = file.with_suffix(".json")
        if not about.is_file():
            raise MisconfigurationException(f"{file} is there, and {about.name} that says what it is not: delete it")
        found = json.loads(about.read_text(encoding="utf-8"))
        if found["name"] != name:
            raise MisconfigurationException(_clash(file, found["name"], name))
        if found["settings"] != self.digest:
            raise MisconfigurationException(f"{file} was made with other settings: delete it, or choose another folder")
        return True

    def check_names(self, names: Iterable[str]) -> None:
        """MisconfigurationException if two videos would share a file."""
        owners: dict[Path, str] = {}
        for name in names:
            owner = owners.setdefault(self.place(name), name)
            if owner != name:
                raise MisconfigurationException(_clash(self.place(name), owner, name))


def _clash(file: Path, one: str, other: str) -> str:
    return f"{one} and {other} would both go to {file}: rename one, or put them into different folders"


class DenseWriter:
    """Takes the rows of one rank as they come, a video after the other, and keeps none of them.

    Args:
        place: which outputs go where.
        output: which of the model's outputs.
        windows: how many each video has.
    """

    def __init__(self, place: DenseFolder, output: str, videos: list[VideoInfo], windows: Callable[[VideoInfo], int]):
        self.place, self.output = place, output
        self.videos, self.windows = {video.number: video for video in videos}, windows
        self.now: VideoInfo | None = None
        self.written = 0

    def add(self, place: Tensor, outputs: dict[str, Tensor]) -> None:
        """Rows of a batch: `place` int64 [B, 3], as `Windows` gives it, and the outputs [B, D]."""
        if self.output not in outputs:
            raise MisconfigurationException(
                f"the model predicts {', '.join(outputs)}, and no {self.output!r}: name one by --features.outputs"
            )
        rows = outputs[self.output]
        if rows.ndim != 2:
            raise MisconfigurationException(
                f"`{self.output}` is {list(rows.shape[1:])} a window; dense features are rows"
            )
        values = rows.float().cpu().numpy()
        for (number, window, middle), row in zip(place.cpu().tolist(), values, strict=True):
            if self.now is None or number != self.now.number:
                self.close()
                self._begin(self.videos[number], len(row))
            if window == len(self.middles):  # else one before it could not be read, and the video is given up
                self.draft.write(row.tobytes())
                self.middles.append(middle)

    def _begin(self, video: VideoInfo, width: int) -> None:
        self.now, self.middles = video, []
        self.file = self.place.place(video.name)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.draft: BinaryIO = open(self.file.with_name(f".{self.file.name}.draft"), "wb")  # noqa: SIM115
        shape = self.windows(video), width
        about = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.draft, about)

    def close(self) -> None:
        """Ends the video that is under way: its files appear if all of its windows have come."""
        video, self.now = self.now, None
        if video is None:
            return
        whole = len(self.middles) == self.windows(video)
        if whole:
            self.draft.flush()
            os.fsync(self.draft.fileno())
        self.draft.close()
        if not whole:
            Path(self.draft.name).unlink()
            return
        settings = self.place.settings
        frames, stride = (settings["clip"][key] for key in ("frames", "stride"))
        about = {
            "name": video.name,
            "fps": video.fps or None,
            "frames": video.frames,
            "window": frames,
            "stride": stride,
            "step": settings["clip"]["window_step"],
            "repeats the last frame": video.frames < (frames - 1) * stride + 1,
            "settings": self.place.digest,
            "seconds": [round(middle / 1e6, 6) if middle >= 0 else None for middle in self.middles],
        }
        _write(self.file.with_suffix(".json"), json.dumps(about, ensure_ascii=False) + "\n")
        Path(self.draft.name).replace(self.file)
        self.written += 1


def settings_of(recipe: dict[str, Any], output: str, precision: str, model: nn.Module) -> dict[str, Any]:
    """What dense features depend on: the model, a fingerprint of its weights, its numbers, and how windows are cut.

    Args:
        recipe: the `model` and `data` parts of the resolved recipe.
    """
    parts = {part: recipe.get(part) or {} for part in ("model", "data")}
    model_args, data_args = (part.get("init_args") or {} for part in parts.values())
    return {
        "model": {**parts["model"], "init_args": {k: v for k, v in model_args.items() if k not in _NO_MATTER}},
        "weights": fingerprint(model),
        "clip": {key: data_args.get(key) for key in _CLIP},
        "output": output,
        "precision": precision,
    }


def fingerprint(model: nn.Module, look: int = 256) -> str | None:
    """A number that tells two sets of weights apart, of `look` values a tensor, wherever the file lies; None of a model
    that is in parts."""
    found = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        if hasattr(tensor, "to_local") or tensor.is_meta:
            return None
        values = tensor.detach().flatten()
        values = values[:: max(1, len(values) // look)].double().cpu().numpy()
        found.update(name.encode() + values.tobytes())
    return found.hexdigest()


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)
