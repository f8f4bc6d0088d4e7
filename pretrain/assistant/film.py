"""Films and pictures that are pointed at: which files may be read, and opening them."""

import math
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from datamodules.decoding.contract import DecodeError, Video
from datamodules.decoding.limits import Limits as FileLimits
from datamodules.decoding.reader import Decoder, PyAV
from pretrain.assistant.artefacts import Artefact, Session

# Of films that somebody else may have made: a frame of 4K, 32 frames of which are 800 MB.
LIMITS = FileLimits(frame_pixels=2**23 + 2**20, clip_bytes=2**30, frames=2**19)


@dataclass(frozen=True)
class Film:
    """What was loaded. frames: 1 for a picture; fps: 0 if unknown; size: (height, width) in pixels; times: when each
    frame is shown, and the end of the last one, in seconds; None: at `fps`."""

    artefact: str
    name: str
    frames: int
    fps: float
    size: tuple[int, int]
    times: np.ndarray | None = field(default=None, compare=False, repr=False)

    def seconds(self, frame: int) -> float:
        """When a frame is shown, from the first one on; the end for the one after the last. At 25 frames a second
        where the rate is unknown."""
        return frame / (self.fps or 25.0) if self.times is None else float(self.times[frame])


def allowed(path: str | Path, folders: Sequence[Path]) -> Path:
    """The real path of a file in one of the folders.

    Raises:
        ValueError: it lies in none, also by way of a link, or is no file; the message tells nothing of other places.
    """
    text = os.fspath(path)
    if "\0" in text or "://" in text:
        raise ValueError("only files are loaded, by their path: addresses are not fetched")
    real = Path(os.path.realpath(text))
    if not any(real.is_relative_to(os.path.realpath(folder)) for folder in folders):
        named = ", ".join(str(folder) for folder in folders) or "none is"
        raise ValueError(f"{Path(text).name} lies in no folder that may be read (allowed: {named})")
    if not real.is_file():
        raise ValueError(f"{Path(text).name}: there is no such file")
    return real


def load_film(path: str | Path, session: Session, folders: Sequence[Path], copy: bool, decoder: Decoder) -> Artefact:
    """A film or picture as an artefact of a session.

    Raises:
        ValueError: it may not be read, cannot be decoded, or is above a limit.
    """
    real = allowed(path, folders)
    with open_film(real, decoder) as video:
        kind, about = ("film" if len(video) > 1 else "picture"), real.name
    if not copy:
        return session.refer(kind, real, about=about)
    room = session.limits.bytes - session.used()
    if real.stat().st_size > room:
        raise ValueError(f"{about} does not fit into the session, which has {max(room, 0) / 2**20:.0f} MiB left")
    suffix = real.suffix.lower() if real.suffix[1:].isalnum() and len(real.suffix) <= 9 else ".film"
    suffix = suffix if suffix.isascii() else ".film"
    return session.add(kind, suffix, lambda place: shutil.copyfile(real, place), tool="load", about=about)


def open_film(path: Path, decoder: Decoder | None = None) -> Video:
    """An open film, whose first frame is known to be whole.

    Raises:
        ValueError: it cannot be decoded.
    """
    with decoded():
        video = (decoder or PyAV(limits=LIMITS)).open(str(path))
        try:
            video.frames([0])
        except DecodeError:
            video.close()
            raise
    return video


@contextmanager
def decoded() -> Iterator[None]:
    """A frame that cannot be decoded within the block becomes a ValueError, which says so."""
    try:
        yield
    except DecodeError as error:
        raise ValueError(f"{Path(error.name).name} cannot be decoded: {error.reason}") from None


def about_film(artefact: Artefact, video: Video) -> Film:
    """What the page shows of an open film."""
    fps = video.fps if math.isfinite(video.fps) and video.fps > 0 and len(video) > 1 else 0.0
    times = np.append(video.seconds(np.arange(len(video))), video.ends([len(video) - 1]))
    known = None if np.isnan(times).any() else times
    return Film(artefact.id, artefact.about or artefact.path.name, len(video), fps, video.size, known)
