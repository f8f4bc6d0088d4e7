"""Samples gathered from the rows of a table: completed from others, chosen, joined by video, and counted."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from datamodules.sources.annotated.locate import without_ending
from datamodules.sources.annotated.row_filter import Captions, RowFilter
from datamodules.sources.annotated.tables import Table
from datamodules.sources.annotated.templates import Template

log = logging.getLogger(__name__)


@dataclass
class Join:
    """Another table that completes the rows of ours: one takes the fields of the one row there whose `theirs`, filled
    from it, equals `ours`, filled from ours. What ours has already stays as it is.
    """

    table: Table
    ours: str
    theirs: str


@dataclass
class SampleColumns:
    """Samples in the making, a list a property, in the order of the file."""

    lines: list[int] = field(default_factory=list)  # the row that began the sample
    videos: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    every: set[str] = field(default_factory=set)  # labels of all rows, also of those that are not wanted
    several: bool = False  # captions of a sample are a list, even where there is one

    def add(self, line: int, video: str, name: str, captions: list[str], label: str) -> None:
        self.lines.append(line)
        self.videos.append(video)
        self.names.append(name)
        self.captions.append(list(captions))
        self.labels.append(label)

    def keep(self, which: list[bool]) -> None:
        """Leaves out the samples that are False."""
        for name in ("lines", "videos", "names", "captions", "labels"):
            values = getattr(self, name)
            setattr(self, name, [v for v, stays in zip(values, which, strict=True) if stays] if values else values)


class placed:
    """Adds the place of a row to the errors that come of it."""

    def __init__(self, table: Table, number: int) -> None:
        self.table, self.number = table, number

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError):
            raise ValueError(f"{self.table.place(self.number)}: {error}") from None


def completed(table: Table, joins: list[Join]) -> Iterator[tuple[int, dict]]:
    """(number, row) of `table` with the fields of all joins; ValueError where a row finds no partner."""
    others = [(Template(join.ours), join.table, _by_key(join)) for join in joins]
    for number, row in table.rows():
        for ours, other, rows in others:
            with placed(table, number):
                if (key := ours(row)) not in rows:
                    raise ValueError(f"no row of {other.file} belongs to {key!r}")
                row = rows[key] | row
        yield number, row


def _by_key(join: Join) -> dict[str, dict]:
    rows, key = {}, Template(join.theirs)
    for number, row in join.table.rows():
        with placed(join.table, number):
            if (value := key(row)) in rows:
                raise ValueError(f"{value!r} has a row already")
            rows[value] = row
    return rows


def _videos(video: Template, row: dict) -> list[str]:
    """The videos of a row, without their endings; ValueError where one has no name."""
    found = video.value(row)
    names = [without_ending(str(name)) for name in (found if isinstance(found, list) else [found])]
    if not names or not all(names):
        raise ValueError("the video has no name")
    return names


def collect_rows(
    table: Table,
    joins: list[Join],
    chosen: RowFilter,
    video: Template,
    name: Template | None,
    captions: Captions | None,
    label: Template | None,
    gone: dict[int, None],
    sample: str,
) -> SampleColumns:
    """All samples; see `Annotated` for its arguments. ValueError: an empty table, nothing left, or two labels."""
    made, at, rows, repeats = SampleColumns(), {}, 0, 0
    for number, row in completed(table, joins):
        rows += 1
        with placed(table, number):
            value = label(row).translate(gone) if label is not None else ""
            made.every.add(value)
            if not chosen.row(row):
                continue
            if label is not None and not value:
                raise ValueError("the label is empty")
            places = [place for place in _videos(video, row) if chosen.video(place)]
            texts, listed = captions(row) if places and captions is not None else ([], False)
            for place in places if texts or captions is None else ():
                key = place if sample != "row" else name(row) if name is not None else f"{place}#{number}"
                if (i := at.setdefault(key, len(at))) == len(made.videos):
                    made.add(number, place, key, texts, value)
                elif sample == "row":
                    raise ValueError(f"{key!r} names a sample already, that of {table.place(made.lines[i])}")
                elif value != made.labels[i]:
                    raise ValueError(
                        f"{key!r} is {value!r} here and {made.labels[i]!r} in {table.place(made.lines[i])}"
                    )
                else:
                    made.captions[i] += texts
                    repeats += captions is None
                made.several |= listed or len(made.captions[i]) > 1
    if not rows:
        raise ValueError(f"{table.file} is empty: it holds no row. Is it whole?")
    chosen.check(table, len(made.videos))
    if not made.videos:
        raise ValueError(
            f"nothing is left of the {rows} rows of {table.file}: none is as `where` has it, or all captions are short"
        )
    if repeats:
        log.warning("%d rows of %s repeat a video that they name before: each counts once", repeats, table.file)
    if captions is not None and captions.short:
        few = (captions.short, table.file, captions.min_words)
        log.warning("%d captions of %s have fewer than %d words and are left out", *few)
    if sample == "paragraph":
        made.captions, made.several = [[" ".join(texts)] for texts in made.captions], False
    if captions is None:
        made.captions = []
    if label is None:
        made.labels = []
    return made
