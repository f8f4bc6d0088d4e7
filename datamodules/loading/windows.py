"""Windows over whole videos, however long: batches of clips that begin `step` frames apart, by number.

The lengths of all videos are looked up first, without decoding (`Survey`); which rank sees which windows in which batch
is then arithmetic. A batch is filled frame by frame, so that memory depends on its size and not on the video's length.

Letters: `B` windows in a batch, `T` frames of a window.
"""

import numpy as np
import torch
from torch.utils.data import Dataset

from datamodules.clips.eval_views import EvalView
from datamodules.decoding.contract import DecodeError, Video
from datamodules.loading import heartbeat
from datamodules.loading.batches import Clip, collate, empty_video
from datamodules.loading.survey import VideoInfo
from datamodules.sources.source import Sample, Source


def count(length: int, frames: int, stride: int, step: int) -> int:
    """Windows of a video of `length` frames: whole ones only, but one where it is shorter than that."""
    return max(0, length - span(frames, stride)) // step + 1


def span(frames: int, stride: int) -> int:
    """Frames of the video from a window's first to its last."""
    return (frames - 1) * stride + 1


def window(number: int, length: int, frames: int, stride: int, step: int) -> np.ndarray:
    """Indices [T] of a window; a video that is shorter repeats its last frame."""
    return np.minimum(number * step + stride * np.arange(frames), length - 1)


class Windows(Dataset):
    """Batch k of one rank: `B` windows after the other, through its videos from the first to the last.

    Args:
        clip: what a window is made like: `frames` at `stride`, each a picture by `view`.
        step: frames between the beginnings of two windows.
        videos: those of this rank, in order.
        micro: B.
        batches: of every rank; those beyond the end are all padding.
    """

    def __init__(
        self, source: Source, clip: Clip, step: int, videos: list[VideoInfo], micro: int, batches: int
    ) -> None:
        self.source, self.clip, self.step, self.videos = source, clip, step, videos
        self.micro, self.batches = micro, batches
        self.ends = np.cumsum([count(v.frames, clip.frames, clip.stride, step) for v in videos], dtype=np.int64)
        self.open: tuple[int, Reader] | None = None  # of this process: the next batch often goes on where this one ends

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, k: int) -> dict:
        """`video` uint8 [B, C, T, H, W], `name`, `weight` float [B], 0 for rows that only pad or could not be read, and
        `window` int64 [B, 3]: the video's number in the source, the window's in the video, and where the middle of its
        time lies in it, in microseconds (-1 where the video has no frame rate)."""
        clip, skipped, samples = self.clip, [], [Sample("", "")] * self.micro
        video = empty_video(1, self.micro, clip.frames, clip.size)
        video.zero_()
        weight, place = torch.zeros(self.micro), torch.full((self.micro, 3), -1)
        end = min((k + 1) * self.micro, int(self.ends[-1])) if len(self.ends) else 0
        at = k * self.micro
        while at < end:
            which = int(np.searchsorted(self.ends, at, side="right"))
            until = min(end, int(self.ends[which]))
            rows = slice(at - k * self.micro, until - k * self.micro)
            before = int(self.ends[which - 1]) if which else 0
            numbers = range(at - before, until - before)
            about = self.videos[which]
            samples[rows] = [Sample(about.name, "")] * len(numbers)
            try:
                place[rows] = self._fill(video[0, rows], about, numbers)
                weight[rows] = 1
            except DecodeError as error:
                skipped.append((about.name, error.reason))
                video[0, rows] = 0
            at = until
        return {**collate(video, _BARE, samples), "weight": weight, "window": place, "skipped": skipped}

    def _fill(self, out: torch.Tensor, about: VideoInfo, numbers: range) -> torch.Tensor:
        """Writes these windows of a video to `out` [n, T, H, W, 3]; gives `window`'s rows of them, [n, 3]."""
        clip = self.clip
        wanted = np.stack([window(n, about.frames, clip.frames, clip.stride, self.step) for n in numbers])  # [n, T]
        with heartbeat.decoding(about.name):
            reader = self._reader(about)
            try:
                for index in np.unique(wanted).tolist():
                    picture = torch.from_numpy(reader.picture(index))
                    for row, t in np.argwhere(wanted == index).tolist():
                        out[row, t] = picture
                middles = reader.middles(wanted[:, 0], wanted[:, -1])
            except DecodeError:
                self.close()
                raise
        rows = [np.full(len(numbers), about.number), np.array(numbers), middles]
        return torch.from_numpy(np.stack(rows, axis=1).astype(np.int64))

    def _reader(self, about: VideoInfo) -> "Reader":
        if self.open is None or self.open[0] != about.number:
            self.close()
            sample = self.source[about.number]
            video = sample.open(self.clip.decoder)
            if sample.length(video) != about.frames:
                video.close()
                raise DecodeError(about.name, "it has changed since its length was looked up")
            keep = span(self.clip.frames, self.clip.stride)
            self.open = about.number, Reader(video, self.clip.view, self.clip.size, keep)
        return self.open[1]

    def close(self) -> None:
        """Closes the video that is open."""
        if self.open is not None:
            self.open[1].video.close()
        self.open = None


class _Bare(Source):
    """A source without texts and labels: windows have none."""

    counts = 1

    def __getitem__(self, index: int) -> Sample:
        raise IndexError(index)


_BARE = _Bare()


class Reader:
    """Pictures of an open video by number, read on from where the last one was.

    Args:
        view, size: how a frame becomes a picture.
        keep: the last pictures that are kept, for the next windows begin before the last one ends.
    """

    def __init__(self, video: Video, view: EvalView, size: int, keep: int) -> None:
        self.video, self.view, self.size, self.keep = video, view, size, keep
        self.kept: dict[int, np.ndarray] = {}
        self.frames, self.at = None, 0  # of the stream

    def picture(self, index: int) -> np.ndarray:
        """uint8 [size, size, 3]. DecodeError where the frame is lost."""
        if index not in self.kept:
            frame = self._frame(index)
            self.kept[index] = np.ascontiguousarray(self.view(frame[None], self.size)[0])
            if len(self.kept) > self.keep:
                del self.kept[next(iter(self.kept))]
        return self.kept[index]

    def _frame(self, index: int) -> np.ndarray:
        if self.frames is None or index < self.at or self.video.decode_start(index) > self.at:
            self.frames, self.at = self.video.stream(index), index
        while True:
            read = next(self.frames, None)
            if read is None:
                raise DecodeError(self.video.name, f"frame {self.at} cannot be decoded")
            self.at += 1
            if self.at > index:
                return read()

    def middles(self, first: np.ndarray, last: np.ndarray) -> np.ndarray:
        """Microseconds [n] into the video where the middle of these windows lies: a frame is shown until the next one
        is. -1 where it has no frame rate."""
        if not self.video.fps > 0:
            return np.full(len(first), -1)
        seconds = (self.video.seconds(first) + self.video.seconds(last) + 1 / self.video.fps) / 2
        return np.round(1e6 * seconds)
