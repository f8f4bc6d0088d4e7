"""Tells a watchdog that a slow read makes progress, so that it is not taken for one that hangs."""

import time
from collections.abc import Callable

_report: Callable[[], None] | None = None  # of this process


def listen(report: Callable[[], None]) -> None:
    """Calls `report` whenever a read has made progress."""
    global _report
    _report = report


def advance() -> None:
    """Reports that a read goes on: bytes have come, or another attempt begins."""
    if _report is not None:
        _report()


def sleep(seconds: float) -> None:
    """Sleeps for a stated time, and reports progress meanwhile: it ends by itself."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        advance()
        time.sleep(min(left, 0.5))
