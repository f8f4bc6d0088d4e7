"""A decorator for tests that measure their process."""

import functools
import multiprocessing
import traceback
from collections.abc import Callable


def own_process(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a fork of its process, whose peak of memory is its own."""

    @functools.wraps(test)
    def forked(**fixtures: object) -> None:
        def work() -> None:
            try:
                test(**fixtures)
            except BaseException:
                traceback.print_exc()
                raise SystemExit(1) from None

        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        process.join()
        assert process.exitcode == 0, "see the traceback above, in the captured output"

    return forked
