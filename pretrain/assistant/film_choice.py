"""The films that a page offers: files in the folders that it may read, by names that it gives them, and uploads."""

import os
import re
import secrets
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".gif"),
    *(".png", ".jpg", ".jpeg", ".webp", ".bmp"),
)
_MOST = 500  # films in the list; further ones need a folder of their own


@dataclass(frozen=True)
class FilmChoice:
    """Which files a page may read.

    Args:
        folders: of films; what lies in them is offered, what links lead out of them is not.
        uploads: the folder that uploads pass through on their way into a session.
        upload_bytes: of one upload.
    """

    folders: tuple[Path, ...]
    uploads: Path
    upload_bytes: int = 2**29
    listed: dict[str, Path] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Names of the films, `FOLDER/FILE` each, in order; the first 500."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            root = Path(os.path.realpath(folder))
            for place, inner, files in os.walk(root):
                inner.sort()
                for file in sorted(files):
                    path = Path(place, file)
                    inside = Path(os.path.realpath(path)).is_relative_to(root)
                    if path.suffix.lower() in SUFFIXES and inside and len(found) < _MOST:
                        found.setdefault(_printable(f"{root.name}/{path.relative_to(root)}"), path)
        self.listed.clear()
        self.listed.update(found)
        return list(found)

    def path(self, name: str) -> Path:
        """The file of a name in the list. ValueError: the list has none."""
        if name not in self.listed:
            self.names()
        if name not in self.listed:
            raise ValueError("there is no such film in the folders that may be read")
        return self.listed[name]

    async def receive(self, name: str, content: AsyncIterator[bytes]) -> Path:
        """Write an upload to a new folder of `uploads`; whoever loads it deletes that by `drop`.

        Args:
            name: that the browser gives; only letters, digits and a few signs of it are used.

        Raises:
            ValueError: it is empty or too large; nothing is left of it.
        """
        path = self.uploads / secrets.token_hex(8) / safe_name(name)
        path.parent.mkdir(parents=True)
        try:
            size = 0
            with open(path, "xb") as file:
                async for piece in content:
                    size += len(piece)
                    if size > self.upload_bytes:
                        raise ValueError(f"an upload has at most {self.upload_bytes / 2**20:.0f} MiB")
                    file.write(piece)
            if not size:
                raise ValueError("the upload is empty")
        except BaseException:
            self.drop(path)
            raise
        return path

    @staticmethod
    def drop(path: Path) -> None:
        """Delete what `receive` wrote."""
        shutil.rmtree(path.parent, ignore_errors=True)


def safe_name(name: str) -> str:
    """A file name of plain letters that leads nowhere else: `../a b?.mp4` becomes `a b_.mp4`."""
    last = re.split(r"[/\\]", name)[-1]
    plain = re.sub(r"[^A-Za-z0-9 ._-]", "_", last).strip(" .")
    stem, dot, suffix = plain.rpartition(".")
    return f"{stem[:60]}.{suffix[:8]}" if dot else plain[:60] if plain.strip("_") else "upload"


def _printable(name: str) -> str:
    """A name that is no UTF-8 as one that a page can show."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def offered(folders: Sequence[str | Path]) -> tuple[Path, ...]:
    """The folders, if they are there. FileNotFoundError: one is not."""
    for folder in folders:
        if not os.path.isdir(folder):
            raise FileNotFoundError(f"no folder {folder} of films")
    return tuple(Path(folder) for folder in folders)
