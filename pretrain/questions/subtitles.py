"""What is said in a video while its shown frames are seen, in the prompt of a question (Video-MME with subtitles)."""

import os
from collections.abc import Iterable, Sequence

from datamodules.decoding.contract import DecodeError
from pretrain.chat.describe import Statement, read_subtitles

# Video-MME's prompt.
OPENING = "This video's subtitles are listed below:\n"


def subtitle_file(folder: str, video: str) -> str | None:
    """The .srt file of a video, by the stem of its name; None: it has none, as about a sixth of Video-MME's videos."""
    file = os.path.join(folder, f"{os.path.splitext(os.path.basename(video))[0]}.srt")
    return file if os.path.isfile(file) else None


def spoken_at(subtitles: Sequence[Statement], seconds: Iterable[float]) -> str:
    """The subtitles that are shown at these times, a line each, in the order of time, each once."""
    times = sorted(seconds)
    heard = [each.text for each in subtitles if any(each.start <= time < each.end for time in times)]
    return "\n".join(dict.fromkeys(text for text in heard if text))


def read_spoken(file: str, seconds: Iterable[float]) -> str:
    """The lines of a .srt file at these times. DecodeError: it is no such file."""
    try:
        return spoken_at(read_subtitles(file), seconds)
    except (ValueError, OSError) as error:
        raise DecodeError(file, str(error)) from None
