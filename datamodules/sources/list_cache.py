"""The columns of a very long list, parsed once on a machine: the processes of all devices map the same memory."""

import hashlib
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from datamodules.sources.list_columns import Columns
from datamodules.sources.source import Strings
from datamodules.storage.lock import InUse, lock_file
from datamodules.storage.whole_files import whole_folder

log = logging.getLogger(__name__)

FOLDER = Path("~/.cache/tubelet/lists")
_LONG = 2**27  # bytes of a list from which on its columns are shared
_WAIT = 600.0  # seconds for another process that parses the same list
_ARRAYS = ("paths", "path_ends", "texts", "text_ends", "labels")


def shared_columns(path: Path, parse: Callable[[], Columns | None]) -> Columns | None:
    """What `parse` makes of a list; of a very long one, from a file that the first process has written.

    The file belongs to the list as it is now: of another date, size or place it is made again, and the old one deleted.
    """
    status = path.stat()
    if status.st_size < _LONG:
        return parse()
    name, version = _digest(os.path.realpath(path)), _digest(status.st_size, status.st_mtime_ns, status.st_ino)
    place = FOLDER.expanduser() / f"{name}-{version}"
    try:
        with lock_file(place, _WAIT):
            if not place.is_dir():
                columns = parse()
                if columns is None:
                    return None
                for old in place.parent.glob(f"{name}-*"):
                    shutil.rmtree(old, ignore_errors=True)
                _write(place, columns)
        return _mapped(place)
    except (OSError, InUse, ValueError) as error:  # a full disk, no home, a damaged file
        log.warning("%s: its columns are not shared with other processes (%s)", path, error)
        return parse()


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _write(place: Path, columns: Columns) -> None:
    paths, texts = columns.paths, columns.texts
    arrays = paths.data, paths.offsets, texts.data, texts.offsets, columns.labels
    with whole_folder(place) as draft:
        for name, array in zip(_ARRAYS, arrays, strict=True):
            np.save(draft / f"{name}.npy", array)


def _mapped(place: Path) -> Columns:
    paths, path_ends, texts, text_ends, labels = (
        np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in _ARRAYS
    )
    strings = Strings.joined(paths, path_ends), Strings.joined(texts, text_ends)
    return Columns(*strings, labels, int((np.diff(text_ends) > 0).sum()))
