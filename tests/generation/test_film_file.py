"""Writing films: the same frames give the same bytes."""

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest

from pretrain.generation.film_file import write_film

_M_PERTURB = -6  # of glibc's malloc.h: new memory is filled with the complement of this byte


@pytest.mark.skipif(sys.platform != "linux", reason="only glibc fills new memory on demand")
def test_the_bytes_do_not_depend_on_what_memory_held_before(tmp_path: Path) -> None:
    """Noise on blocks, so that the encoder has much to decide between frames."""
    drawn = np.random.RandomState(0)
    blocks = drawn.randint(90, 160, (9, 8, 8, 3)).repeat(8, 1).repeat(8, 2)
    frames = np.clip(blocks + drawn.randint(-20, 20, blocks.shape), 0, 255).astype(np.uint8)
    glibc, films = ctypes.CDLL(None), set()
    try:
        for fill in (85, 170, 255):
            assert glibc.mallopt(_M_PERTURB, fill)
            write_film(tmp_path / "film.mp4", frames, (64, 64), 24.0)
            films.add((tmp_path / "film.mp4").read_bytes())
    finally:
        glibc.mallopt(_M_PERTURB, 0)
    assert len(films) == 1
