"""Sharded runs equal unsharded ones: losses, gradient norms, averages and checkpoints, in one process and in two."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

import models
from models.convert.sharded import read_sharded
from pretrain.cli import main
from pretrain.engine.checkpoint import is_complete, newest_checkpoint
from pretrain.export.command import export
from pretrain.export.load_run import load_objective
from tests.helpers.methods import METHODS
from tests.helpers.paths import ROOT
from tests.helpers.runs import arguments, losses, run_together, start, without_key_bias
from tests.helpers.runs import run as run_as_own

TRAINER = ROOT / "recipes/trainer"
ZERO = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install -e '.[deepspeed]'"
)
AVERAGED = ["--trainer.callbacks+=EMA", "--trainer.callbacks.decay=0.5", "--trainer.callbacks.start_step=1"]
AVERAGED += ["--trainer.callbacks.every_n_steps=2"]
STOP = ["--trainer.callbacks+=tests.helpers.runs.StopAtStep", "--trainer.callbacks.step=3"]
POISON = ["--trainer.callbacks+=tests.helpers.poison.Poison", "--trainer.callbacks.lost=[[4, 0]]"]
POISON += ["--trainer.callbacks.rank=1", "--trainer.callbacks+=ModelCheckpoint", "--trainer.callbacks.save_top_k=-1"]
POISON += ["--trainer.callbacks.every_n_train_steps=1", "--trainer.callbacks.filename={step:07d}"]
SLOW_ZERO = [("1", "videomae"), ("3", "videomae"), ("viclip", "viclip")]
ONLY_CHECKPOINTS = "{class_path: ModelCheckpoint, init_args: {monitor: step, mode: max, filename: '{step:07d}'}}"
MICRO_BATCHES = ["--data.init_args.micro_batch=1"]  # two per rank


def command(folder: Path, method: str, fragment: str, devices: int, *more: str) -> list[str]:
    """The arguments of six steps of a method with a trainer fragment, clipped gradients, in float32 on CPUs."""
    folder.mkdir(parents=True, exist_ok=True)
    here = [f"--trainer.devices={devices}", "--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    clip = ["--trainer.gradient_clip_val=0.1", "--trainer.val_check_interval=2"]
    record = ["--trainer.callbacks+=tests.helpers.runs.LossRecorder", f"--trainer.callbacks.path={folder}/losses.tsv"]
    even = ["--data.init_args.val.init_args.samples=4"]
    recipe = [*METHODS[method], "-c", str(TRAINER / f"{fragment}.yaml")]
    if method == "lavie" and "deepspeed" in fragment:
        recipe += ["-c", f"{{trainer: {{callbacks: [{ONLY_CHECKPOINTS}]}}}}"]  # its recipe has EMA, which is refused
    return arguments(folder, recipe, *here, *clip, *even, *record, *more)


def last(folder: Path, step: int = 6) -> Path:
    return folder / "run/checkpoints" / f"step={step:07d}.ckpt"


def alone(*args) -> None:
    """A run in this process, which then leaves its process group."""
    try:
        main(command(*args))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process, and runs of two processes, some of them resumed."""
    at = tmp_path_factory.mktemp("sharded")
    for method in ("videomae", "viclip"):
        alone(at / "one" / method, method, "cpu", 1, *AVERAGED)
    two = command(at / "two", "videomae", "fsdp", 2, *AVERAGED, *MICRO_BATCHES, "--background_checkpoints=true")
    runs = [
        [*two, *STOP],
        [*two, "--ckpt_path=last"],
        command(at / "viclip", "viclip", "fsdp", 2, *AVERAGED, "--model.init_args.recompute=true"),
        command(at / "poisoned", "videomae", "fsdp", 2, *POISON),
    ]
    run_together(runs)
    alone(at / "2to1", "videomae", "fsdp", 1, *AVERAGED, f"--ckpt_path={last(at / 'two', 3)}")
    return at


@pytest.fixture(scope="module")
def more(place: Path) -> Path:
    """The same folder with more runs, for the slow tests."""
    alone(place / "one/umt", "umt", "gpu1", 1, *AVERAGED)
    alone(place / "fsdp1", "videomae", "fsdp", 1, *AVERAGED, *STOP)
    runs = [
        command(place / "1to2", "videomae", "fsdp", 2, *AVERAGED, f"--ckpt_path={last(place / 'fsdp1', 3)}"),
        command(place / "ddp", "videomae", "ddp", 2, *AVERAGED),
        command(place / "umt", "umt", "fsdp", 2, *AVERAGED),
        command(place / "copies", "umt", "gpu8", 2, "--trainer.strategy=FSDP2Strategy", "--trainer.strategy.group=1"),
    ]
    run_together(runs)
    alone(place / "2toplain", "videomae", "cpu", 1, *AVERAGED, f"--ckpt_path={last(place / 'two', 3)}")
    return place


def same_numbers(ours: dict, theirs: dict, *, validation: bool = True) -> None:
    """Losses and norms of all training steps of `ours`, and of the validations that both have."""
    steps = [key for key in ours if key[0] == "train" or (validation and key in theirs)]
    assert ("train", 6) in steps and any(key[0] == "val" for key in steps) == validation
    for key in steps:
        # Masks of evaluation are drawn per batch, and two ranks have other batches than one process.
        rel = 5e-3 if key[0] == "val" else 2e-3
        assert ours[key] == pytest.approx(theirs[key], rel=rel, abs=1e-5), key


def same_weights(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        tensor, other = without_key_bias(name, tensor), without_key_bias(name, theirs[name])
        torch.testing.assert_close(tensor, other, atol=2e-5, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


def read(path: Path) -> dict:
    return read_sharded(path) if path.is_dir() else torch.load(path, weights_only=True)


@pytest.mark.parametrize("run,method", [("two", "videomae"), ("2to1", "videomae"), ("viclip", "viclip")])
def test_sharded_runs_equal_one_process(place: Path, run: str, method: str) -> None:
    equal_one_process(place, run, method)


@pytest.mark.slow
@pytest.mark.parametrize("run,method", [*((run, "videomae") for run in ("1to2", "2toplain", "ddp")), ("umt", "umt")])
def test_more_sharded_runs_equal_one_process(more: Path, run: str, method: str) -> None:
    equal_one_process(more, run, method)


def equal_one_process(place: Path, run: str, method: str) -> None:
    """Losses and gradient norms before clipping at each step, validation with the average; weights and averages."""
    one, other = place / "one" / method, place / run
    same_numbers(losses(other), losses(one), validation=method != "viclip")
    a, b = read(last(other)), read(last(one))
    same_weights(a["state_dict"], b["state_dict"])
    same_weights(a["ema"], b["ema"])
    moved = [name for name, tensor in b["ema"].items() if not torch.allclose(tensor, b["state_dict"][name], atol=1e-7)]
    assert len(moved) > len(b["ema"]) / 2  # the average differs from the weights


@pytest.mark.slow
def test_replicas_of_a_sharded_model_equal_one_process(more: Path) -> None:
    same_numbers(losses(more / "copies"), losses(more / "one/umt"), validation=False)
    same_weights(read(last(more / "copies"))["state_dict"], read(last(more / "one/umt"))["state_dict"])


def test_a_scalar_is_clipped_and_stepped_with_the_rest(place: Path) -> None:
    found = [read(last(place / run))["state_dict"]["temperature"] for run in ("viclip", "one/viclip")]
    torch.testing.assert_close(*found, atol=1e-7, rtol=0)  # both are scalars
    assert found[0].item() != pytest.approx(0.07, abs=1e-7)


def test_a_damaged_folder_is_not_the_newest_checkpoint(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(place / "two/run", tmp_path / "run")
    newest, before = last(tmp_path), last(tmp_path, 3)
    os.utime(newest)
    assert newest_checkpoint(tmp_path / "run") == newest
    part = next(newest.glob("__1*.distcp"))
    content = bytearray(part.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    part.write_bytes(content)
    assert not is_complete(newest) and newest_checkpoint(tmp_path / "run") == before
    assert f"{newest.name} is cut or damaged" in caplog.text
    newest.rename(newest.with_name(f".{newest.name}.draft"))  # as a kill leaves it
    (before / "whole.json").unlink()
    assert newest_checkpoint(tmp_path / "run") is None


def test_a_sharded_checkpoint_exports_like_a_file(place: Path, tmp_path: Path) -> None:
    exported_as_one(place, last(place / "two"), tmp_path, ema=True)


def exported_as_one(place: Path, path: Path, tmp_path: Path, ema: bool) -> None:
    for averaged in (False, True)[: 1 + ema]:
        for name, ckpt in (("ours", path), ("theirs", last(place / "one/videomae"))):
            export(str(ckpt), "safetensors", str(tmp_path / f"{name}{averaged}"), ema=averaged)
        states = [models.convert.read.read_tensors(tmp_path / f"{name}{averaged}") for name in ("ours", "theirs")]
        same_weights(*states)
        assert json.loads((tmp_path / f"ours{averaged}/config.json").read_text())
    model, facts = load_objective(str(path))
    report = models.load_weights(model, path)
    assert not report.unused and not report.missing and facts["step"] == 6


def test_a_missing_ema_is_an_error(place: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no averaged weights"):
        export(str(last(place / "poisoned")), "safetensors", str(tmp_path / "out"), ema=True)


@pytest.fixture(scope="module")
def zero(request: pytest.FixtureRequest, place: Path) -> Path:
    """DeepSpeed's runs that this session tests, in the same two processes; stages 2 and 3 are stopped and resumed."""
    at = place / "zero"
    runs = {
        "1": [command(at / "1", "videomae", "deepspeed_zero1", 2, *MICRO_BATCHES)],
        "2": [
            command(at / "2", "videomae", "deepspeed_zero2", 2, *MICRO_BATCHES, *STOP),
            command(at / "2", "videomae", "deepspeed_zero2", 2, *MICRO_BATCHES, "--ckpt_path=last"),
            evaluation(at / "2", "deepspeed_zero2", *MICRO_BATCHES, "--ckpt_path=last"),
        ],
        "3": [
            command(at / "3", "videomae", "deepspeed_zero3", 2, *STOP),
            command(at / "3", "videomae", "deepspeed_zero3", 2, "--ckpt_path=last"),
            evaluation(at / "3", "deepspeed_zero3", f"--ckpt_path={at / '3/run'}"),
        ],
        "viclip": [command(at / "viclip", "viclip", "deepspeed_zero2", 2)],
    }
    tested = [item for item in request.session.items if "zero" in getattr(item, "fixturenames", ())]
    wanted = {item.callspec.params["run"] if hasattr(item, "callspec") else "2" for item in tested}
    run_together([run for name in sorted(wanted) for run in runs[name]])
    return at


def evaluation(folder: Path, fragment: str, *more: str) -> list[str]:
    """The arguments of a validation by two processes of the run in `folder`, which records its loss elsewhere."""
    elsewhere = f"--trainer.callbacks.path={folder}/evaluated.tsv"
    return ["validate", *command(folder, "videomae", fragment, 2, elsewhere, *more)[1:]]


@ZERO
@pytest.mark.parametrize("run", ["2", pytest.param("3", marks=pytest.mark.slow)])
def test_validate_finds_deepspeeds_folders(zero: Path, run: str) -> None:
    """By `last`, and by the run's folder; its figures are those of the run's last validation."""
    (line,) = (zero / run / "evaluated.tsv").read_text().splitlines()
    assert float(line.split("\t")[2]) == pytest.approx(losses(zero / run)["val", 6][0], rel=1e-5)


@ZERO
@pytest.mark.parametrize(
    "run,method", [("2", "videomae"), *(pytest.param(*run, marks=pytest.mark.slow) for run in SLOW_ZERO)]
)
def test_zero_equals_one_process(place: Path, zero: Path, tmp_path: Path, run: str, method: str) -> None:
    same_numbers(losses(zero / run), losses(place / "one" / method), validation=False)
    same_weights(read(last(zero / run))["state_dict"], read(last(place / "one" / method))["state_dict"])
    if method == "videomae":
        assert is_complete(last(zero / run))
        exported_as_one(place, last(zero / run), tmp_path, ema=False)


@ZERO
@pytest.mark.slow
def test_zero_resumes_in_one_process_after_deepspeeds_conversion(place: Path, zero: Path, tmp_path: Path) -> None:
    """By the command in the error for another number of processes."""
    stopped = last(zero / "2", 3)
    refused = start(command(tmp_path / "refused", "videomae", "deepspeed_zero2", 1, f"--ckpt_path={stopped}"))
    said, _ = refused.communicate(timeout=300)
    assert refused.returncode != 0
    words = re.search(r"python (-m deepspeed\S+ .*?);", said).group(1)
    out = tmp_path / "converted"
    shutil.copytree(stopped, out)
    shutil.rmtree(out / "checkpoint")
    words = [word.replace("OUT", str(out)) for word in words.split()]
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    further = [f"--ckpt_path={out}", "--trainer.strategy.universal=true"]
    run_as_own(command(tmp_path, "videomae", "deepspeed_zero2", 1, *further))
    same_numbers(losses(tmp_path), losses(place / "one/videomae"), validation=False)


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--trainer.strategy.param_dtype=float32"], ["--model.init_args.compile=true"]])
def test_sharded_bfloat16_is_close_to_one_process(place: Path, tmp_path: Path, more: list[str]) -> None:
    """Weights gathered in bfloat16 or float32, blocks compiled or not: equal within bfloat16's rounding."""
    half = ["--trainer.precision=bf16-mixed"]
    alone(tmp_path / "one", "videomae", "cpu", 1, *half)
    sharded = command(tmp_path / "two", "videomae", "fsdp", 2, *half, *more)
    if any("compile" in option for option in more):
        run_as_own(sharded)  # Inductor's own processes do not work in a fork
    else:
        run_together([sharded])
    ours, theirs = losses(tmp_path / "two"), losses(tmp_path / "one")
    for step in range(1, 7):
        assert ours["train", step] == pytest.approx(theirs["train", step], rel=2e-2), step
    assert ours["train", 6] != losses(place / "one/videomae")["train", 6]  # it was not float32


def test_a_bad_step_is_skipped_by_all_ranks(place: Path) -> None:
    """With a NaN loss on one rank, the weights of all ranks do not change, and the run goes on."""
    lines = [json.loads(line) for line in (place / "poisoned/run/skipped_steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4] and "a loss is not finite" in lines[0]["reason"]
    before, after = (read(last(place / "poisoned", step))["state_dict"] for step in (4, 5))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not any(tensor.isnan().any() for tensor in read(last(place / "poisoned"))["state_dict"].values())


@pytest.mark.slow
@ZERO
def test_deepspeed_stops_at_a_bad_step_before_it_is_saved(tmp_path: Path) -> None:
    """It takes the steps itself; the last checkpoint is the one before."""
    poison = [option for option in POISON if "rank" not in option] + MICRO_BATCHES
    process = start(command(tmp_path, "videomae", "deepspeed_zero2", 1, *poison))
    said, _ = process.communicate(timeout=300)
    assert process.returncode != 0 and "DeepSpeed cannot skip a step" in said
    lines = [json.loads(line) for line in (tmp_path / "run/skipped_steps.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4]
    assert last(tmp_path, 4).exists() and not last(tmp_path, 5).exists()


REST = ("umt", "vilp", "umt2", "internvideo", "finetune", "lavie")


@pytest.fixture(scope="module")
def rest(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The methods without a run above, unsharded and sharded, as far as this session tests them."""
    at = tmp_path_factory.mktemp("rest")
    here = [item.callspec.params for item in request.session.items if "rest" in getattr(item, "fixturenames", ())]
    for method in sorted({parameters["method"] for parameters in here}):
        alone(at / "one" / method, method, "cpu", 1)
    runs = [(parameters["kind"], parameters["method"]) for parameters in here]
    runs = [(kind, method) for kind, method in runs if kind == "fsdp" or not ZERO.args[0]]
    run_together([command(at / kind / method, method, kind, 2) for kind, method in runs])
    return at


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fsdp", *(pytest.param(f"deepspeed_zero{n}", marks=ZERO) for n in (1, 3))])
@pytest.mark.parametrize("method", REST)
def test_every_method_can_be_sharded(rest: Path, kind: str, method: str) -> None:
    found = rest / kind / method
    same_numbers(losses(found), losses(rest / "one" / method), validation=False)
    same_weights(read(last(found))["state_dict"], read(last(rest / "one" / method))["state_dict"])
