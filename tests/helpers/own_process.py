"""A decorator for tests that leave something behind in their process."""

import functools
import multiprocessing
import traceback
from collections.abc import Callable

import torch


def own_process(test: Callable[..., None]) -> Callable[..., None]:
    """Run a test in a fork of its process. Dynamo, for one, starts autograd's threads, after which no fork of the
    process can compute gradients: later tests that fork would fail. A fork cannot use a GPU: where there is one, the
    test runs in its process."""

    @functools.wraps(test)
    def forked(**fixtures: object) -> None:
        if torch.cuda.is_available():
            test(**fixtures)
            return

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
