"""Which rows, videos and captions of an annotation file are wanted."""

from collections import Counter

from datamodules.sources.annotated.locate import without_ending
from datamodules.sources.annotated.tables import Table
from datamodules.sources.annotated.templates import Template, get


class RowFilter:
    """Which rows and videos are wanted, and what there was in place of them.

    Args:
        where: the values that a field may have.
        only: the videos whose names are the first field of this table.
    """

    def __init__(self, where: dict[str, str | list[str]], only: Table | None) -> None:
        self.where = {name: {v} if isinstance(v, str) else set(map(str, v)) for name, v in where.items()}
        self.seen = {name: Counter() for name in where}
        self.only, self.videos, self.used = only, None, set()
        if only is not None:
            self.videos = {without_ending(str(next(iter(row.values())))) for _, row in only.rows()}
            if not self.videos:
                raise ValueError(f"{only.file} is empty: it names no video")

    def row(self, row: dict) -> bool:
        """Whether each field has a wanted value."""
        for name, values in self.where.items():
            value = str(get(row, name))
            self.seen[name][value] += 1
            if value not in values:
                return False
        return True

    def video(self, name: str) -> bool:
        """Whether the list has it."""
        if self.videos is not None:
            self.used.add(name)
        return self.videos is None or name in self.videos

    def check(self, table: Table, found: int) -> None:
        """ValueError where nothing was left, or a wanted video had no row."""
        for name, values in self.where.items():
            if not found and not values & set(self.seen[name]):
                there = ", ".join(repr(v) for v, _ in self.seen[name].most_common(8))
                raise ValueError(f"no row of {table.file} has {name} {' or '.join(sorted(values))}: there are {there}")
        lost = sorted((self.videos or set()) - self.used)
        if lost:
            raise ValueError(
                f"{len(lost)} of the {len(self.videos)} videos of {self.only.file} have no row in {table.file}: "
                f"{', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}"
            )


class Captions:
    """The captions of a row, with characters taken out and short ones left out.

    Args:
        text: the template of a caption, or of a field that holds a list of them.
        remove: characters taken out.
        min_words: captions of fewer words are counted in `short` and left out; by default one without words is an
            error.
        whole: of a row with a short caption none is given (a choice of five is one of five).
    """

    def __init__(self, text: str, remove: str, min_words: int | None, whole: bool) -> None:
        self.text, self.remove = Template(text), str.maketrans("", "", remove)
        self.min_words, self.whole, self.short = min_words, whole, 0

    def __call__(self, row: dict) -> tuple[list[str], bool]:
        """(captions, whether the row holds a list of them). ValueError: no text, none at all, or half a character."""
        found = self.text.value(row)
        listed = isinstance(found, list)
        captions = [self._clean(caption) for caption in (found if listed else [found])]
        if self.min_words is None:
            if not captions or not all(caption.split() for caption in captions):
                raise ValueError("the caption is empty: write one, take the row out, or leave such out by min_words: 1")
            return captions, listed
        long = [caption for caption in captions if len(caption.split()) >= self.min_words]
        self.short += len(captions) - len(long)
        return [] if self.whole and len(long) < len(captions) else long, listed

    def _clean(self, caption: object) -> str:
        if not isinstance(caption, str):
            raise ValueError(f"a caption is no text but {caption!r}")
        try:
            caption.encode()
        except UnicodeEncodeError:
            raise ValueError("the caption holds half of a character (a lone surrogate)") from None
        return caption.translate(self.remove).strip()
