"""The benchmark of training steps: contenders do the same maths, FLOPs equal the counted ones, reports are complete."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models import clip, decoders, text, vit
from pretrain.cli import main
from pretrain.objectives import UMT
from pretrain.studies.speed import METHODS, Report, Setting, breakdown, end_to_end, growth, products, race
from pretrain.studies.speed.memory import measure_memory
from pretrain.studies.speed.race import Method
from pretrain.studies.speed.step import Contender
from pretrain.studies.speed.umt import plain_umt
from tests.helpers.paths import ROOT
from tests.helpers.runs import SMALL

TINY = Setting("tiny", batch=2, frames=8, pixels=64)


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A size that takes milliseconds."""
    width = {"width": 96, "depth": 6, "heads": 4, "mlp": 384, "patch": 16}
    monkeypatch.setitem(vit.SIZES, "tiny", width)
    monkeypatch.setitem(decoders.DECODER_SIZES, "tiny", {"width": 64, "heads": 4, "mlp": 256})
    monkeypatch.setitem(clip.CLIP_SIZES, "tiny", {**width, "size": 64, "out": 32})
    monkeypatch.setitem(text.TEXT_SIZES, "tiny", {"width": 32, "depth": 2, "heads": 4, "mlp": 64, "out": 32})


def reported(name: str, rounds: int = 2) -> Report:
    return race(name, METHODS[name], TINY, rounds, memory=False)


QUICK = ("videomae", "umt", "lavie")


def each(*without: str) -> pytest.MarkDecorator:
    """A test a method, most of them slow."""
    rows = [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in METHODS if n not in without]
    return pytest.mark.parametrize("name", rows)


@each("lavie_sampling")  # lavie's without gradients
def test_contenders_have_equal_losses(name: str) -> None:
    """The same losses over three whole steps: forward, backward, clipping and optimiser are the same maths."""
    report = reported(name)
    assert list(report.seconds) == list(METHODS[name].contenders)
    if METHODS[name].same_loss:
        assert report.loss_difference < 2e-5
    assert report.ratio > 0 and report.mfu > 0 and report.memory_ratio is None


@each("vilp")
def test_necessary_flops_are_what_our_step_does(name: str) -> None:
    """Every product is counted, and no needless one is done: within a twentieth, for class tokens and scores of pairs.
    (The cost of ViLP's token scores depends on how many tokens are masked by chance.)"""
    contender = METHODS[name].build("ours", TINY)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        contender.step()
    assert counter.get_total_flops() == pytest.approx(METHODS[name].flops(TINY), rel=0.05)


@pytest.mark.slow
def test_the_peer_does_more(monkeypatch: pytest.MonkeyPatch) -> None:
    peers = {"videomae": "transformers", "viclip": "open_clip", "umt": "plain", "vit": "timm", "lavie": "plain"}
    for name, peer in peers.items():
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            METHODS[name].build(peer, TINY).step()
        assert counter.get_total_flops() > METHODS[name].flops(TINY)


def test_the_plain_lavie_has_the_same_gradients() -> None:
    ours = METHODS["lavie"].build("ours", TINY)
    plain = METHODS["lavie"].build("plain", TINY)
    for contender in (ours, plain):
        contender.loss().backward()
    theirs = dict(plain.model.unet.named_parameters())
    for name, parameter in ours.model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-6, msg=name)


def test_lavie_has_two_sizes_and_masks_nothing() -> None:
    for setting in (Setting("large"), Setting("small", ratio=0.5)):
        with pytest.raises(ValueError, match="measured at the sizes small"):
            METHODS["lavie"].build("ours", setting)


def test_the_plain_umt_has_the_same_gradients() -> None:
    ours = METHODS["umt"].build("ours", TINY)
    model: UMT = ours.model
    clip_ = torch.randn(2, 3, 8, 64, 64, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(2, 8 * 16, generator=torch.Generator().manual_seed(0))
    target, keep = model.teacher_targets(clip_, noise)
    found = []
    for loss in (model.alignment_loss(clip_, keep, target), plain_umt(model, clip_, noise)):
        model.zero_grad()
        loss.backward()
        found.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    torch.testing.assert_close(*found, atol=1e-6, rtol=1e-4)


def heavy(megabytes: int) -> Contender:
    """A step that allocates so much once, besides a model of 4 MB and its gradient."""
    model = torch.nn.Linear(1000, 1000, bias=False)

    def loss() -> torch.Tensor:
        held = torch.ones(megabytes * 250_000)
        return model(held[:1000]).sum()

    return Contender(model, loss, torch.optim.SGD(model.parameters(), 0.1))


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory of a step is measured on Linux")
def test_memory_is_that_of_the_step() -> None:
    found = measure_memory(heavy, 200)
    assert found["model"] == 4_000_000
    assert found["step"] == pytest.approx(200e6, rel=0.05)


def test_reports() -> None:
    report = reported("videomae", 1)
    report.memory = {"ours": {"step": 1, "model": 3}, "transformers": {"step": 2, "model": 3}}
    facts = json.loads(json.dumps(report.json()))
    assert {"ratio", "mfu", "memory_ratio", "loss_difference"} <= set(facts)
    assert facts["memory_ratio"] == 0.5 and facts["whole_memory_ratio"] == 0.8
    assert torch.__version__.startswith(facts["machine"]["torch"]) and facts["setting"]["pixels"] == 64
    text_ = report.markdown()
    assert "| transformers |" in text_ and "MFU" in text_ and f"{report.ratio:.2f}x" in text_


@pytest.mark.slow
def test_growth_is_a_race_at_each_point(tmp_path: Path) -> None:
    found = growth.grow("vit", METHODS["vit"], TINY, {"frames": (2, 4), "ratio": (0.5,)}, rounds=1, memory=False)
    assert [r.setting["frames"] for r in found["frames"].values()] == [2, 4]
    assert found["frames"][4].flops > 2 * found["frames"][2].flops  # attention grows faster than the tokens
    assert found["ratio"][0.5].setting["ratio"] == 0.5
    lines = growth.as_markdown(found).splitlines()
    assert lines[0].startswith("| frames | ours, s | timm, s | ratio | MFU |") and len(lines) == 4 + 1 + 3
    growth.draw(found, tmp_path / "growth.png")
    with Image.open(tmp_path / "growth.png") as picture:
        assert picture.size[0] > 500


def test_the_breakdown_of_a_step() -> None:
    """The parts add up to the step, each is there, and no step is faster than its floor."""
    found = breakdown.profile_step("vit", METHODS["vit"], TINY, steps=2)
    parts = found.products, found.attention, found.rest, found.optimiser
    assert min(parts) > 0 and sum(parts) == pytest.approx(found.step)
    trained = sum(p.numel() for p in METHODS["vit"].build("ours", TINY).model.parameters() if p.requires_grad)
    assert found.bytes == 40 * trained and 0 < found.floor < found.step
    lines = breakdown.as_markdown([found, found]).splitlines()
    assert len(lines) == 4 + 3 and lines[2].startswith("| vit tiny, batch 2, 8 frames |")


def test_the_products_of_a_step_are_counted_and_timed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "_SECONDS", 1e-3)
    conv, linear = torch.nn.Conv2d(3, 4, 3), torch.nn.Linear(36, 36)
    model = torch.nn.Sequential(conv, torch.nn.Flatten(), linear, linear, torch.nn.Unflatten(1, (1, 1, 36)))
    inputs = torch.randn(2, 3, 5, 5)

    def loss() -> torch.Tensor:
        x = model(inputs)
        return torch.nn.functional.scaled_dot_product_attention(x, x, x).square().sum()

    contender = Contender(model, loss, torch.optim.SGD(model.parameters(), 0.1))
    method = Method(lambda name, setting: contender, ("ours",), lambda setting: 1e6, (), "")
    found = products.products_alone("this", method, Setting(), rounds=1)
    # A convolution and its gradients; of each linear layer one product forward and two backward, equal ones in shape.
    assert found.calls == {"products": 2 + 2 * 3, "attention": 2}
    assert found.shapes == {"products": 2 + 3, "attention": 2}
    assert min(found.seconds.values()) > 0 and found.bound == 1e6 / sum(found.seconds.values()) / found.gemm
    assert found.json()["bound"] == found.bound and "| products | 8 | 5 | " in found.markdown()


TINY_RUN = ["-c", "recipes/videomae_tiny.yaml", *SMALL, "--data.init_args.micro_batch=4"]


def test_a_run_is_timed_against_its_bare_step(monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run

    def in_this_process(command: list[str], **options) -> subprocess.CompletedProcess:
        if "fit" not in command:  # git, for the commit in the report
            return run(command, **options)
        main(command[command.index("fit") :])
        return subprocess.CompletedProcess(command, 0, "")

    monkeypatch.setattr(end_to_end.subprocess, "run", in_this_process)
    began = time.perf_counter()
    found = end_to_end.time_fit(TINY_RUN, steps=5)
    assert 0 < found.start < time.perf_counter() - began
    assert found.clips == 4 * 4 and 0 < found.wait < found.interval < found.start and found.bare > 0
    facts = found.json()
    assert facts["efficiency"] == found.bare / found.interval and facts["wait_share"] == found.wait / found.interval
    assert f"{found.efficiency:.3f} of its throughput" in found.markdown()


def test_gradient_accumulation_is_refused() -> None:
    trainer = SimpleNamespace(accumulate_grad_batches=2)
    with pytest.raises(ValueError, match="micro_batch to the global batch"):
        end_to_end.Stopwatch("nowhere").on_train_batch_start(trainer, None, None, 0)


def test_a_run_that_fails_says_how(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], 1, "no such recipe")
    monkeypatch.setattr(end_to_end.subprocess, "run", lambda command, **options: failed)
    with pytest.raises(RuntimeError, match="fit failed: no such recipe"):
        end_to_end.time_fit(["-c", "nothing.yaml"], steps=3)


@pytest.mark.slow
def test_the_command_times_a_run(tmp_path: Path) -> None:
    command = [sys.executable, "tools/benchmark.py", "fit", "--steps", "4", "--", *TINY_RUN]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "clips/s" in ran.stdout and "of the time spent waiting for data" in ran.stdout


@pytest.mark.slow
def test_the_command_takes_a_letter_for_a_size() -> None:
    options = ["train", "--method", "vit", "--size", "s", "--frames", "2", "--pixels", "32", "--batch", "1"]
    command = [sys.executable, "tools/benchmark.py", *options, "--rounds", "1", "--no-memory"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert "## vit: size small" in ran.stdout
