"""The zip that VBench's leaderboard takes: the result files of a run."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

from datamodules.storage.whole_files import whole_path


def write_zip(path: Path, files: Sequence[Path]) -> Path:
    """Write a zip of files under their own names, whole or not at all."""
    with whole_path(path) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.write(file, file.name)
    return path
