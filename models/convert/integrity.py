"""Whether weights are as they were written: checksums of zip archives, of sharded folders and beside an export.

A flipped bit in a weight is a valid number: no reader notices it without a checksum. torch writes zip archives with a
CRC-32 of each record, which its own reader does not compare; our sharded folders have a manifest. safetensors and
torch's older format have no checksum; exports of ours have a SHA256SUMS, in the form of `sha256sum -c SHA256SUMS`.
"""

import json
import zipfile
import zlib
from pathlib import Path

from models.fetch import sha256

SUMS = "SHA256SUMS"
MANIFEST = "whole.json"  # of a sharded folder: size and CRC-32 of every file; written last
_BLOCK = 1 << 22  # bytes read at a time
_CODE_BYTES = 1 << 28  # of the program in a TorchScript archive


def require_undamaged(file: Path) -> None:
    """Compare a file with its checksums, where there are any.

    Raises:
        ValueError: it is damaged; the message names it.
    """
    if is_zip(file):
        reason = zip_damage(file)
        if reason is not None:
            raise ValueError(f"{file} is cut or damaged: {reason}")
    wanted = _written_sum(file)
    if wanted is not None and sha256(file) != wanted:
        raise ValueError(
            f"{file} is damaged: its SHA-256 is not the one in {SUMS} beside it (if you replaced the file on purpose, "
            "delete its line there)"
        )


def is_zip(file: Path) -> bool:
    """Whether a file begins as a zip archive."""
    with file.open("rb") as stream:
        return stream.read(2) == b"PK"


def zip_damage(file: Path) -> str | None:
    """Why a zip archive is not as it was written; None: every record has the CRC-32 that was written with it."""
    try:
        with zipfile.ZipFile(file) as archive:
            if reason := oversized(archive, file.stat().st_size):
                return reason
            record = archive.testzip()
            # One flipped bit in the archive's table makes a record a folder, which torch would read as zeros.
            if record is None:
                record = next((each.filename for each in archive.infolist() if each.external_attr & 0x10), None)
    except Exception as error:  # zipfile raises many types for damaged archives
        return f"it is no whole zip archive ({type(error).__name__}: {error})"
    return None if record is None else f"its record {record} has another checksum than when it was written"


def oversized(archive: zipfile.ZipFile, size: int) -> str | None:
    """Why the records of a zip archive cannot be of `torch.save`; None: they are stored as they are, each once.

    A compressed record claims up to a thousand times its bytes, and records may share theirs.

    Args:
        size: bytes of the file.
    """
    plain, code = 0, 0
    names: set[str] = set()
    for record in archive.infolist():
        if "/code/" in record.filename:  # of a TorchScript program, which is not run
            code += record.file_size
            continue
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            return f"its record {record.filename} is compressed, which torch's are not"
        if record.filename.lower() in names:  # torch's reader does not tell capitals from small letters
            return f"it holds two records {record.filename}"
        names.add(record.filename.lower())
        plain += record.file_size
    if plain > size or code > max(size, _CODE_BYTES):
        return f"its records claim {plain + code} bytes, and the file has {size}"
    return None


def is_complete_folder(path: Path) -> bool:
    """Whether every file of a sharded folder's manifest exists with the size and the checksum that were written."""
    try:
        if not (path / MANIFEST).is_file():  # a pipe would be waited for without end
            return False
        manifest = json.loads((path / MANIFEST).read_text())
        return all(
            _is_inside(path, name) and (path / name).stat().st_size == size and crc32(path / name) == checksum
            for name, (size, checksum) in manifest.items()
        )
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return False


def _is_inside(folder: Path, name: str) -> bool:
    """Whether a manifest's name is that of a regular file below its folder."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts and (folder / name).is_file()


def crc32(file: Path) -> int:
    """The CRC-32 of a file's content."""
    checksum = 0
    with file.open("rb") as stream:
        while block := stream.read(_BLOCK):
            checksum = zlib.crc32(block, checksum)
    return checksum


def refusal(error: Exception) -> str:
    """Why torch's reader of weights only refused a file, without its advice to read the file by other means."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = next((line for line in lines if "GLOBAL" in line), lines[0] if lines else type(error).__name__)
    return reason.partition("Please use")[0].strip()


def _written_sum(file: Path) -> str | None:
    """The SHA-256 that SHA256SUMS in the file's folder states for it; None: it states none."""
    sums = file.parent / SUMS
    if not sums.is_file():
        return None
    lines = (line.partition("  ") for line in sums.read_text(encoding="utf-8", errors="replace").splitlines())
    return next((digest for digest, _, name in lines if name == file.name), None)
