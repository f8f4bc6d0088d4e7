"""A local shard and its index, which may not fit each other: the tar is gone, cut off, or newer than the index."""

import os
from dataclasses import dataclass

import numpy as np

from datamodules.decoding.limits import Limits
from datamodules.sources.local_tar import is_there
from datamodules.sources.remote import is_remote
from datamodules.sources.shard_index import REMEDY, read_entries
from datamodules.sources.tar_index import checksum


@dataclass(frozen=True)
class IndexedTar:
    """A tar and what its folder's index says of it.

    Args:
        tar: path, or for entries only an address.
        index: path of its index.
        samples, size: numbers of its samples and bytes, by the index of the folder.
        limits: what an index may cost.
    """

    tar: str
    index: str
    samples: int
    size: int
    limits: Limits

    def entries(self) -> np.ndarray:
        """The rows of its index; ValueError if that is malformed."""
        try:
            return read_entries(self.index, self.samples, self.size, self.limits)
        except ValueError as error:
            raise ValueError(f"{error}. Index it again: {remedy(self.tar)}") from None

    def check(self) -> None:
        """Compares the tar with its index, by sizes and times, and by two headers where the tar is the newer one.

        Raises:
            FileNotFoundError: the tar or the index is not there.
            ValueError: they do not fit each other.
        """
        tar = self.tar
        if not is_there(tar):
            raise FileNotFoundError(
                f"{tar} is in the index but not in its folder. Restore it, or index the folder again: {remedy(tar)}"
            )
        if not is_there(self.index):
            raise FileNotFoundError(f"{tar} has no index. Create it: {remedy(tar)}")
        found = os.path.getsize(tar)
        if found < self.size:
            raise ValueError(
                f"{tar} is cut off: {found} bytes of {self.size}. Copy it again, or index the samples that are "
                f"complete: {remedy(tar)}"
            )
        if found > self.size or self._changed():
            raise ValueError(f"the index is older than {tar} and does not match it. Index it again: {remedy(tar)}")

    def _changed(self) -> bool:
        """Whether a tar newer than its index has other contents; the first and last headers of a mere copy match."""
        if os.path.getmtime(self.tar) <= os.path.getmtime(self.index):
            return False
        with open(self.tar, "rb") as file:
            for entry in self.entries()[[0, -1]]:
                file.seek(int(entry["video"]) - 512)
                if checksum(file.read(512)) != entry["video_sum"]:
                    return True
        return False


def remedy(tar: str) -> str:
    """The command that makes the index of a tar again."""
    return REMEDY.format("FOLDER, if the tars are on a local disk" if is_remote(tar) else os.path.dirname(tar))
