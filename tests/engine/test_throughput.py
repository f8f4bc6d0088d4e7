"""MFU on the progress line: FLOP of a step times steps, over the time and the peak of the device."""

import resource
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from pretrain.cli import main, settings_of
from pretrain.engine import monitoring
from pretrain.engine.monitoring import Progress, Throughput
from pretrain.plan.estimate import Plan
from pretrain.plan.step_flop import StepFlop
from tests.helpers.runs import arguments

RECIPE = ["-c", "recipes/videomae_tiny.yaml"]


def test_peak_memory_has_the_unit_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=3_000_000))
    for system, gigabytes in (("linux", 3.072), ("darwin", 0.003)):
        monkeypatch.setattr(sys, "platform", system)
        assert monitoring._memory_gb(torch.device("cpu")) == pytest.approx(gigabytes)


class Counted:
    """FLOP that are known from the second window on, on a device with a known peak."""

    def __init__(self, flop: float, peak: float | None) -> None:
        self.flop, self.known_peak, self.asked, self.devices = flop, peak, 0, 0

    def peak(self, device: torch.device, dtype: torch.dtype) -> float | None:
        return self.known_peak

    def start(self, devices: int) -> None:
        self.devices = devices

    def result(self) -> float | None:
        self.asked += 1
        return self.flop if self.asked > 1 else None

    def stop(self) -> None:
        self.devices = 0


class Module:
    """The part of a LightningModule that the callback uses; keeps what is logged."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.logged: list[tuple[str, float]] = []

    def log(self, name: str, value: torch.Tensor, **options: object) -> None:
        assert isinstance(value, torch.Tensor) and value.device.type == "cpu"  # a number would be copied to the GPU
        self.logged.append((name, float(value)))


def fake_trainer(parts: int, world: int) -> SimpleNamespace:
    loader = SimpleNamespace(waited=0.0)
    facts = {"accumulate_grad_batches": parts, "world_size": world, "is_global_zero": True, "precision": "bf16-mixed"}
    return SimpleNamespace(train_dataloader=loader, **facts)


@pytest.mark.parametrize("parts, world", [(1, 1), (2, 4)])
def test_mfu_is_flop_times_steps_over_time_and_peak(parts: int, world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(monitoring.time, "perf_counter", lambda: now[0])
    count, module, trainer = Counted(flop=6e12, peak=1e14), Module(), fake_trainer(parts, world)
    callback = Throughput(window=5, step_flop=count)
    callback.on_train_start(trainer, module)
    assert count.devices == world
    for batch_idx in range(15 * parts):
        now[0] += 0.25 / parts
        callback.on_train_batch_end(trainer, module, None, {"name": ["a", "b", "c"]}, batch_idx)
    shown = [value for name, value in module.logged if name == "mfu"]
    assert shown == pytest.approx(2 * [6e12 * 5 / (5 * 0.25) / 1e14])  # of the second and the third window
    rates = [value for name, value in module.logged if name == "clips/s"]
    assert rates == pytest.approx(3 * [3 * parts * world / 0.25])


def test_without_a_known_peak_there_is_no_mfu_and_one_line_says_why(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="lightning.pytorch")
    main(arguments(tmp_path, RECIPE, "--trainer.max_steps=2"))
    assert caplog.text.count("no MFU is shown: the peak rate of this cpu") == 1


def test_a_count_that_fails_is_said_and_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    count, module, trainer = StepFlop("model: {class_path: Nothing}"), Module(), fake_trainer(1, 1)
    count.peak = lambda device, dtype: 1e12
    monkeypatch.setattr(sys, "executable", "/bin/false")
    callback = Throughput(window=1, step_flop=count)
    with pytest.warns(UserWarning, match="no MFU is shown: the plan of this recipe failed"):
        callback.on_train_start(trainer, module)
        count.process.wait(60)
        callback.on_train_batch_end(trainer, module, None, {"name": ["a", "b", "c"]}, 0)
    callback.on_train_batch_end(trainer, module, None, {"name": ["a", "b", "c"]}, 1)
    assert "mfu" not in dict(module.logged)
    callback.teardown(trainer, module, "fit")


@pytest.mark.slow
def test_the_run_does_not_wait_for_the_count_which_is_the_plans() -> None:
    recipe = settings_of([*RECIPE, "--data.init_args.size=32"])
    count = StepFlop(yaml.safe_dump(recipe))
    start = time.perf_counter()
    count.start(2)
    assert time.perf_counter() - start < 1 and count.result() is None
    count.process.wait(120)
    assert count.result() == Plan(recipe, 2, "a100-80g").numbers()["flop_a_step"]["model"] / 2
    count.stop()


def test_the_progress_bar_reads_metrics_as_often_as_the_run_logs(monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    monkeypatch.setattr(monitoring.TQDMProgressBar, "get_metrics", lambda *_: read.append(1) or {"loss": len(read)})
    bar, trainer = Progress(), SimpleNamespace(training=True, log_every_n_steps=10, max_steps=25, global_step=0)
    shown = []
    for trainer.global_step in range(1, 26):
        shown.append(bar.get_metrics(trainer, None)["loss"])
    assert shown == 10 * [1] + 10 * [2] + 4 * [3] + [4]
