"""Compiled blocks: no method falls back to eager, recompiles after its third step, or has another result than eager."""

import copy
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from torch._dynamo.utils import counters

from models import CLIPText, VideoViT
from pretrain.learning import parallel
from pretrain.learning.teachers import Frozen
from tests.helpers.methods import METHODS
from tests.helpers.runs import fit, losses

QUICK = ("umt",)  # it has a teacher; the others are slow


class GraphCounter(pl.Callback):
    """Records after each step the number of graphs so far, and checks that the blocks of teachers are compiled."""

    def __init__(self, path: str) -> None:
        self.path, self.graphs = path, []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        self.graphs.append(counters["stats"]["unique_graphs"])
        teachers = [part.model for part in pl_module.modules() if isinstance(part, Frozen)]
        assert all("compute" in vars(block) for teacher in teachers for block in parallel.blocks(teacher))

    def on_train_end(self, trainer, pl_module) -> None:
        Path(self.path).write_text(json.dumps(self.graphs))


@pytest.fixture
def fresh() -> Iterator[None]:
    """Graphs and their counters of this test alone."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def run(folder: Path, method: str, steps: int, *more: str) -> list[float]:
    """The losses of the steps of a short run, whose video tower drops branches at another rate in each block."""
    folder.mkdir()
    model = "--model.init_args.model.init_args" if method == "finetune" else "--model.init_args"
    options = [f"{model}.encoder.init_args.drop_path=0.3", f"--trainer.max_steps={steps}"]
    noted = "--trainer.callbacks+=tests.helpers.runs.LossRecorder", f"--trainer.callbacks.path={folder}/losses.tsv"
    fit(folder, METHODS[method], *options, f"--trainer.val_check_interval={steps}", *noted, *more)
    return [losses(folder)["train", step][0] for step in range(1, steps + 1)]


def compiled(folder: Path, method: str, steps: int, backend: str, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The same of a run with `compile: true`; `graphs.json` in the folder has the number of graphs after each step."""
    monkeypatch.setattr(parallel, "compile_blocks", partial(parallel.compile_blocks, backend=backend))
    counter = "--trainer.callbacks+=tests.engine.test_compiled.GraphCounter"
    path = f"--trainer.callbacks.path={folder}/graphs.json"
    return run(folder, method, steps, "--model.init_args.compile=true", counter, path)


def test_blocks_of_any_drop_rate_and_texts_of_any_length_share_their_graphs(fresh: None) -> None:
    torch.manual_seed(0)
    video, text = VideoViT(24, 12, 2, 48, 8, 2, 4, 16, drop_path=0.3), CLIPText(16, 12, 2, 32, 8, 50, 10)
    for tower in (video, text):
        tower.plain = [copy.deepcopy(tower)]  # in a list: not a part of it
        parallel.compile_blocks(tower, backend="eager")
    for step, length in enumerate((5, 7, 10)):
        inputs = torch.randn(2, 3, 4, 16, 16), torch.randint(50, (2, length))
        found = []
        for towers in ((video, text), (video.plain[0], text.plain[0])):
            torch.manual_seed(step)
            found.append([tower(x) for tower, x in zip(towers, inputs, strict=True)])
        torch.testing.assert_close(*found)
        assert counters["stats"]["unique_graphs"] == 3  # a rate of 0, the other rates, texts


@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.slow] * (m not in QUICK)) for m in METHODS])
def test_no_method_recompiles_after_its_third_step(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """The backend `eager` runs the graphs that every backend gets: breaks in them, and too many of them, are errors."""
    plain = run(tmp_path / "plain", method, 20)
    assert compiled(tmp_path / "graphs", method, 20, "eager", monkeypatch) == pytest.approx(plain, rel=1e-3)
    graphs = json.loads((tmp_path / "graphs/graphs.json").read_text())
    assert graphs[2] > 1 and graphs[2:] == graphs[2:3] * 18
    assert not counters["graph_break"]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["finetune", "umt"])
def test_compiled_kernels_give_the_losses_of_eager(
    fresh: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    plain = run(tmp_path / "plain", method, 6)
    assert compiled(tmp_path / "kernels", method, 6, "inductor", monkeypatch) == pytest.approx(plain, rel=1e-3)
