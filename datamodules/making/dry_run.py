"""What `prepare` would make of videos: it opens each and decodes none."""

import math
from collections import Counter
from collections.abc import Sequence
from functools import partial

from tqdm import tqdm

from datamodules.decoding.contract import DecodeError
from datamodules.decoding.limits import Limits
from datamodules.decoding.reader import PyAV
from datamodules.making.crew import LIMIT, Crew
from datamodules.making.encode import equal_parts, output_size
from datamodules.making.encoding import Encoding


def dry_run(
    rows: Sequence[dict],
    encoding: Encoding,
    workers: int,
    limit: float = LIMIT,
    progress: bool = True,
    limits: Limits | None = None,
) -> dict:
    """Counts what would be kept of `rows`; the arguments are those of `prepare_rows`.

    Returns:
        `videos`, `clips`, their `seconds`, `bytes` of the videos, clips by size of their frames (`sizes`), and clips
        that would be dropped by reason (`reasons`). A video that can be opened may still turn out to be damaged.
    """
    sizes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    total = {"videos": 0, "clips": 0, "seconds": 0.0}
    with Crew(partial(_look, encoding=encoding, limits=limits), workers, limit) as crew:
        for row, found in zip(rows, tqdm(crew.run(rows), total=len(rows), disable=not progress), strict=True):
            if isinstance(found, str):
                reasons[found] += len(row.get("cuts", [row]))
                continue
            seconds, size = found
            total["videos"] += 1
            total["clips"] += len(seconds)
            total["seconds"] += sum(seconds)
            sizes[size] += len(seconds)
            if lost := len(row.get("cuts", ())) - len(seconds):
                reasons["it starts after the end of its video"] += max(lost, 0)
    return {**total, "sizes": dict(sizes.most_common()), "reasons": dict((+reasons).most_common())}


def _look(row: dict, encoding: Encoding, limits: Limits | None) -> tuple[list[float], str] | str:
    """The seconds of the clips of a row and the size of their frames, or the reason why there are none."""
    try:
        with PyAV(limits=limits).open(row["path"]) as video:
            duration, size = video.duration, video.size
    except DecodeError as error:
        return error.reason
    duration = 0.0 if math.isnan(duration) else duration
    height, width = output_size(*size, encoding)
    if "cuts" in row:
        spans = [(cut["start"], min(cut.get("end", math.inf), duration)) for cut in row["cuts"]]
        seconds = [end - start for start, end in spans if start < end]
        return (seconds, f"{width}x{height}") if seconds else "it starts after the end of its video"
    parts = equal_parts(duration, encoding)
    return [duration / parts] * parts, f"{width}x{height}"
