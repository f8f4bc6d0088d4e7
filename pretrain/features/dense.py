"""Dense features of whole videos: an .npy file per video with a row per window, complete or absent.

FOLDER/dense.json           the settings: model, weights, windows; a folder holds features of one setting only
FOLDER/sub/NAME.npy         float32 [n, D] of the video sub/NAME.mp4
FOLDER/sub/NAME.json        its frame rate, frames, window and step, and the middle of each window in seconds
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from datamodules.decoding.endings import VIDEO_SUFFIXES
from datamodules.decoding.images import IMAGE_SUFFIXES
from datamodules.loading.survey import VideoInfo
from datamodules.storage.json_text import Damaged, json_text, printable, read_json
from datamodules.storage.whole_files import DRAFTS, whole_file, write_whole

log = logging.getLogger(__name__)

_SETTINGS_FILE = "dense.json"
_IRRELEVANT = ("optim", "metrics", "weights", "seed", "global_batch", "recompute", "compile")  # of the model's settings
_CLIP = ("frames", "stride", "size", "window_step", "view", "decoder")


class DenseFolder:
    """A folder of features and the settings that they depend on.

    Args:
        folder: created if it does not exist.
        settings: see `feature_settings`.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        self.folder, self.settings = folder, json.loads(json.dumps(settings, default=str))
        self.digest = hashlib.blake2b(json.dumps(self.settings, sort_keys=True).encode(), digest_size=8).hexdigest()

    def open(self) -> None:
        """Write the settings into the folder, and remove what killed writers left; called by the holder of its lock.

        Damaged settings are written anew, as each video's file names those that it was made with.

        Raises:
            MisconfigurationException: the folder holds features of other settings.
        """
        for draft in self.folder.rglob(DRAFTS):
            draft.unlink()
        file, old = self.folder / _SETTINGS_FILE, None
        if file.is_file():
            try:
                old = _object(file)
            except Damaged as error:
                log.warning("%s: it is written anew", error)
        if old is not None:
            changed = [key for key in self.settings if old.get(key) != self.settings[key]]
            if changed:
                raise MisconfigurationException(
                    f"{self.folder} holds dense features made with other settings ({', '.join(changed)}; see {file}): "
                    "use those, choose another folder by --features.folder, or delete this one"
                )
            return
        if not file.is_file() and any(self.folder.rglob("*.npy")):
            raise MisconfigurationException(
                f"{self.folder} holds .npy files but no {_SETTINGS_FILE} that describes them: choose another folder by "
                "--features.folder"
            )
        write_whole(file, json_text(self.settings, indent=1) + "\n")

    def path(self, name: str) -> Path:
        """The file of a video's features, in the subfolders of its name; never outside the folder."""
        parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
        last = parts[-1] if parts else "video"
        stem, suffix = os.path.splitext(last)
        parts[-1:] = [stem if suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES else last]
        return self.folder.joinpath(*parts[:-1], f"{parts[-1]}.npy")

    def is_done(self, name: str) -> bool:
        """Whether a video is finished; one whose file or description is damaged is not.

        Raises:
            MisconfigurationException: the file is of another video or other settings.
        """
        file = self.path(name)
        if not file.is_file():
            return False
        about = file.with_suffix(".json")
        if not about.is_file():
            raise MisconfigurationException(f"{file} exists, but {about.name} that describes it does not: delete it")
        try:
            found = _object(about, name=str, settings=str, seconds=list)
        except Damaged as error:
            log.warning("%s: the features of %s are made again", error, printable(name))
            return False
        if found["name"] != name:
            raise MisconfigurationException(_clash(file, found["name"], name))
        if found["settings"] != self.digest:
            raise MisconfigurationException(f"{file} was made with other settings: delete it, or choose another folder")
        if not _is_whole(file, len(found["seconds"])):
            log.warning("%s is cut off or damaged: the features of %s are made again", file, printable(name))
            return False
        return True

    def check_names(self, names: Iterable[str]) -> None:
        """MisconfigurationException if two videos would share a file."""
        owners: dict[Path, str] = {}
        for name in names:
            owner = owners.setdefault(self.path(name), name)
            if owner != name:
                raise MisconfigurationException(_clash(self.path(name), owner, name))


def _object(file: Path, **entries: type) -> dict[str, Any]:
    """A JSON object with entries of these kinds; `Damaged` if the file holds anything else."""
    found = read_json(file)
    if not isinstance(found, dict) or not all(isinstance(found.get(name), kind) for name, kind in entries.items()):
        raise Damaged(f"{file} does not hold what was written")
    return found


def _is_whole(file: Path, rows: int) -> bool:
    """Whether an .npy file holds all the rows that it should."""
    try:
        return len(np.load(file, mmap_mode="r", allow_pickle=False)) == rows
    except (OSError, ValueError, EOFError, TypeError):  # TypeError: it is a single number
        return False


def _clash(file: Path, one: str, other: str) -> str:
    return f"{one} and {other} would both go to {file}: rename one, or put them into different folders"


class DenseWriter:
    """Writes the rows of one rank as they arrive, video after video, without keeping them in memory.

    Args:
        folder: where the files go.
        output: name of the model's output to write.
        windows: the number of windows of a video.
    """

    def __init__(
        self, folder: DenseFolder, output: str, videos: list[VideoInfo], windows: Callable[[VideoInfo], int]
    ) -> None:
        self.folder, self.output = folder, output
        self.videos, self.windows = {video.number: video for video in videos}, windows
        self.video: VideoInfo | None = None  # whose file is open
        self.written = 0

    def add(self, window: Tensor, outputs: dict[str, Tensor]) -> None:
        """Write the rows of a batch: `window` int64 [B, 3], as `Windows` returns it, and the outputs [B, D]."""
        if self.output not in outputs:
            raise MisconfigurationException(
                f"the model predicts {', '.join(outputs)}, and no {self.output!r}: name one by --features.outputs"
            )
        rows = outputs[self.output]
        if rows.ndim != 2:
            raise MisconfigurationException(
                f"`{self.output}` has the shape {list(rows.shape[1:])} per window, and dense features are vectors"
            )
        values = rows.float().cpu().numpy()
        for (video_number, window_number, middle), row in zip(window.cpu().tolist(), values, strict=True):
            if self.video is None or video_number != self.video.number:
                self.close()
                self._open(self.videos[video_number], len(row))
            if window_number == len(self.middles):  # else an earlier window was unreadable: the video is incomplete
                self.draft.write(row.tobytes())
                self.middles.append(middle)

    def _open(self, video: VideoInfo, width: int) -> None:
        self.video, self.middles = video, []
        self.file = self.folder.path(video.name)
        self.writing = ExitStack()  # leaves the draft in place of the file, or removes it
        self.draft = self.writing.enter_context(whole_file(self.file, "wb"))
        shape = self.windows(video), width
        header = {"descr": np.dtype(np.float32).str, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self.draft, header)

    def close(self) -> None:
        """Finish the open video: its files appear if all of its windows have arrived."""
        video, self.video = self.video, None
        if video is None:
            return
        with suppress(_Incomplete), self.writing:
            if len(self.middles) != self.windows(video):
                raise _Incomplete
            about = json_text(self._describe(video)) + "\n"
            write_whole(self.file.with_suffix(".json"), about)  # first: features without it would not be known
            self.written += 1

    def _describe(self, video: VideoInfo) -> dict[str, Any]:
        settings = self.folder.settings
        frames, stride = (settings["clip"][key] for key in ("frames", "stride"))
        return {
            "name": video.name,
            "fps": video.fps or None,
            "frames": video.frames,
            "window": frames,
            "stride": stride,
            "step": settings["clip"]["window_step"],
            "repeats the last frame": video.frames < (frames - 1) * stride + 1,
            "settings": self.folder.digest,
            "seconds": [round(middle / 1e6, 6) if middle >= 0 else None for middle in self.middles],
        }


class _Incomplete(Exception):
    """A window of the video could not be read: its draft is removed."""


def feature_settings(recipe: dict[str, Any], output: str, precision: str, model: nn.Module) -> dict[str, Any]:
    """What dense features depend on: the model, a fingerprint of its weights, the precision, and the windows.

    Args:
        recipe: the `model` and `data` parts of the resolved recipe.
    """
    parts = {part: recipe.get(part) or {} for part in ("model", "data")}
    model_args, data_args = (part.get("init_args") or {} for part in parts.values())
    return {
        "model": {**parts["model"], "init_args": {k: v for k, v in model_args.items() if k not in _IRRELEVANT}},
        "weights": fingerprint(model),
        "clip": {key: data_args.get(key) for key in _CLIP},
        "output": output,
        "precision": precision,
    }


def fingerprint(model: nn.Module, samples: int = 256) -> str | None:
    """A hash of the weights, of about `samples` values per tensor; None if the model is sharded."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in sorted(model.state_dict().items()):
        if hasattr(tensor, "to_local") or tensor.is_meta:
            return None
        values = tensor.detach().flatten()
        values = values[:: max(1, len(values) // samples)].double().cpu().numpy()
        digest.update(name.encode() + values.tobytes())
    return digest.hexdigest()
