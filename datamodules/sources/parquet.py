"""Rows of parquet files, read in batches by pyarrow, which is an extra."""

from collections.abc import Iterator
from pathlib import Path


def parquet_rows(path: str | Path) -> Iterator[dict]:
    """The rows of a file, by the names of its columns.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: the file is damaged or no parquet.
    """
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(f"{path} needs `pip install -e '.[parquet]'`, or convert it to jsonl") from error
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except (ValueError, OSError) as error:  # of pyarrow
        raise ValueError(f"{path} is damaged or no parquet: {error}") from None
