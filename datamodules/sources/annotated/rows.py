"""Collects samples from the rows of a table: joins other tables, filters rows, and groups them by video."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from datamodules.sources.annotated.locate import strip_suffixes
from datamodules.sources.annotated.row_filter import Captions, RowFilter
from datamodules.sources.annotated.tables import Table
from datamodules.sources.annotated.templates import Template

log = logging.getLogger(__name__)


@dataclass
class Join:
    """A join with another table: a row gets the fields of the one row there whose filled template `theirs` equals the
    row's filled template `ours`. Fields that the row already has are kept.
    """

    table: Table
    ours: str
    theirs: str


@dataclass
class SampleColumns:
    """The collected samples, one list per property, in the order of the file."""

    lines: list[int] = field(default_factory=list)  # the first row of the sample
    videos: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    all_labels: set[str] = field(default_factory=set)  # labels of all rows, including those filtered out
    multiple: bool = False  # a sample's text is a list of captions, even if it has only one

    def add(self, line: int, video: str, name: str, captions: list[str], label: str) -> None:
        self.lines.append(line)
        self.videos.append(video)
        self.names.append(name)
        self.captions.append(list(captions))
        self.labels.append(label)

    def keep(self, mask: list[bool]) -> None:
        """Removes the samples whose `mask` is False."""
        for name in ("lines", "videos", "names", "captions", "labels"):
            values = getattr(self, name)
            setattr(self, name, [v for v, kept in zip(values, mask, strict=True) if kept] if values else values)


class row_errors:
    """A context that adds the location of a row to ValueErrors; a class, as contextlib's is twice as slow."""

    def __init__(self, table: Table, number: int) -> None:
        self.table, self.number = table, number

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ValueError):
            raise ValueError(f"{self.table.place(self.number)}: {error}") from None


def joined_rows(table: Table, joins: list[Join]) -> Iterator[tuple[int, dict]]:
    """(number, row) of `table` with the fields of all joins; ValueError if a row has no match."""
    others = [(Template(join.ours), join.table, _by_key(join)) for join in joins]
    for number, row in table.rows():
        for ours, other, rows in others:
            with row_errors(table, number):
                if (key := ours(row)) not in rows:
                    raise ValueError(f"no row of {other.file} matches {key!r}")
                row = rows[key] | row
        yield number, row


def _by_key(join: Join) -> dict[str, dict]:
    rows, key = {}, Template(join.theirs)
    for number, row in join.table.rows():
        with row_errors(join.table, number):
            if (value := key(row)) in rows:
                raise ValueError(f"{value!r} already has a row")
            rows[value] = row
    return rows


def _video_names(video: Template, row: dict) -> list[str]:
    """The videos of a row without their suffixes; ValueError if one has no name."""
    found = video.value(row)
    names = [strip_suffixes(str(name)) for name in (found if isinstance(found, list) else [found])]
    if not names or not all(names):
        raise ValueError("the video has no name")
    return names


def collect_rows(
    table: Table,
    joins: list[Join],
    selected: RowFilter,
    video: Template,
    name: Template | None,
    captions: Captions | None,
    label: Template | None,
    deleted: dict[int, int | None],
    sample: str,
) -> SampleColumns:
    """All samples; see `Annotated` for the arguments.

    Raises:
        ValueError: the table is empty, no sample is left, or a video has two labels.
    """
    samples, indices, rows, repeats = SampleColumns(), {}, 0, 0
    for number, row in joined_rows(table, joins):
        rows += 1
        with row_errors(table, number):
            value = label(row).translate(deleted) if label is not None else ""
            samples.all_labels.add(value)
            if not selected.row(row):
                continue
            if label is not None and not value:
                raise ValueError("the label is empty")
            videos = [path for path in _video_names(video, row) if selected.video(path)]
            texts, listed = captions(row) if videos and captions is not None else ([], False)
            for path in videos if texts or captions is None else ():
                key = path if sample != "row" else name(row) if name is not None else f"{path}#{number}"
                if (i := indices.setdefault(key, len(indices))) == len(samples.videos):
                    samples.add(number, path, key, texts, value)
                elif sample == "row":
                    raise ValueError(f"the name {key!r} is already used by {table.place(samples.lines[i])}")
                elif value != samples.labels[i]:
                    raise ValueError(
                        f"{key!r} is {value!r} here and {samples.labels[i]!r} in {table.place(samples.lines[i])}"
                    )
                else:
                    samples.captions[i] += texts
                    repeats += captions is None
                samples.multiple |= listed or len(samples.captions[i]) > 1
    if not rows:
        raise ValueError(f"{table.file} is empty: it holds no row. Is it complete?")
    selected.check(table, len(samples.videos))
    if not samples.videos:
        raise ValueError(
            f"nothing is left of the {rows} rows of {table.file}: none matches `where`, or all captions are short"
        )
    if repeats:
        log.warning("%d rows of %s repeat a video of an earlier row: each video counts once", repeats, table.file)
    if captions is not None and captions.short:
        few = (captions.short, table.file, captions.min_words)
        log.warning("%d captions of %s have fewer than %d words and are skipped", *few)
    if sample == "paragraph":
        samples.captions, samples.multiple = [[" ".join(texts)] for texts in samples.captions], False
    if captions is None:
        samples.captions = []
    if label is None:
        samples.labels = []
    return samples
