"""On a GPU: no step of any method makes the host wait, and compiled blocks give eager's losses without recompiling."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch

from pretrain.learning import parallel
from tests.helpers.devices import CUDA
from tests.helpers.methods import METHODS
from tests.helpers.runs import fit, losses

FIRST, LAST = 2, 7  # micro-batches, two of a step: what is made at the first step may wait


class ErrorOnSync(pl.Callback):
    """From micro-batch `FIRST` to the end of `LAST`, an operation on a GPU for which the host waits is an error."""

    def __init__(self, path: str) -> None:
        self.path, self.checked = path, []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx: int) -> None:
        self.checked.append(batch_idx)
        if batch_idx == FIRST and pl_module.device.type == "cuda":
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx: int) -> None:
        if batch_idx == LAST:
            Path(self.path).write_text(str(self.checked[FIRST:]))
            if pl_module.device.type == "cuda":
                torch.cuda.set_sync_debug_mode("default")


class ErrorOnRecompile(pl.Callback):
    """From the fourth step on, a further graph is an error."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx: int) -> None:
        if batch_idx == 3:
            torch._dynamo.config.error_on_recompile = True


@pytest.fixture
def modes() -> Iterator[None]:
    """Puts both modes back, whatever happens in between."""
    torch.compiler.reset()
    yield
    torch._dynamo.config.error_on_recompile = False
    torch.compiler.reset()
    if torch.cuda.is_available():
        torch.cuda.set_sync_debug_mode("default")


def run(folder: Path, method: str, device: str, callback: str, *more: str) -> Path:
    accelerator = f"--trainer.accelerator={'gpu' if device == 'cuda' else 'cpu'}"
    options = [accelerator, "--trainer.devices=1", "--trainer.precision=bf16-mixed", *more]
    return fit(folder, METHODS[method], f"--trainer.callbacks+={callback}", *options)


SYNC_CASES = [
    pytest.param("videomae", "cpu", id="videomae-cpu"),
    *(pytest.param(name, *CUDA.values, id=f"{name}-cuda", marks=CUDA.marks) for name in METHODS),
]


@pytest.mark.parametrize("method, device", SYNC_CASES)
def test_no_step_waits_for_the_device(tmp_path: Path, modes: None, method: str, device: str) -> None:
    """Three steps, with clipping, averaged weights and the guard; the run logs less often."""
    options = ["--trainer.max_steps=4", "--data.init_args.micro_batch=2", "--trainer.log_every_n_steps=50"]
    options += ["--trainer.gradient_clip_val=1.0", "--guard.factor=10", "--trainer.callbacks+=EMA"]
    place = f"--trainer.callbacks.path={tmp_path}/checked.txt"
    callback = "tests.engine.test_steps_on_device.ErrorOnSync"
    run(tmp_path, method, device, callback, place, *options)
    assert (tmp_path / "checked.txt").read_text() == str(list(range(FIRST, LAST + 1)))


COMPILED = [
    *(pytest.param(name, "cpu", id=f"{name}-cpu", marks=pytest.mark.slow) for name in ("videomae", "umt")),
    *(pytest.param(name, *CUDA.values, id=f"{name}-cuda", marks=CUDA.marks) for name in ("videomae", "umt")),
]


@pytest.mark.parametrize("method, device", COMPILED)
def test_compiled_equals_eager_and_does_not_recompile(
    tmp_path: Path, modes: None, method: str, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU only the graphs are the same: their kernels would take minutes to compile."""
    if device == "cpu":
        monkeypatch.setattr(parallel, "compile_blocks", partial(parallel.compile_blocks, backend="eager"))
    found = []
    for compiled in ("false", "true"):
        folder = tmp_path / compiled
        folder.mkdir()
        note = "--trainer.callbacks+=tests.helpers.runs.LossRecorder", f"--trainer.callbacks.path={folder}/losses.tsv"
        callback = "tests.engine.test_steps_on_device.ErrorOnRecompile"
        options = f"--model.init_args.compile={compiled}", "--trainer.limit_val_batches=0"  # which needs other graphs
        run(folder, method, device, callback, *options, *note)
        found.append([losses(folder)["train", step][0] for step in range(1, 7)])
        torch._dynamo.config.error_on_recompile = False
    eager, graphs = found
    assert graphs == pytest.approx(eager, rel=0.02) and len(eager) == 6
