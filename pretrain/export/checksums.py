"""Writes SHA256SUMS beside an export: `load_weights` compares it, and so does `sha256sum -c SHA256SUMS`."""

from pathlib import Path

from datamodules.storage.whole_files import write_whole
from models.convert.integrity import SUMS
from models.fetch import sha256


def write_checksums(folder: Path) -> None:
    """Write the sums of all files in each folder of an export, into that folder."""
    for place in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        files = sorted(file for file in place.iterdir() if file.is_file() and file.name != SUMS)
        if files:
            write_whole(place / SUMS, "".join(f"{sha256(file)}  {file.name}\n" for file in files))
