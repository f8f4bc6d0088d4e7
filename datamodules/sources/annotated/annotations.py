"""Annotated: samples from a published annotation file, as it is, and a folder of videos (see recipes/data/)."""

import logging
import os
from typing import Literal

import numpy as np

from datamodules.sources.annotated.classes import read_classes
from datamodules.sources.annotated.locate import locate_all
from datamodules.sources.annotated.row_filter import Captions, RowFilter
from datamodules.sources.annotated.rows import Join, SampleColumns, collect_rows
from datamodules.sources.annotated.tables import Table
from datamodules.sources.annotated.templates import Template
from datamodules.sources.class_names import class_hint
from datamodules.sources.source import Sample, Source, Strings

log = logging.getLogger(__name__)
WRONG = -1  # the number of a label that is not among the classes: no prediction equals it


class Annotated(Source):
    """Videos with captions, labels or both from an annotation file.

    `video`, `text`, `label`, `number` and `name` are templates: text with a row's fields in braces, such as
    `{sentence}` or `{youtube_id}_{time_start:06d}`. Question answering uses `text` for the question and `label` for the
    answer, numbered by a list of answers in `classes`; multiple choice uses a `text` that holds a list, and the
    `number` of the correct entry.

    Construction reads the file once and lists the folder once: 25 s and 1 GB for a million rows, of which 0.1 GB stay
    allocated. Beyond a few million rows, use shards.

    Args:
        table: the annotation file.
        videos: the folder of the videos.
        video: a video's path in the folder, or a field that holds a list of videos that share the row. The suffix is
            ignored; a video that is not at this path may be in any subfolder of `videos`.
        text: a caption, or a field that holds a list of captions.
        label: the name of a class.
        number: the number of a class, from 0, instead of its name.
        classes: the file that numbers the classes (`read_classes`); by default the labels of all rows of `table` in
            alphabetical order. Set it if training and validation may have different labels.
        unlisted: how to treat a label outside `classes`: `error`; `omit` the sample; or count it as `wrong` for every
            prediction (its number is -1; for evaluation only). The last two are logged with their number.
        sample: what a sample is: a `video` with all its captions, of which training uses a random one and evaluation
            accepts any; a `paragraph`: a video with its captions joined by spaces; or a `row`.
        name: the name of a sample that is a row; by default the video and the number of the row.
        where: select the rows in which a field has this value or one of these values.
        only: select the videos named by the first field of this table.
        join: other tables that add fields to the rows.
        remove: characters to remove from captions and labels.
        min_words: captions of fewer words are skipped and their number logged; by default one without words is an
            error.
        end: clips come from the first `end` seconds.
        allow_missing: skip missing videos and log their number.
        home: the origin of the data, for error messages about missing files.

    Attributes:
        classes: names of the classes in the order of their numbers; None if there are only numbers or no labels.

    Raises:
        FileNotFoundError: a file or a video is missing.
        ValueError: a file is malformed or empty; the error names the line or entry.
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
        _require_files([*(t.file for t in files), *([classes] if classes else [])], home)
        template = label or number
        target = Template(template) if template else None
        captions = Captions(text, remove, min_words, sample == "row") if text is not None else None
        deleted = str.maketrans("", "", remove)
        samples = collect_rows(
            *(table, join or [], RowFilter(where or {}, only), Template(video)),
            *(Template(name) if name is not None else None, captions, target, deleted, sample),
        )
        self.classes: list[str] | None = read_classes(classes, target, deleted) if classes else None
        if label:
            if self.classes is None:
                self.classes = sorted(samples.all_labels - {""})
            targets = _numbers_of_labels(samples, table, self.classes, classes, unlisted)
        else:
            labels = zip(samples.labels, samples.lines, strict=False)
            targets = [_parse_number(text, self.classes, table.place(line)) for text, line in labels]
        paths = locate_all(videos, samples.videos, table.file, home, allow_missing)
        found = [path is not None for path in paths]
        samples.keep(found)

        self.videos, self.end, self.multiple = videos, end, samples.multiple
        self.counts, self.texts = len(samples.videos), len(samples.captions)
        self.paths, self.names = Strings(path for path in paths if path is not None), Strings(samples.names)
        self.captions = Strings(caption for captions in samples.captions for caption in captions)
        self.starts = np.cumsum([0, *map(len, samples.captions)])
        self.targets = np.array(targets, dtype=np.int64)[found] if target is not None else np.empty(0, np.int64)
        self.labels = len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        index = range(self.counts)[index]
        text: str | list[str] | None = None
        if self.texts:
            captions = [self.captions[i] for i in range(*self.starts[index : index + 2])]
            text = captions if self.multiple else captions[0]
        label = int(self.targets[index]) if self.labels else None
        return Sample(self.names[index], self.place(index), text, label, self.end)

    def place(self, index: int) -> str:
        return os.path.join(self.videos, self.paths[index])


def _require_files(files: list[str], home: str) -> None:
    lost = [file for file in files if not os.path.isfile(file)]
    if lost:
        source = f"It comes from {home}" if home else "Give the path of the file as it was published"
        raise FileNotFoundError(f"no annotation file {' and no '.join(lost)}. {source}.")


def _numbers_of_labels(
    samples: SampleColumns, table: Table, classes: list[str], file: str | None, unlisted: str
) -> list[int]:
    """The class number of each sample by its label; removes samples with other labels if `unlisted` is "omit"."""
    index = {name: i for i, name in enumerate(classes)}
    unknown = [i for i, label in enumerate(samples.labels) if label not in index]
    if unknown and unlisted == "error":
        label = samples.labels[unknown[0]]
        raise ValueError(
            f"{table.place(samples.lines[unknown[0]])}: the label {label!r} is not among the {len(index)} classes of "
            f"{file} ({class_hint(classes, label)}). There are {len(unknown)} such samples: correct them, skip them or "
            "count them as wrong (unlisted: omit, or wrong)"
        )
    if unknown:
        treatment = "are skipped" if unlisted == "omit" else "count as wrong"
        about = (len(unknown), len(samples.labels), table.file, len(index), file, treatment)
        log.warning("%d of %d samples of %s have a label outside the %d classes of %s: they %s", *about)
    if unlisted == "omit":
        samples.keep([label in index for label in samples.labels])
        if not samples.labels:
            raise ValueError(f"no label of {table.file} is among the classes of {file}")
    return [index.get(label, WRONG) for label in samples.labels]


def _parse_number(text: str, classes: list[str] | None, place: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ValueError(f"{place}: the class number is {text!r}, which is not an integer") from None
    if number < 0 or (classes is not None and number >= len(classes)):
        last = f" to {len(classes) - 1}" if classes is not None else ""
        raise ValueError(f"{place}: there is no class {number}: classes are numbered from 0{last}")
    return number
