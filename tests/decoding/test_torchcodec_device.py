"""torchcodec decodes where it is told to; its frames come to the host."""

import multiprocessing
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch

from datamodules.decoding.reader import PyAV, TorchCodec
from tests.helpers import videos
from tests.helpers.devices import CUDA


@pytest.fixture
def path(tmp_path: Path) -> str:
    return videos.make(tmp_path / "a.mp4", frames=40, height=160, width=256)


class Device:
    """Stands for torchcodec's decoder: as many frames as are asked for, of its number, and where it was told to be."""

    made: ClassVar[list[tuple[str, int]]] = []

    def __init__(self, content: str, device: str, num_ffmpeg_threads: int, **_: object) -> None:
        self.made.append((device, num_ffmpeg_threads))
        self.metadata = SimpleNamespace(
            average_fps=24, height=8, width=16, begin_stream_seconds=0, end_stream_seconds=1, num_frames=24
        )

    def get_frames_at(self, indices: list[int]) -> SimpleNamespace:
        frames = torch.tensor(indices, dtype=torch.uint8)[:, None, None, None].expand(-1, 8, 16, 3)
        return SimpleNamespace(data=SimpleNamespace(cpu=lambda: frames))  # a tensor elsewhere has no numpy()


def test_frames_of_another_device_come_to_the_host(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = ModuleType("torchcodec.decoders")
    fake.VideoDecoder = Device
    monkeypatch.setitem(sys.modules, "torchcodec", ModuleType("torchcodec"))
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", fake)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Device, "made", [])
    for device in ("cpu", "cuda"):
        with TorchCodec(device).open(path) as video:
            assert [int(frame.mean()) for frame in video.frames([5, 3, 5])] == [5, 3, 5]
    assert Device.made == [("cpu", 1), ("cuda", 1)]


def test_a_device_that_cannot_be_used_is_an_error_with_its_remedy(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match=r"needs a GPU, and there is none: set it to cpu"):
        TorchCodec("cuda").open(path)
    monkeypatch.setattr(multiprocessing, "parent_process", object)
    with pytest.raises(RuntimeError, match=r"set data.workers to 0, or the device to cpu"):
        TorchCodec("cuda").open(path)


@pytest.mark.parametrize("device", [CUDA])
def test_the_gpu_decodes_the_frames_of_a_cpu(path: str, device: str) -> None:
    pytest.importorskip("torchcodec")
    with TorchCodec(device).open(path) as there, PyAV().open(path) as here:
        indices = [30, 2, 2, 39, 0]
        assert [videos.number(frame) for frame in there.frames(indices)] == indices
        apart = np.abs(there.frames(indices).astype(int) - here.frames(indices))
        assert apart.mean() < 3
        assert there.seconds(indices) == pytest.approx(here.seconds(indices))
