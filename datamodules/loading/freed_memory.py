"""Keeps freed memory in the process: frames come and go, and fresh pages cost as much as scaling them."""

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_KEPT = 2**28  # bytes of freed memory that stay
_ONE = 2**25  # a larger piece is returned at once; the most that glibc allows, and a frame of 4K


def keep_freed_memory() -> bool:
    """Tells the C library to use freed memory again instead of returning it; False if it is not glibc.

    By default the frames of a video go back to the system when it is closed, and those of the next one get new pages.
    """
    tune = getattr(ctypes.CDLL(None), "mallopt", None)
    return tune is not None and all([tune(_MMAP_THRESHOLD, _ONE), tune(_TRIM_THRESHOLD, _KEPT)])
