"""Sliding windows over whole videos of any length: batches of clips that start `step` frames apart.

`Survey` first determines the lengths of all videos, without decoding; the rank and batch of each window follow by
arithmetic. A batch is filled frame by frame: its memory does not depend on the length of the video.

Letters: `B` windows in a batch, `T` frames of a window.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from datamodules.clips.crops import Size
from datamodules.clips.eval_views import EvalView
from datamodules.decoding.contract import DecodeError, Video
from datamodules.loading import reading
from datamodules.loading.cadence_check import check_cadence
from datamodules.loading.clip import Clip, video_shape
from datamodules.loading.collate import all_skipped, collate
from datamodules.loading.rows import Memory, RowBatches
from datamodules.loading.survey import VideoInfo, assign_to_ranks
from datamodules.sources.source import Sample, Source

_SPANS = 4  # of a window's frames, in a row; a row and the next share fewer than one


def count(length: int, frames: int, stride: int, step: int) -> int:
    """Number of whole windows in a video of `length` frames; 1 if it is shorter than a window."""
    return max(0, length - span(frames, stride)) // step + 1


def span(frames: int, stride: int) -> int:
    """Frames of the video that a window covers, the first and the last included."""
    return (frames - 1) * stride + 1


def window(number: int, length: int, frames: int, stride: int, step: int) -> np.ndarray:
    """Frame indices [T] of a window; if the video is shorter, its last frame is repeated."""
    return np.minimum(number * step + stride * np.arange(frames), length - 1)


class Windows(RowBatches):
    """Batches of one rank: `B` consecutive windows each, through the rank's videos in order.

    A row is what one process makes: consecutive windows, as many as make the frames that it shares with the next row a
    small part of its own.

    Args:
        source: all videos.
        clip: its `frames`, `stride`, `size` and `view` make a window.
        step: frames from the start of one window to the start of the next.
        videos: those of this rank, in order.
        micro: B.
        batches: number of batches, the same for every rank; those beyond the end are all padding.
    """

    def __init__(
        self, source: Source, clip: Clip, step: int, videos: list[VideoInfo], micro: int, batches: int
    ) -> None:
        self.source, self.clip, self.step, self.videos = source, clip, step, videos
        self.micro, self.batches = micro, batches
        self.row = min(micro, -(-_SPANS * span(clip.frames, clip.stride) // step))  # windows
        self.ends = np.cumsum([count(v.frames, clip.frames, clip.stride, step) for v in videos], dtype=np.int64)
        self.open: tuple[int, Reader] | None = None  # kept open: the next batch often continues in it

    def __len__(self) -> int:
        return self.batches

    def rows(self, index: int) -> int:
        return -(-self.micro // self.row)

    def shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        return {"video": video_shape(1, self.micro, self.clip)}

    def batch(self, index: int, memory: Memory, made: list[dict[str, Any]]) -> dict:
        """`video` uint8 [B, C, T, H, W], `name`, `weight` float [B] (0 for padding and unreadable rows), and `window`.

        `window` int64 [B, 3]: number of the video in the source, number of the window in the video, and the middle of
        the window in microseconds (-1 if the video has no times).
        """
        samples = [sample for row in made for sample in row["samples"]]
        weight, place = torch.cat([row["weight"] for row in made]), torch.cat([row["window"] for row in made])
        batch = {**collate(memory["video"], _BARE, samples), "weight": weight, "window": place}
        return {**batch, "skipped": list(dict.fromkeys(all_skipped(made)))}

    def make(self, index: int, row: int, memory: Memory) -> dict[str, Any]:
        first = row * self.row  # of the batch's windows
        video = memory["video"][0, first : first + self.row]  # [n, T, H, W, 3]
        video.zero_()
        skipped, samples = [], [Sample("", "")] * len(video)
        weight, place = torch.zeros(len(video)), torch.full((len(video), 3), -1)
        begin = at = index * self.micro + first
        end = min(begin + len(video), int(self.ends[-1])) if len(self.ends) else 0
        while at < end:
            which = int(np.searchsorted(self.ends, at, side="right"))
            until = min(end, int(self.ends[which]))
            rows = slice(at - begin, until - begin)
            before = int(self.ends[which - 1]) if which else 0
            numbers = range(at - before, until - before)
            about = self.videos[which]
            samples[rows] = [Sample(about.name, "")] * len(numbers)
            try:
                place[rows] = self._fill(video[rows], about, numbers)
                weight[rows] = 1
            except DecodeError as error:
                skipped.append((about.name, error.reason))
                video[rows] = 0
            at = until
        return {"samples": samples, "weight": weight, "window": place, "skipped": skipped}

    def _fill(self, out: torch.Tensor, about: VideoInfo, numbers: range) -> torch.Tensor:
        """Writes these windows of a video to `out` [n, T, H, W, 3]; returns their rows of `window`, [n, 3]."""
        clip = self.clip
        wanted = np.stack([window(n, about.frames, clip.frames, clip.stride, self.step) for n in numbers])  # [n, T]

        def pictures() -> np.ndarray:
            try:
                reader = self._reader(about)
                for index in np.unique(wanted).tolist():
                    picture = torch.from_numpy(reader.picture(index))
                    for row, t in np.argwhere(wanted == index).tolist():
                        out[row, t] = picture
                return reader.middles(wanted[:, 0], wanted[:, -1])
            except DecodeError:
                self.close()
                raise

        middles = reading.decode(about.name, self.source.place(about.number), pictures)
        rows = [np.full(len(numbers), about.number), np.array(numbers), middles]
        return torch.from_numpy(np.stack(rows, axis=1).astype(np.int64))

    def _reader(self, about: VideoInfo) -> "Reader":
        if self.open is None or self.open[0] != about.number:
            self.close()
            sample = self.source[about.number]
            check_cadence(sample, self.clip.stride)
            video = sample.open(self.clip.decoder)
            if sample.length(video) != about.frames:
                video.close()
                raise DecodeError(about.name, "it has changed since its length was determined")
            keep = span(self.clip.frames, self.clip.stride)
            self.open = about.number, Reader(video, self.clip.view, self.clip.size, keep)
        return self.open[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "open": None}  # another process opens its own video

    def close(self) -> None:
        """Closes the open video."""
        if self.open is not None:
            self.open[1].video.close()
        self.open = None


def windows_of_rank(
    source: Source, clip: Clip, step: int, videos: list[VideoInfo], rank: int, world: int, micro: int
) -> Windows:
    """The batches of one rank, of at most `micro` windows, of those videos of all ranks that are not done."""

    def windows(video: VideoInfo) -> int:
        return count(video.frames, clip.frames, clip.stride, step)

    shares = assign_to_ranks([video for video in videos if not video.done], windows, world)
    most = max(sum(map(windows, share)) for share in shares)
    if most == 0:
        rank_zero_info(f"nothing to do: all {len(videos)} readable videos are done")
    micro = max(1, min(micro, most))
    return Windows(source, clip, step, shares[rank], micro, -(-most // micro))


class _Bare(Source):
    """Stands for the source in `collate`: windows have no texts and labels."""

    counts = 1

    def __getitem__(self, index: int) -> Sample:
        raise IndexError(index)


_BARE = _Bare()


class Reader:
    """Frames of an open video as pictures, by frame number; decoding continues from the last frame where possible.

    Args:
        video: the open video.
        view: turns a frame into a picture.
        size: of a picture, in pixels.
        keep: number of the latest pictures that stay in memory, since neighbouring windows overlap.
    """

    def __init__(self, video: Video, view: EvalView, size: Size, keep: int) -> None:
        self.video, self.view, self.size, self.keep = video, view, size, keep
        self.kept: dict[int, np.ndarray] = {}
        self.frames: Iterator[Callable[[], np.ndarray]] | None = None  # the stream
        self.at = 0  # number of its next frame

    def picture(self, index: int) -> np.ndarray:
        """uint8 [size, size, 3]. DecodeError if the frame cannot be decoded."""
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
        """Middles of windows from frame `first` to frame `last`, in microseconds [n]; -1 if the video has no times."""
        seconds = (self.video.seconds(first) + self.video.ends(last)) / 2
        return np.where(np.isnan(seconds), -1, np.round(1e6 * seconds))
