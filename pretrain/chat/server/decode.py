"""Decoding in a process of its own, which may hang or die without the server."""

import asyncio
from typing import NamedTuple

import torch

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import PyAV
from datamodules.making.crew import Crew
from pretrain.chat.media import Clip, read_clip
from pretrain.chat.server.limits import Refused, ServerLimits


class Job(NamedTuple):
    """A medium, and how it is shown."""

    content: str | bytes
    name: str
    frames: int
    size: int
    tiles: int | None
    limits: ServerLimits


class Decoding:
    """One process that makes clips; it is replaced if it hangs or dies.

    Args:
        frames, size, tiles: of the clips, see `Answerer`.
        limits: of the files and of the time.
    """

    def __init__(self, frames: int, size: int, limits: ServerLimits, tiles: int | None = None) -> None:
        self.how = frames, size, tiles, limits
        self.crew = Crew(make_clip, 1, limits.decode_seconds)

    async def clip(self, content: str | bytes, name: str) -> Clip:
        """The clip of a medium. Refused: it cannot be decoded, or takes too long."""
        found = await asyncio.to_thread(self._run, Job(content, name, *self.how))
        if isinstance(found, str):
            raise Refused(400, f"{name} cannot be read: {found}")
        return found

    def _run(self, job: Job) -> Clip | str:
        (found,) = self.crew.run([job])
        return found

    def close(self) -> None:
        self.crew.__exit__()


def make_clip(job: Job) -> Clip | str:
    """The clip, or why there is none."""
    torch.set_num_threads(1)  # the threads of the parent's pool do not exist in its child
    try:
        decoder, longest = PyAV(limits=job.limits.files), job.limits.video_seconds
        return read_clip(job.content, job.name, decoder, job.frames, job.size, longest, job.tiles)
    except DecodeError as error:
        return error.reason
