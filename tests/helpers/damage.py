"""Damage for tests: one bit of a file flips, as it does on a failing disk."""

import zipfile
from pathlib import Path


def flip_bit(file: Path) -> None:
    """Flip one bit in the middle of a file; of a zip archive, in the middle of its largest record."""
    place = file.stat().st_size // 2
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            record = max(archive.infolist(), key=lambda each: each.file_size)
        place = record.header_offset + 30 + len(record.filename) + record.file_size // 2
    content = bytearray(file.read_bytes())
    content[place] ^= 0x40
    file.write_bytes(content)
