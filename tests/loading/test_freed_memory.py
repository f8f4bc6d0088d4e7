"""Workers use freed memory again: frames that come and go take no new pages."""

import ctypes
import platform
import resource

import pytest

from datamodules.loading.freed_memory import keep_freed_memory
from tests.helpers.own_process import own_process

_FRAMES, _BYTES = 200, 2**20


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
@own_process
def test_memory_that_is_freed_is_used_again() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )

    def faults() -> int:
        """Of pages, while the frames of a video come and go."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        frames = [libc.malloc(_BYTES) for _ in range(_FRAMES)]
        for frame in frames:
            ctypes.memset(frame, 1, _BYTES)
        for frame in frames:
            libc.free(frame)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    for setting in (-1, -3):  # glibc's own, as an earlier test of this process may have set others
        assert libc.mallopt(setting, 2**17)
    faults()
    by_default = faults()
    assert keep_freed_memory()
    faults()
    assert faults() < by_default / 10
