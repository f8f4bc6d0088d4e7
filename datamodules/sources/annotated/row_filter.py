"""Selects the rows, videos and captions of an annotation file."""

from collections import Counter

from datamodules.sources.annotated.locate import strip_suffixes
from datamodules.sources.annotated.tables import Table
from datamodules.sources.annotated.templates import Template, get


class RowFilter:
    """Selects rows and videos, and records what it found for error messages.

    Args:
        where: the values that a field may have.
        only: a table whose first field names the videos to select.
    """

    def __init__(self, where: dict[str, str | list[str]], only: Table | None) -> None:
        self.where = {name: {v} if isinstance(v, str) else set(map(str, v)) for name, v in where.items()}
        self.values: dict[str, Counter[str]] = {name: Counter() for name in where}
        self.listed_in, self.videos, self.used = "", None, set()
        if only is not None:
            self.listed_in = only.file
            self.videos = {strip_suffixes(str(next(iter(row.values())))) for _, row in only.rows()}
            if not self.videos:
                raise ValueError(f"{only.file} is empty: it names no video")

    def row(self, row: dict) -> bool:
        """Whether each field has one of its allowed values."""
        for name, allowed in self.where.items():
            value = str(get(row, name))
            self.values[name][value] += 1
            if value not in allowed:
                return False
        return True

    def video(self, name: str) -> bool:
        """Whether the video is selected."""
        if self.videos is not None:
            self.used.add(name)
        return self.videos is None or name in self.videos

    def check(self, table: Table, found: int) -> None:
        """ValueError if no sample was `found` by `where`, or a video in the list had no row."""
        for name, allowed in self.where.items():
            if not found and not allowed & set(self.values[name]):
                there = ", ".join(repr(v) for v, _ in self.values[name].most_common(8))
                raise ValueError(f"no row of {table.file} has {name} {' or '.join(sorted(allowed))}: there are {there}")
        listed = self.videos or set()
        lost = sorted(listed - self.used)
        if lost:
            raise ValueError(
                f"{len(lost)} of the {len(listed)} videos of {self.listed_in} have no row in {table.file}: "
                f"{', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}"
            )


class Captions:
    """The captions of a row, without some characters and without short captions.

    Args:
        text: the template of a caption, or of a field that holds a list of captions.
        remove: characters to remove.
        min_words: captions of fewer words are skipped and counted in `short`; by default one without words is an
            error.
        whole: skip all captions of a row if one is short (five answers to choose from must stay five).
    """

    def __init__(self, text: str, remove: str, min_words: int | None, whole: bool) -> None:
        self.text, self.remove = Template(text), str.maketrans("", "", remove)
        self.min_words, self.whole, self.short = min_words, whole, 0

    def __call__(self, row: dict) -> tuple[list[str], bool]:
        """(captions, whether the row holds a list of them).

        ValueError: a caption is not text, is empty, or contains a lone surrogate.
        """
        found = self.text.value(row)
        listed = isinstance(found, list)
        captions = [self._clean(caption) for caption in (found if listed else [found])]
        if self.min_words is None:
            if not captions or not all(caption.split() for caption in captions):
                raise ValueError("the caption is empty: add one, remove the row, or skip empty ones by min_words: 1")
            return captions, listed
        long = [caption for caption in captions if len(caption.split()) >= self.min_words]
        self.short += len(captions) - len(long)
        return [] if self.whole and len(long) < len(captions) else long, listed

    def _clean(self, caption: object) -> str:
        if not isinstance(caption, str):
            raise ValueError(f"a caption is not text but {caption!r}")
        try:
            caption.encode()
        except UnicodeEncodeError:
            raise ValueError("the caption holds half of a character (a lone surrogate)") from None
        return caption.translate(self.remove).strip()
