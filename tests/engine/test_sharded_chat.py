"""A chat model with a frozen language model and LoRA, sharded over two processes, equals one process, also resumed."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from models.convert.sharded import read_sharded
from pretrain.cli import main
from pretrain.learning.language import STANDS_ON
from tests.helpers.paths import ROOT
from tests.helpers.runs import arguments, losses, run_together

pytestmark = pytest.mark.slow
ZERO = pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed: pip install -e '.[deepspeed]'"
)
LORA = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "down_proj", "lm_head"]}
TRAINED = ["^encoder", "^qformer", "queries$", "^projector", "lora_"]
STOP = ["--trainer.callbacks+=tests.helpers.runs.StopAtStep", "--trainer.callbacks.step=3"]
KINDS = {
    "fsdp": ("fsdp", "float32"),
    "fsdp_bf16": ("fsdp", "bfloat16"),  # of the frozen weights; LoRA is in float32
    "zero2": ("deepspeed_zero2", "float32"),
    "zero3": ("deepspeed_zero3", "float32"),
}


def command(folder: Path, trainer: str, devices: int, param_dtype: str = "float32", *more: str) -> list[str]:
    """The arguments of six steps of packed conversations, in float32 on CPUs."""
    folder.mkdir(parents=True, exist_ok=True)
    language = {"lora": LORA, "param_dtype": param_dtype}
    fragment = {"model": {"init_args": {"trained": TRAINED, "packed": True, "language": language}}}
    recipe = ["-c", str(ROOT / "recipes/videochat2_instruct_tiny.yaml"), "-c", json.dumps(fragment)]
    recipe += ["-c", str(ROOT / f"recipes/trainer/{trainer}.yaml")]
    here = [f"--trainer.devices={devices}", "--trainer.accelerator=cpu", "--trainer.precision=32-true"]
    record = ["--trainer.callbacks+=tests.helpers.runs.LossRecorder", f"--trainer.callbacks.path={folder}/losses.tsv"]
    often = ["--trainer.val_check_interval=3", "--data.init_args.val.init_args.samples=4"]
    return arguments(folder, recipe, *here, *record, *often, "--trainer.gradient_clip_val=1.0", *more)


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of one process, and those of two that this session tests, stopped after three steps and resumed."""
    at = tmp_path_factory.mktemp("chat")
    here = [item.callspec.params for item in request.session.items if "place" in getattr(item, "fixturenames", ())]
    kinds = sorted({parameters["kind"] for parameters in here})
    for dtype in sorted({KINDS[kind][1] for kind in kinds}):
        main(command(at / dtype, "cpu", 1, dtype))
        assert not dist.is_initialized()
    runs = []
    for kind in kinds:
        made = at / kind, KINDS[kind][0], 2, KINDS[kind][1]
        runs += [command(*made, *STOP), command(*made, "--ckpt_path=last")]
    run_together(runs)
    return at


def state(folder: Path) -> dict[str, torch.Tensor]:
    path = folder / "run/checkpoints/step=0000006.ckpt"
    saved = read_sharded(path) if path.is_dir() else torch.load(path, weights_only=True)
    return saved["state_dict"]


@pytest.mark.parametrize("kind", [pytest.param(k, marks=[ZERO] * k.startswith("zero")) for k in KINDS])
def test_a_frozen_language_model_with_lora_is_sharded_and_resumed(place: Path, kind: str) -> None:
    """Losses, gradient norms and weights are those of one process. The frozen weights are not saved, but by DeepSpeed's
    stage 3, which writes every parameter of each process."""
    ours, theirs = losses(place / kind), losses(place / KINDS[kind][1])
    assert ours["train", 1][0] == pytest.approx(theirs["train", 1][0], abs=1e-5)
    for step in range(1, 7):
        assert ours["train", step] == pytest.approx(theirs["train", step], rel=2e-3, abs=1e-5), step
    found, expected = state(place / kind), state(place / KINDS[kind][1])
    further = found.keys() - expected.keys()
    assert expected.keys() <= found.keys() and not any(".base_layer." in name for name in expected)
    assert all(".llm." in name and "lora_" not in name for name in further) and bool(further) == (kind == "zero3")
    (stands_on,) = (name for name in expected if name.endswith(STANDS_ON))
    assert torch.equal(found[stands_on], expected[stands_on])
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, atol=2e-5, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")
