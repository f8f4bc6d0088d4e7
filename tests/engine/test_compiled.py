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

from models import UNET_SIZES, CLIPText, SpatioTemporalUNet, VideoViT
from pretrain.learning import parallel
from pretrain.learning.teachers import Frozen
from tests.helpers.methods import METHODS
from tests.helpers.own_process import own_process
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
    """Graphs, their counters and their limit of this test alone."""
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(recompile_limit=8):  # torch's default
        yield
    torch._dynamo.reset()


def run(folder: Path, method: str, steps: int, *more: str) -> list[float]:
    """The losses of the steps of a short run, whose video tower drops branches at another rate in each block."""
    folder.mkdir()
    model = "--model.init_args.model.init_args" if method == "finetune" else "--model.init_args"
    drop = [] if method == "lavie" else [f"{model}.encoder.init_args.drop_path=0.3"]  # a denoiser drops no branches
    options = [*drop, f"--trainer.max_steps={steps}"]
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


def forwards(tower: VideoViT, sizes: list[int], grad: bool) -> list[torch.Tensor]:
    """Outputs for batches of these sizes, in float32 and under autocast."""
    found = []
    for size in sizes:
        for lowered in (False, True):
            with torch.set_grad_enabled(grad), torch.autocast("cpu", torch.bfloat16, enabled=lowered):
                found.append(tower.train(grad)(torch.ones(size, 3, 4, 16, 16), torch.arange(4).expand(size, 4)))
    return found


def test_evaluation_of_many_kinds_does_not_end_a_run(fresh: None) -> None:
    """Calls of more kinds than torch has graphs by default, which is eight, here one."""
    torch.manual_seed(0)
    tower = VideoViT(24, 12, 1, 48, 8, 2, 4, 16)
    with torch._dynamo.config.patch(recompile_limit=1):
        parallel.compile_blocks(tower, backend="eager")
        forwards(tower, [4], grad=True)
        forwards(tower, [4, 1], grad=False)
    assert counters["stats"]["unique_graphs"] == 6


def test_past_the_limit_evaluation_runs_uncompiled_and_training_is_an_error(
    fresh: None, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    tower = VideoViT(24, 12, 2, 48, 8, 2, 4, 16, drop_path=0.0)
    plain = forwards(tower, [4, 3, 1], grad=False)
    parallel._warn_of_limit.cache_clear()
    parallel.compile_blocks(tower, backend="eager")
    with torch._dynamo.config.patch(recompile_limit=1):
        torch.testing.assert_close(forwards(tower, [4, 3, 1], grad=False), plain)
        assert caplog.text.count("evaluation of Block runs uncompiled") == 1
        with pytest.raises(torch._dynamo.exc.FailOnRecompileLimitHit):
            forwards(tower, [4], grad=True)


@pytest.mark.slow
@own_process
def test_convolutions_over_time_compile_to_the_results_of_eager() -> None:
    """Those of LaVie's super-resolution, at the entry of transformers and after levels."""
    torch.manual_seed(0)
    plain = SpatioTemporalUNet(**UNET_SIZES["tiny_vsr"])
    for parameter in plain.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)  # a layer that starts at zero hides what it does
    network = copy.deepcopy(plain)
    parallel.compile_blocks(network, backend="eager")
    latents, text = torch.randn(2, 4, 5, 8, 8), torch.randn(2, 3, 3, 32)
    rest = {"images": 2, "condition": torch.randn(2, 3, 5, 8, 8), "noise_level": torch.tensor([3, 40])}
    found = []
    for unet in (network, plain):
        out = unet(latents, torch.tensor([10, 900]), text, **rest)
        out.square().mean().backward()
        gradients = {n: p.grad for n, p in unet.named_parameters() if "temporal_res" in n or ".temporal.blocks" in n}
        found.append((out, gradients))
    assert len(found[1][1]) > 40 and all(gradient.any() for gradient in found[1][1].values())
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-3)
    assert counters["stats"]["unique_graphs"] > 1 and not counters["graph_break"]


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
