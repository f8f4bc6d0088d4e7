"""Copies for playing: the same frames at the expected times, keyframes close together, one frame in memory."""

import resource
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.decoding.contract import DecodeError, Video
from datamodules.decoding.reader import PyAV
from pretrain.assistant.browser_copy import GOP, copy_rate, copy_size, write_browser_copy
from pretrain.assistant.film import LIMITS, open_film
from pretrain.assistant.tracker import Cancelled
from pretrain.generation.film_file import write_film
from tests.helpers.videos import make, number


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"height": 51, "width": 75},
        {"codec": "mpeg4", "fps": 5},
        {"stamps": [i + i // 5 for i in range(40)]},  # a varying rate
    ],
    ids=["plain", "odd sides", "mpeg4", "varying rate"],
)
def test_frame_i_of_a_copy_is_frame_i_of_the_film_and_shown_at_i_by_its_rate(how: dict, tmp_path: Path) -> None:
    film = make(tmp_path / "film.mp4", **how)
    with PyAV().open(film) as video:
        rate, expected = copy_rate(video.fps), [number(frame) for frame in video.frames(range(len(video)))]
        assert write_browser_copy(tmp_path / "copy.mp4", video) == len(video) == 40
    with PyAV().open(str(tmp_path / "copy.mp4")) as copy:
        assert [number(frame) for frame in copy.frames(range(len(copy)))] == expected
        np.testing.assert_allclose(copy.seconds(range(len(copy))), np.arange(40) / rate, atol=1e-4)
    with av.open(str(tmp_path / "copy.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        packets = [packet for packet in container.demux(stream) if packet.size]
        keys = [i for i, packet in enumerate(packets) if packet.is_keyframe]
        assert max(np.diff([*keys, len(packets)])) <= GOP
        assert [packet.pts for packet in packets] == [packet.dts for packet in packets], "no B-frames"
        assert packets[0].pts == 0


def test_sizes_are_even_and_at_most_1280() -> None:
    assert copy_size((51, 75)) == (52, 76) and copy_size((720, 1280)) == (720, 1280)
    assert copy_size((2160, 3840)) == (720, 1280) and copy_size((3, 4000)) == (2, 1280)


def test_an_unknown_rate_is_25() -> None:
    assert copy_rate(0.0) == copy_rate(90000.0) == 25.0 and copy_rate(30000 / 1001) == 30000 / 1001


class _Long(Video):
    """Frames that are made when they are read, and counted while they live."""

    name, fps, size = "long", 30.0, (16, 16)

    def __init__(self, count: int) -> None:
        self.count, self.alive, self.most = count, 0, 0

    def __len__(self) -> int:
        return self.count

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        raise AssertionError("a copy reads in order")

    def stream(self, first: int = 0) -> Iterator[Callable[[], np.ndarray]]:
        def read() -> np.ndarray:
            frame = np.zeros((16, 16, 3), np.uint8)
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(frame, self._gone)
            return frame

        for _ in range(first, self.count):
            yield read

    def _gone(self) -> None:
        self.alive -= 1


def test_the_memory_of_a_copy_does_not_grow_with_the_film(tmp_path: Path) -> None:
    most = []
    for count in (50, 1500):
        film = _Long(count)
        write_browser_copy(tmp_path / "copy.mp4", film)
        most.append(film.most)
    assert most[0] == most[1] <= 3


def test_a_cancelled_copy_and_one_of_a_damaged_film_leave_nothing(tmp_path: Path) -> None:
    done = []
    with PyAV().open(make(tmp_path / "film.mp4")) as video, pytest.raises(Cancelled):
        write_browser_copy(tmp_path / "copy.mp4", video, lambda a, b: done.append((a, b)), lambda: len(done) == 7)
    assert done == [(i + 1, 40) for i in range(7)]
    content = bytearray((tmp_path / "film.mp4").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 600] = bytes(600)
    (tmp_path / "film.mp4").write_bytes(content)
    with PyAV().open(str(tmp_path / "film.mp4")) as video, pytest.raises(DecodeError):
        write_browser_copy(tmp_path / "copy.mp4", video)
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


@pytest.mark.slow
def test_a_film_of_ten_minutes_is_copied_and_seen_in_little_memory(tmp_path: Path) -> None:
    """18,000 frames, which would take 155 MiB at once; pages that a process uses are counted while it copies."""
    count, resident = 18_000, []

    def used() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20

    frames = (np.full((48, 64, 3), 40 + i % 128, np.uint8) for i in range(count))
    write_film(tmp_path / "film.mp4", frames, (48, 64), 30.0, preset="ultrafast", gop=300)
    with open_film(tmp_path / "film.mp4", PyAV(keep=0, limits=LIMITS)) as video:
        before = used()
        assert write_browser_copy(tmp_path / "copy.mp4", video, lambda *_: resident.append(used())) == count
    assert max(resident) - before < 60
    with PyAV().open(str(tmp_path / "copy.mp4")) as copy:
        for index in (0, 9_000, count - 1):
            assert abs(float(copy.frames([index]).mean()) - 40 - index % 128) < 4
