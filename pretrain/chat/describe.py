"""VideoChat-Text: tools describe a video in words with time stamps, for a language model that sees nothing.

Source: VideoChat (arXiv 2305.06355), section 3.1. Which tools there are is up to the user: a captioner of frames, of
whole clips (an action), a detector, and subtitles in the place of speech recognition.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from datamodules.clips.frame_by_frame import scaled_frames
from datamodules.decoding.contract import Video
from datamodules.decoding.reader import Decoder
from datamodules.making.captions import Captioner, ImageToText, in_batches, load_captioner

INSTRUCTION = (
    "You answer questions about a video that you cannot see. What is known of it stands below, with the seconds at "
    "which it was observed. Answer from these descriptions only, and say so if they do not tell."
)
_MOST_FRAMES = 256  # that a tool describes: a film of hours is described at longer intervals
_BATCH = 8  # clips that a tool gets at once, at most
_CHARACTERS = 6000  # of the descriptions of a video, about 1,500 tokens


@dataclass(frozen=True)
class Statement:
    """What a tool says about the seconds from start to end."""

    start: float
    end: float
    tool: str
    text: str


@dataclass(frozen=True)
class Tool:
    """A captioner that is asked every so many seconds.

    name: of what it tells, such as "caption" or "action".
    captioner: gets `captioner.frames` frames of each interval.
    every: seconds of an interval; None: the whole video at once.
    """

    name: str
    captioner: Captioner
    every: float | None = 1.0

    def __post_init__(self) -> None:
        if self.every is not None and not self.every > 0:
            raise ValueError(f"the tool {self.name!r} is asked every {self.every} seconds: give a number above 0")


def describe(video: Video, tools: Sequence[Tool]) -> list[Statement]:
    """What the tools say, in the order of time. Repeated statements of one tool become one of a longer time.

    Raises:
        DecodeError: a frame cannot be decoded.
    """
    timed, found = video.duration > 0, []
    lasts = video.duration if timed else float(len(video))  # else a frame counts as a second
    for tool in tools:
        every = lasts if tool.every is None else max(tool.every, lasts / _MOST_FRAMES)
        starts = np.arange(0, lasts, every)
        said: list[str] = []
        for group in in_batches(_clips(video, starts.tolist(), every, timed, tool), _BATCH):
            said += tool.captioner([clip for _, clip in group])
            del group  # before the next clips are decoded
        own: list[Statement] = []
        for start, text in zip(starts.tolist(), said, strict=True):
            end, text = min(start + every, lasts), " ".join(text.split())
            if own and own[-1].text == text:
                own[-1] = Statement(own[-1].start, end, tool.name, text)
            elif text:
                own.append(Statement(start, end, tool.name, text))
        found += own
    return sorted(found, key=lambda statement: (statement.start, statement.end))


def _clips(
    video: Video, starts: Sequence[float], every: float, timed: bool, tool: Tool
) -> Iterator[tuple[float, np.ndarray]]:
    """Of each interval its start, and the frames in the middles of as many equal parts as the captioner takes."""
    middles = every * (np.arange(tool.captioner.frames) + 0.5) / tool.captioner.frames
    for start in starts:
        at = start + middles
        frames = video.frames_at(at) if timed else at.astype(np.int64)
        yield start, scaled_frames(video, frames, tool.captioner.picture)


def as_text(statements: Sequence[Statement], characters: int | None = None) -> str:
    """A line a statement, `Second 3 to 5, caption: ...`.

    Args:
        characters: at most so many; what is left out, from the middle on, is counted in a line of its own.
    """
    lines = [f"Second {_number(s.start)} to {_number(s.end)}, {s.tool}: {s.text}" for s in statements]
    cut = 0
    while characters is not None and len(lines) > 2 and sum(map(len, lines)) + len(lines) > characters:
        del lines[len(lines) // 2]
        cut += 1
    if cut:
        lines.insert((len(lines) + 1) // 2, f"({cut} descriptions are left out here.)")
    return "\n".join(lines)


def told(media: Sequence[str], decoder: Decoder, tools: Sequence[Tool], subtitles: str | None = None) -> str:
    """The instruction of a language model that cannot see, with what is known of each video.

    Args:
        subtitles: a .srt file, of the first video.

    Raises:
        ValueError: there is neither a tool nor a file of subtitles.
        DecodeError: a video cannot be read.
    """
    if not tools and subtitles is None:
        raise ValueError("nothing describes the video: give a captioner, subtitles, or both")
    parts = [INSTRUCTION]
    for number, file in enumerate(media):
        with decoder.open(file) as video:
            found = describe(video, tools)
        if subtitles is not None and number == 0:
            found = sorted([*found, *read_subtitles(subtitles)], key=lambda each: each.start)
        parts.append(f"{Path(file).name}:\n{as_text(found, _CHARACTERS)}")
    return "\n\n".join(parts)


def load_tool(text: str) -> Tool:
    """A tool by `NAME=CAPTIONER@SECONDS`, such as `caption=FOLDER@1`; without seconds it gets the whole video at once.

    The captioner is the folder of an image captioning model of transformers, a run of `Classify` with named classes,
    or `package.module:Class`.

    Raises:
        ValueError: it has another form.
    """
    name, equals, rest = text.partition("=")
    where, at, seconds = rest.rpartition("@") if re.search(r"@[\d.]+$", rest) else (rest, "", "")
    if not (name and equals and where):
        raise ValueError(f"a tool is NAME=CAPTIONER or NAME=CAPTIONER@SECONDS, not {text!r}")
    return Tool(name, _load(where), float(seconds) if at else None)


def _load(where: str) -> Captioner:
    if (Path(where) / "config.json").is_file():
        return ImageToText(where)
    if Path(where).exists():
        from pretrain.chat.actions import Actions  # it imports Lightning, which an image captioner does not need

        return Actions(where)
    return load_captioner(where)


def read_subtitles(file: str | Path) -> list[Statement]:
    """What is said in a video, of a .srt file.

    Raises:
        ValueError: it is no such file.
    """
    found = []
    blocks = re.split(r"\n\s*\n", Path(file).read_text(encoding="utf-8-sig").replace("\r\n", "\n").strip())
    for number, block in enumerate(blocks, 1):
        _, times, text = re.match(r"(\d+\s*\n)?([^\n]*)\n?(.*)", block, re.DOTALL).groups()  # pyrefly: ignore
        ends = re.fullmatch(r"\s*(\d+:\d+:\d+[,.]\d+)\s*-->\s*(\d+:\d+:\d+[,.]\d+).*", times)
        if ends is None:
            raise ValueError(f"{file}, entry {number}: no line with times such as 00:00:01,000 --> 00:00:02,500")
        start, end = (_seconds(each) for each in ends.groups())
        found.append(Statement(start, end, "speech", " ".join(re.sub(r"<[^>]*>", "", text).split())))
    return found


def _seconds(clock: str) -> float:
    hours, minutes, seconds = clock.replace(",", ".").split(":")
    return 3600 * int(hours) + 60 * int(minutes) + float(seconds)


def _number(second: float) -> str:
    return f"{second:.1f}".removesuffix(".0")
