"""The sizes of all videos of a source, found by opening each once, and kept in a file."""

import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch.distributed as dist

from datamodules.decoding.contract import DecodeError
from datamodules.loading.survey import VideoInfo, gather, is_distributed
from datamodules.sources.source import Source
from datamodules.storage.whole_files import whole_file

_PROBES = 64  # samples whose names show that a table is of this source


def size_table(source: Source, file: str | None, survey: Callable[[], Iterable[VideoInfo]]) -> np.ndarray:
    """Frames, height and width of every sample, int32 [N, 3], the same on all ranks; 0 where it cannot be read.

    Args:
        source: of latents, which know their sizes, or of videos.
        file: an npz file that keeps the sizes of videos; the first rank writes it if a rank does not find it.
        survey: opens this rank's share of the videos.

    Raises:
        ValueError: the file is damaged, or of another source.
    """
    known = source.sizes()
    if known is not None:
        return known
    if file is not None and all(gather(Path(file).is_file())):
        return _read(source, file)
    sizes = np.zeros((len(source), 3), np.int32)
    for share in gather([(video.number, video.frames, *video.size) for video in survey()]):
        for number, *size in share:
            sizes[number] = size
    if file is not None and not (is_distributed() and dist.get_rank()):
        with whole_file(file, "wb") as stream:
            np.savez(stream, sizes=sizes, names=_probe(source))
    return sizes


def _read(source: Source, file: str) -> np.ndarray:
    try:
        with zipfile.ZipFile(file) as archive:
            if sum(each.file_size for each in archive.infolist()) > Path(file).stat().st_size:
                raise ValueError("it claims more bytes than it has")
        with np.load(file, allow_pickle=False) as table:
            sizes, names = table["sizes"], table["names"]
        if sizes.ndim != 2 or sizes.shape[1] != 3 or sizes.dtype != np.int32 or (sizes < 0).any():
            raise ValueError("it holds no sizes")
    except Exception as error:  # numpy raises errors of zipfile, zlib and its own
        raise ValueError(f"the table of sizes {file} is damaged ({error}): delete it, to make it again") from None
    if len(sizes) != len(source) or not np.array_equal(names, _probe(source)):
        raise ValueError(f"the table of sizes {file} is of other data: delete it, or set another data.sizes")
    return sizes


def _probe(source: Source) -> np.ndarray:
    """Names of samples that are spread over the source."""

    def name(index: int) -> str:
        try:
            return source[index].name
        except DecodeError as error:
            return error.name

    numbers = np.unique(np.linspace(0, len(source) - 1, _PROBES).astype(np.int64))
    return np.array([name(index).encode("utf-8", "surrogateescape") for index in numbers.tolist()])
