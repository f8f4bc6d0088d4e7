"""Reads from an http server or a command that stop after a number of bytes, whatever the other side sends."""

import os
import signal
import subprocess
import tempfile
import threading
from io import BufferedReader
from typing import Any, BinaryIO, cast

from datamodules.sources import progress

_CHUNK = 2**18


def http_to(out: BinaryIO, fs: Any, url: str, most: int, span: tuple[int, int] | None = None) -> int:
    """Writes the answer of a server to `out`, but at most about `most` bytes; returns how many came.

    fsspec's own reads keep the whole answer in memory, also if it is longer than the requested range.

    Args:
        out: takes the bytes; a count above `most` says that the answer is longer, and the rest is not read.
        fs: fsspec's HTTPFileSystem.
        url: the file.
        most: bytes.
        span: first byte and the end of a range.
    """
    from fsspec.asyn import sync

    async def get() -> int:
        session, settings, count = await fs.set_session(), dict(fs.kwargs), 0
        if span is not None:
            settings["headers"] = {**settings.get("headers", {}), "Range": f"bytes={span[0]}-{span[1] - 1}"}
        async with session.get(fs.encode_url(url), **settings) as answer:
            if answer.status == 404:
                raise FileNotFoundError(url)
            answer.raise_for_status()
            async for chunk in answer.content.iter_chunked(_CHUNK):
                count += len(chunk)
                out.write(chunk)
                progress.advance()
                if count > most:
                    break
        return count

    return cast(int, sync(fs.loop, get))


def command_to(out: BinaryIO, command: str, most: int, seconds: float) -> int:
    """Writes a shell command's output to `out`, but at most about `most` bytes; returns how many came.

    Raises:
        OSError: the command fails, or is not done after so many seconds.
    """
    count, late = 0, threading.Event()
    with tempfile.TemporaryFile() as errors:
        # In a group of its own, so that what the shell starts ends with it.
        process = subprocess.Popen(command, shell=True, stdout=subprocess.PIPE, stderr=errors, start_new_session=True)
        assert process.stdout is not None
        timer = threading.Timer(seconds, lambda: (late.set(), _end(process)))
        timer.start()
        try:
            while count <= most and (chunk := cast(BufferedReader, process.stdout).read1(_CHUNK)):
                count += len(chunk)
                out.write(chunk)
                progress.advance()
            if count <= most:
                process.wait()
        finally:
            timer.cancel()
            _end(process)
            process.stdout.close()
            process.wait()
        if late.is_set():
            raise OSError(f"`{command}` was not done after {seconds:g} s")
        if count <= most and process.returncode:
            errors.seek(0)
            reason = errors.read(2000).decode(errors="replace").strip()
            raise OSError(f"`{command}` exited with {process.returncode}: {reason}")
    return count


def _end(process: subprocess.Popen) -> None:
    """Kills a command and what it started, unless it has ended."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
