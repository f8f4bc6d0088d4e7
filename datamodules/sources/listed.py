"""Some samples of another source, by their numbers: few labels, folds, a list of what was selected."""

from pathlib import Path

from datamodules.sources.source import Sample, Source


class Listed(Source):
    """The samples of a source whose numbers a file lists.

    Args:
        source: all samples.
        rows: a text file with a number per line, from 0; they are taken in this order.

    Raises:
        ValueError: a line is no number of a sample, or there is none.
    """

    def __init__(self, source: Source, rows: str) -> None:
        lines = Path(rows).read_text().split()
        wrong = [line for line in lines if not (line.isdecimal() and int(line) < len(source))]
        if wrong or not lines:
            problem = f"{wrong[0]!r} is not" if wrong else "it is empty, and should hold numbers"
            raise ValueError(f"{rows}: {problem} the number of one of {len(source)} samples, from 0 on")
        self.source, self.rows = source, [int(line) for line in lines]
        self.counts = len(self.rows)
        self.texts, self.labels = (self.counts if n == len(source) else 0 for n in (source.texts, source.labels))
        self.classes = source.classes

    def __getitem__(self, index: int) -> Sample:
        return self.source[self.rows[range(self.counts)[index]]]

    def place(self, index: int) -> str | None:
        return self.source.place(self.rows[index])
