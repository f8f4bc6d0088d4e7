"""Batches for a GPU are pinned, and their copies do not make the host wait for the GPU's work."""

import time

import pytest
import torch

from tests.helpers.devices import CUDA, EACH_DEVICE
from tests.helpers.recording import RecordingModule, data, trainer


class Transfers(RecordingModule):
    """Records of each batch whether it is pinned, and whether the GPU was still at work once the copy was queued."""

    def __init__(self) -> None:
        super().__init__()
        self.pinned: list[bool] = []
        self.ran_ahead: list[bool] = []

    def transfer_batch_to_device(self, batch: dict, device: torch.device, dataloader_idx: int) -> dict:
        self.pinned.append(batch["video"].is_pinned())
        moved = super().transfer_batch_to_device(batch, device, dataloader_idx)
        if device.type == "cuda":
            self.ran_ahead.append(not torch.cuda.current_stream().query())
        return moved

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        if batch["video"].is_cuda:
            torch.cuda._sleep(100_000_000)  # some 50 ms of work
        return (self.weight * batch["video"].float().mean()).sum()


@EACH_DEVICE
@pytest.mark.parametrize("workers", [0, 1])
def test_batches_are_pinned_for_a_gpu_only(device: str, workers: int) -> None:
    module = Transfers()
    runner = trainer(accelerator="gpu" if device == "cuda" else "cpu", devices=1, max_steps=3, limit_val_batches=0)
    runner.fit(module, datamodule=data(workers=workers, micro_batch=6))
    assert module.pinned and set(module.pinned) == {device == "cuda"}
    if device == "cuda":  # the first step has nothing to run ahead of
        assert any(module.ran_ahead[1:])


@pytest.mark.parametrize("device", [CUDA])
def test_a_pinned_copy_does_not_wait_for_the_gpu(device: str) -> None:
    video = torch.zeros(8, 3, 16, 224, 224, dtype=torch.uint8).pin_memory()
    video.to(device, non_blocking=True)
    torch.cuda.synchronize()
    torch.cuda._sleep(1_000_000_000)  # about half a second
    start = time.perf_counter()
    video.to(device, non_blocking=True)
    assert time.perf_counter() - start < 0.2 and not torch.cuda.current_stream().query()
    torch.cuda.synchronize()
