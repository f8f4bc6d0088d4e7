"""A conversation in the terminal: media by path, questions by line, words as they come."""

import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TextIO

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder
from pretrain.chat.media import Clip, read_clip
from pretrain.chat.talk import Talk

HELP = "/show FILE  another video or picture    /forget  start anew    /help    /quit"


def describe_clip(clip: Clip) -> str:
    """What was looked at, in a line."""
    height, width = clip.pixels.shape[-2:]
    if clip.kind == "image":
        return f"[{clip.name}: a picture, {height} x {width}]"
    times = ", ".join(f"{second:.1f}" for second in clip.seconds) or "unknown times"
    return f"[{clip.name}: {clip.pixels.shape[1]} frames at {times} s]"


def show(talk: Talk, file: str, decoder: Decoder, out: TextIO) -> None:
    """Show a file; DecodeError if it cannot be read."""
    to = talk.answerer
    clip = read_clip(file, Path(file).name, decoder, to.frames, to.size, tiles=to.tiles)
    talk.show(clip)
    print(describe_clip(clip), file=out)


def answer(talk: Talk, question: str, out: TextIO) -> None:
    """Ask, and write the words as they come."""

    def write(piece: str) -> bool:
        out.write(piece)
        out.flush()
        return True

    written = talk.ask(question, write)
    print("" if written.finished else " [cut at the length limit]", file=out)


def converse(
    talk: Talk,
    lines: Iterable[str],
    decoder: Decoder,
    out: TextIO | None = None,
    prompt: Callable[[], None] | None = None,
) -> None:
    """Go through lines until they end or `/quit`. What cannot be done is said, and the conversation goes on.

    Args:
        prompt: called before each line.
    """
    out = out or sys.stdout
    rest = iter(lines)
    while True:
        if prompt is not None:
            prompt()
        line = next(rest, None)
        if line is None or line.strip() == "/quit":
            return
        command, _, argument = line.strip().partition(" ")
        try:
            if command == "/show":
                show(talk, argument.strip(), decoder, out)
            elif command == "/forget":
                talk.forget()
            elif command == "/help":
                print(HELP, file=out)
            elif command.startswith("/"):
                print(f"there is no command {command}. {HELP}", file=out)
            elif line.strip():
                answer(talk, line, out)
        except (DecodeError, ValueError) as error:
            print(f"[{error}]", file=out)
