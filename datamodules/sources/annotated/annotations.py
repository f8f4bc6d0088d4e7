"""Annotated: samples from a published annotation file as it is, and a folder of videos. recipes/data/ has one each."""

import logging
import os
from typing import Literal

import numpy as np

from datamodules.sources.annotated.classes import nearest, read_classes
from datamodules.sources.annotated.locate import present
from datamodules.sources.annotated.row_filter import Captions, RowFilter
from datamodules.sources.annotated.rows import Join, SampleColumns, collect_rows
from datamodules.sources.annotated.tables import Table
from datamodules.sources.annotated.templates import Template
from datamodules.sources.source import Sample, Source, Strings

log = logging.getLogger(__name__)
WRONG = -1  # the number of a label outside the list of classes: no prediction equals it


class Annotated(Source):
    """Videos with captions, labels or both, as an annotation file tells.

    What is said here of rows is a template: text with a row's fields in braces, such as `{sentence}` or
    `{youtube_id}_{time_start:06d}`. Questions about videos are a `text` (the question) with a `label` (the answer,
    numbered by a list of answers in `classes`); multiple choice is a `text` that holds a list, with the `number` of
    the right one.

    It takes a pass over the file and one listing of the folder, 25 s and 1 GB for a million rows, of which 0.1 GB stay:
    beyond some millions shards are the better place.

    Args:
        table: the annotation file.
        videos: the folder that holds the videos.
        video: a video's path in it, or a field that holds a list of videos, which share the row. Its ending is whatever
            the file has; where nothing lies there, it may lie in any folder inside `videos`.
        text: a caption; or a field that holds a list of captions.
        label: the name of a class.
        number: the number of a class, from 0, in place of its name.
        classes: the file that numbers the classes (`read_classes`); by default the labels of all rows of `table` in
            alphabetical order. Give it where training and validation may differ in that.
        unlisted: what a label outside `classes` is: an error, a reason to omit the sample, or a wrong answer in any
            case (its number is -1 then; for evaluation only). The last two are counted in the log.
        sample: what one sample is: a `video` with all its captions, of which training draws one and evaluation counts
            any as right; a `paragraph`: a video with its captions joined by a space; or a `row`.
        name: of the samples where they are rows; by default the video and the number of the row.
        where: only rows in which a field has this value, or one of these.
        only: only the videos that the first field of this table names.
        join: other tables that complete the rows.
        remove: characters taken out of captions and labels.
        min_words: captions of fewer words are left out, and counted in the log. By default one without a word stops.
        end: clips are cut from so many first seconds.
        allow_missing: go on without the videos that are not there, and say in the log how many.
        home: where the data come from; errors about what is missing say it.

    Attributes:
        classes: names of the classes in the order of their numbers; None where there are only numbers or no labels.

    Raises:
        FileNotFoundError: a file or a video is missing.
        ValueError: a file is not as described, or holds nothing; the line or entry is named.
    """

    def __init__(
        self,
        table: Table,
        videos: str,
        video: str,
        *,
        text: str | None = None,
        label: str | None = None,
        number: str | None = None,
        classes: str | None = None,
        unlisted: Literal["error", "omit", "wrong"] = "error",
        sample: Literal["video", "paragraph", "row"] = "video",
        name: str | None = None,
        where: dict[str, str | list[str]] | None = None,
        only: Table | None = None,
        join: list[Join] | None = None,
        remove: str = "",
        min_words: int | None = None,
        end: float | None = None,
        allow_missing: bool = False,
        home: str = "",
    ) -> None:
        if label is not None and number is not None:
            raise ValueError("Annotated takes a label or a number, not both: a label is the name of a class")
        files = [table, *([only] if only else []), *(j.table for j in join or [])]
        _files_are_there([*(t.file for t in files), *([classes] if classes else [])], home)
        named = Template(label or number) if label or number else None
        captions = Captions(text, remove, min_words, sample == "row") if text is not None else None
        gone = str.maketrans("", "", remove)
        made = collect_rows(
            *(table, join or [], RowFilter(where or {}, only), Template(video)),
            *(Template(name) if name is not None else None, captions, named, gone, sample),
        )
        self.classes = read_classes(classes, named, gone) if classes else sorted(made.every - {""}) if label else None
        targets = _numbers(made, table, self.classes, classes, label is not None, unlisted)
        paths = present(videos, made.videos, table.file, home, allow_missing)
        there = [path is not None for path in paths]
        made.keep(there)

        self.videos, self.end, self.several = videos, end, made.several
        self.counts, self.texts = len(made.videos), len(made.captions)
        self.paths, self.names = Strings(path for path in paths if path is not None), Strings(made.names)
        self.captions = Strings(caption for captions in made.captions for caption in captions)
        self.starts = np.cumsum([0, *map(len, made.captions)])
        self.targets = np.array(targets, dtype=np.int64)[there] if named is not None else np.empty(0, np.int64)
        self.labels = len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        index = range(self.counts)[index]
        texts = [self.captions[i] for i in range(*self.starts[index : index + 2])] if self.texts else [None]
        label = int(self.targets[index]) if self.labels else None
        path = os.path.join(self.videos, self.paths[index])
        return Sample(self.names[index], path, texts if self.several else texts[0], label, self.end)


def _files_are_there(files: list[str], home: str) -> None:
    lost = [file for file in files if not os.path.isfile(file)]
    if lost:
        source = f"It comes from {home}" if home else "Give the path of the file as it was published"
        raise FileNotFoundError(f"no annotation file {' and no '.join(lost)}. {source}.")


def _numbers(
    made: SampleColumns, table: Table, classes: list[str] | None, file: str | None, named: bool, unlisted: str
) -> list[int]:
    """The number of each sample's class; leaves out those outside the list where `unlisted` says so."""
    index = {name: i for i, name in enumerate(classes or [])}
    if not named:
        return [_number(text, classes, table.place(line)) for text, line in zip(made.labels, made.lines, strict=False)]
    strange = [i for i, label in enumerate(made.labels) if label not in index]
    if strange and unlisted == "error":
        label = made.labels[strange[0]]
        raise ValueError(
            f"{table.place(made.lines[strange[0]])}: the label {label!r} is not among the {len(index)} classes of "
            f"{file} ({nearest(label, classes)}). There are {len(strange)} such samples: correct them, or have them "
            "left out or counted as wrong (unlisted: omit, or wrong)"
        )
    if strange:
        fate = "are left out" if unlisted == "omit" else "count as wrong"
        about = (len(strange), len(made.labels), table.file, len(index), file, fate)
        log.warning("%d of %d samples of %s have a label outside the %d classes of %s: they %s", *about)
    if unlisted == "omit":
        made.keep([label in index for label in made.labels])
        if not made.labels:
            raise ValueError(f"no label of {table.file} is among the classes of {file}")
    return [index.get(label, WRONG) for label in made.labels]


def _number(text: str, classes: list[str] | None, place: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"{place}: the number of a class is {text!r}, which is no integer") from None
    if number < 0 or (classes is not None and number >= len(classes)):
        last = f" to {len(classes) - 1}" if classes is not None else ""
        raise ValueError(f"{place}: class {number} is none: they are numbered from 0{last}")
    return number
