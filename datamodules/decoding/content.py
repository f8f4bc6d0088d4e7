"""The content of a file, which is given as its path or as its bytes."""

import io
import os
from typing import BinaryIO


def opened(content: str | bytes, buffer: int = -1) -> BinaryIO:
    """A stream of it. buffer: bytes that are read at a time from a path; -1: as Python does."""
    return open(content, "rb", buffer) if isinstance(content, str) else io.BytesIO(content)


def size_of(content: str | bytes) -> int:
    """Its bytes; OSError if there is no such file."""
    return os.path.getsize(content) if isinstance(content, str) else len(content)
