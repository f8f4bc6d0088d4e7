"""Datasets for loading processes: the clips of each video that are encoded, and the keys of their contents."""

import hashlib
import json
import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from datamodules.clips.frame_by_frame import scaled_frames
from datamodules.clips.rectangles import CentreRectangle
from datamodules.clips.sampling import Dense
from datamodules.decoding.contract import DecodeError, Video
from datamodules.decoding.reader import Decoder
from datamodules.loading import heartbeat
from datamodules.sources.buckets import Bucket, members
from datamodules.sources.source import Sample, Source

_BLOCK = 2**20  # bytes of a file that are read at once


class Clips(Dataset):
    """Item i: `name`, `text` and `label` of sample i, its `key`, the `fps` of a clip, and its `clips`.

    A clip is a pair of a bucket's number and uint8 [T, H, W, 3]. `reason` says why there is none, or is None; then
    `key` is None if the content cannot be read.

    Args:
        stride: between the frames of a clip.
        count: clips for each bucket that a video belongs to.
    """

    def __init__(self, source: Source, buckets: Sequence[Bucket], stride: int, count: int, decoder: Decoder) -> None:
        self.source, self.buckets, self.stride, self.count, self.decoder = source, buckets, stride, count, decoder
        self.spans = [b.frames * stride if b.frames > 1 else 1 for b in buckets]

    def __getitem__(self, index: int) -> dict:
        item: dict[str, Any] = {"name": self.source.describe(index), "key": None, "reason": None, "clips": []}
        try:
            heartbeat.begin(self.source.describe(index))
            sample = self.source[index]
            item |= {"name": sample.name, "text": sample.text, "label": sample.label, "key": content_key(sample)}
            with heartbeat.decoding(sample.name), sample.open(self.decoder) as video:
                item["fps"] = float(video.fps) / self.stride
                item["clips"] = self._cut(video, sample.length(video))
        except DecodeError as error:
            item |= {"name": error.name, "reason": error.reason}
        return item

    def _cut(self, video: Video, length: int) -> list[tuple[int, np.ndarray]]:
        size = np.array([(length, *video.size)])
        fitting = [j for j, found in enumerate(members(self.buckets, size, self.spans)) if len(found)]
        if not fitting:
            raise DecodeError(video.name, f"{length} frames of {video.size[0]}x{video.size[1]} fit no bucket")
        made = []
        for j in fitting:
            bucket = self.buckets[j]
            scale = partial(CentreRectangle(), size=(bucket.height, bucket.width))
            for number in range(self.count):
                indices = Dense().view(length, bucket.frames, self.stride, number, self.count)
                made.append((j, scaled_frames(video, indices, scale)))
        return made


class Keys(Dataset):
    """Item i: `name` and `key` of sample i; the key is None if the content cannot be read."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __getitem__(self, index: int) -> dict:
        try:
            heartbeat.begin(self.source.describe(index))
            sample = self.source[index]
            return {"name": sample.name, "key": content_key(sample)}
        except DecodeError as error:
            return {"name": error.name, "key": None}


def content_key(sample: Sample) -> str:
    """A hash of the video's bytes (of a generated one its frames), its name, captions, class and end.

    Raises:
        DecodeError: the content cannot be read.
    """
    digest = hashlib.sha256()
    if isinstance(sample.content, bytes):
        digest.update(sample.content)
    elif isinstance(sample.content, str):
        try:
            if not os.path.isfile(sample.content) and os.path.exists(sample.content):
                raise DecodeError(sample.name, "not a regular file")  # a pipe or a device may never end
            with open(sample.content, "rb") as file:
                while block := file.read(_BLOCK):
                    digest.update(block)
        except (OSError, ValueError) as error:  # ValueError: a null byte in the path
            raise DecodeError(sample.name, error) from None
    else:
        for frame in sample.content.stream():
            digest.update(np.ascontiguousarray(frame()).data)
    about = [sample.name, sample.text, sample.label, sample.end]
    digest.update(json.dumps(about).encode())
    return digest.hexdigest()
