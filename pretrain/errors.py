"""How every command reports an expected failure: one sentence and the exit code 2; `--debug` shows the traceback."""

import argparse
import dis
import functools
import io
import os
import pickle
import select
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FAILED = 2  # the exit code, as argparse's for a wrong option
UNREAD = 141  # the exit code where nobody reads what is printed, as in `... | head`: that of SIGPIPE in a shell

# What a missing or damaged file, a full or read-only disk, refused input or a missing library raises.
_EXPECTED: tuple[type[BaseException], ...] = (
    *(OSError, ValueError, ImportError, EOFError, argparse.ArgumentError),
    *(zipfile.BadZipFile, tarfile.TarError, pickle.UnpicklingError),
)
# The same of libraries that need not be installed, or of what a command has not imported: by module and name.
_BY_NAME = {
    ("datamodules.decoding.contract", "DecodeError"),
    ("lightning.fabric.utilities.exceptions", "MisconfigurationException"),
    ("safetensors._safetensors_rust", "SafetensorError"),
    ("yaml.error", "YAMLError"),
}


def reports_errors(main: Callable[[list[str]], int | None]) -> Callable[..., int]:
    """Decorates the `main` of a command: its expected failures become a line on stderr and the exit code 2.

    The decorated function takes arguments as `main` does, by default those of the process, and returns an exit code.
    `--debug` is taken out of them (before a `--`) and lets every error through. Errors that are not expected, which are
    mistakes of ours, are never held back.
    """

    @functools.wraps(main)
    def run(arguments: list[str] | None = None) -> int:
        words = list(sys.argv[1:] if arguments is None else arguments)
        end = words.index("--") if "--" in words else len(words)
        debug = "--debug" in words[:end]
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: names of files need not be UTF-8
        words = [word for word in words[:end] if word != "--debug"] + words[end:]
        try:
            try:
                return main(words) or 0
            finally:
                sys.stdout.flush()  # here, where an error can be caught
        except BaseException as error:
            if isinstance(error, BrokenPipeError) and _nobody_reads():
                return UNREAD
            if debug or not is_expected(error):
                raise
            print(f"error: {sentence(error)}", file=sys.stderr)
            return FAILED

    return run


def _nobody_reads() -> bool:
    """Whether the reader of our output is gone; what is printed from now on is then dropped."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):  # not a file, or closed
        return False
    poll = select.poll()
    poll.register(output, select.POLLOUT)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, output)
    os.close(nowhere)
    return True


def is_expected(error: BaseException) -> bool:
    """Whether an error is one that a user can cause and mend. Of RuntimeErrors, these are the ones that we raise."""
    if isinstance(error, RuntimeError) and not isinstance(error, NotImplementedError | RecursionError):
        return _is_ours(error) or _is_torchs_short_write(error)
    names = {(kind.__module__, kind.__qualname__) for kind in type(error).__mro__}
    return isinstance(error, _EXPECTED) or bool(names & _BY_NAME)


def sentence(error: BaseException) -> str:
    """An error in one line; if a library raised it, with the way to see where."""
    text = " ".join(str(error).split()) or type(error).__name__
    if _is_torchs_short_write(error):
        return f"a file could not be written whole: is the disk full? (torch: {text})"
    if isinstance(error, OSError) and error.strerror:
        names = [str(name) for name in (error.filename, error.filename2) if name is not None]
        text = ": ".join([error.strerror, *names])
    return text if _is_ours(error) or isinstance(error, OSError) else f"{text} (--debug shows where)"


def _is_torchs_short_write(error: BaseException) -> bool:
    """torch writes by its own code, which reports a full disk as a RuntimeError."""
    words = ("PytorchStreamWriter", "file write failed", "unexpected pos")
    return isinstance(error, RuntimeError) and any(each in str(error) for each in words)


def _is_ours(error: BaseException) -> bool:
    """Whether a `raise` of this project raised an error, not a library or compiled code that a line of ours called."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    file = Path(code.co_filename)
    raised = trace.tb_lasti >= 0 and code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    return raised and file.is_relative_to(ROOT) and "site-packages" not in file.parts
