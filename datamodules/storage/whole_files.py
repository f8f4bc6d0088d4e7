"""Writes a file or a folder whole or not at all: a draft beside it is synced to the disk and then renamed.

A draft is named `.NAME.RANDOM.draft`, so that no two writers share one. Permissions follow the umask, also of files
that libraries create for their owner only (safetensors does).
"""

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import IO, Any

DRAFTS = ".*.draft"  # what drafts of killed writers are found by
_NAME = 200  # characters of a name that its draft keeps: a file name has at most 255 bytes


@contextmanager
def whole_file(path: str | Path, mode: str = "w", newline: str | None = None) -> Iterator[IO[Any]]:
    """Opens a draft of `path`, which takes its place after the block, or is removed if the block raises.

    Text is UTF-8, and names of files that are not UTF-8 (Python's surrogate escapes) are written as their bytes. A
    path that is no regular file, such as /dev/stdout, is written directly.

    Args:
        path: its folder is made if needed; the target of a symbolic link is replaced, not the link.
        mode: "w" or "wb".
        newline: as for `open`.
    """
    encoding, errors = (None, None) if "b" in mode else ("utf-8", "surrogateescape")
    with (
        nullcontext(path) if _is_special(path) else whole_path(path) as place,
        open(place, mode, encoding=encoding, errors=errors, newline=newline) as stream,
    ):
        yield stream


@contextmanager
def whole_path(path: str | Path) -> Iterator[Path]:
    """As `whole_file`, for libraries that write to a path: yields the path of the empty draft."""
    path = Path(os.path.realpath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft_of(path)
    with open(draft, "xb") as stream:
        permissions = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)  # what the umask leaves
    try:
        yield draft
        _finish(draft, permissions)
        os.replace(draft, path)
    except BaseException:
        with suppress(OSError):  # a disk that became read-only
            draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def whole_folder(path: str | Path) -> Iterator[Path]:
    """Yields an empty draft of a folder, which takes the place of `path` after the block.

    Raises:
        OSError: `path` is neither absent nor an empty folder at the end; the draft is removed.
    """
    path = Path(os.path.abspath(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft_of(path)
    draft.mkdir()
    permissions = stat.S_IMODE(draft.stat().st_mode) & 0o666
    try:
        yield draft
        for place, _, files in os.walk(draft):
            for file in files:
                _finish(Path(place, file), permissions)
            sync_folder(Path(place))
        os.rename(draft, path)  # replaces an empty folder, and no other
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise
    sync_folder(path.parent)


def write_whole(path: str | Path, content: str | bytes) -> None:
    """Writes a file at once, see `whole_file`."""
    is_text = isinstance(content, str)
    with whole_file(path, "w" if is_text else "wb", newline="" if is_text else None) as stream:
        stream.write(content)


def remove_drafts(folder: Path) -> None:
    """Removes the drafts that killed writers left in a folder; only for the holder of its lock."""
    for draft in folder.glob(DRAFTS):
        shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Syncs the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _draft_of(path: Path) -> Path:
    name = os.fsencode(path.name)[:_NAME].decode("utf-8", "surrogateescape")
    return path.with_name(f".{name}.{secrets.token_hex(4)}.draft")


def _finish(file: Path, permissions: int) -> None:
    """Gives a written file its permissions, besides the right to execute, and syncs it."""
    with open(file, "rb") as stream:
        mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
        if mode & 0o666 != permissions & 0o666:
            os.fchmod(stream.fileno(), mode & 0o111 | permissions & 0o666)
        os.fsync(stream.fileno())


def _is_special(path: str | Path) -> bool:
    """Whether something other than a regular file stands there: a device, a pipe."""
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except FileNotFoundError:
        return False
