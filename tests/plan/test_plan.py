"""The plan: FLOP against torch's counter and published figures, memory against the allocations of real runs."""

import json
from pathlib import Path

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from pretrain.cli import main, settings_of
from pretrain.export.load_run import build
from pretrain.learning.randomness import RandomKey
from pretrain.plan.devices import DEVICES, Device
from pretrain.plan.dry_run import DryRun, FixedLengthTokenizer
from pretrain.plan.estimate import Assumptions, Plan
from pretrain.plan.memory import Sizes, Strategy, memory_use
from pretrain.plan.report import _length
from pretrain.plan.tracer import MicroBatchCost
from tests.helpers.allocations import peak
from tests.helpers.runs import ROOT, run_script

TINY = ["videomae", "umt", "viclip", "vilp", pytest.param("lavie_base", marks=pytest.mark.slow)]


def recipe(name: str, *more: str) -> dict:
    return settings_of(["-c", str(ROOT / f"recipes/{name}.yaml"), *more])


@pytest.mark.parametrize("name", TINY)
def test_flop_are_those_of_torchs_counter(name: str) -> None:
    """Those of a real step with unfused attention; captions are as long as the context in both."""
    truth = recipe(f"{name}_tiny", "--data.init_args.frames=8", "--data.init_args.size=32")
    found = DryRun(truth).cost(2)
    views, size = truth["data"]["init_args"]["views"], truth["data"]["init_args"]["size"]
    objective, rows = build(truth["model"]), 2 * views
    objective.random_key = RandomKey("train", 0, 0, truth["data"]["init_args"]["global_batch"] // 2)
    if hasattr(objective, "words"):
        objective.words.tokenizer = FixedLengthTokenizer(objective.words.tokenizer.context, None)
    video = torch.zeros(rows, 3, 8, size, size, dtype=torch.uint8)
    batch = {"video": video, "name": [str(i % 2) for i in range(rows)], "text": ["a"] * rows}
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        sum(objective(batch).values()).backward()
    assert found.model_flop == pytest.approx(counter.get_total_flops(), rel=0.02)


@pytest.mark.parametrize(
    "name", ["videochat2_instruct_tiny", pytest.param("videochat_modern_tiny", marks=pytest.mark.slow)]
)
def test_flop_of_a_chat_model_are_those_of_torchs_counter(name: str) -> None:
    """Those of a real step on rows of the same length, by the kernels of either."""
    truth = recipe(name)
    found = DryRun(truth, tokens=20).cost(2)
    objective, size = build(truth["model"]), truth["data"]["init_args"]["size"]
    video = torch.zeros(2, 3, truth["data"]["init_args"]["frames"], size, size, dtype=torch.uint8)
    batch = {"video": video, "name": ["a", "b"], "chat": [objective.row_encoder.example((size, size), 20)] * 2}
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        sum(objective(batch).values()).backward()
    assert found.model_flop == pytest.approx(counter.get_total_flops(), rel=0.02)
    bytes_a_token, tokens = DryRun(truth, tokens=20).answering()
    assert tokens == len(batch["chat"][0]["ids"])
    llm = objective.model.llm
    cache = llm(inputs_embeds=torch.zeros(1, tokens, llm.config.hidden_size), use_cache=True).cache
    assert sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers) == tokens * bytes_a_token


@pytest.mark.slow
def test_stages_of_videochat2_are_planned_without_their_files() -> None:
    assert DryRun(recipe("videochat2_align_tiny")).cost(2).model_flop > 0
    plan = Plan(recipe("videochat2_hd_tiny"), 1, "cpu")
    assert plan.sizes.frozen and plan.sizes.trained and plan.model_flop > 0


@pytest.mark.slow
def test_a_language_model_of_seven_billion_is_planned() -> None:
    plan = Plan(recipe("videochat2_instruct_vicuna"), 32, "a100-80g")
    # UMT-L without its last block, the Q-Former with its text but for the last layer's, the projector, and LoRA
    trained = 290.5e6 + (158.3e6 + 23.8e6 - 4.7e6) + 768 * 4096 + 8.4e6
    assert plan.sizes.trained == pytest.approx(trained, rel=1e-3) and 6.74e9 < plan.sizes.frozen < 6.75e9
    assert plan.memory().total > 13e9
    answering = plan.numbers()["answering"]
    assert answering["bytes_a_token"] == 2 * 32 * 4096 * 2 and 13.4e9 < answering["weights"] < 15e9


# Forward GMAC of a clip with dual masking: from the paper's table, and counted with the official code. A step is a
# little less than three forward passes: pixels have no gradient, nor have decoded tokens outside the loss.
@pytest.mark.parametrize(
    "name, gmac, millions",
    [("videomae_b", 25.84, 94.21), pytest.param("videomae_g", 241.61, 1026.31, marks=pytest.mark.slow)],
)
def test_videomae_costs_what_is_published(name: str, gmac: float, millions: float) -> None:
    dry_run = DryRun(recipe(name))
    assert 0.9 * 3 * gmac < dry_run.cost(1).model_flop / dry_run.views / 2e9 < 3 * gmac
    assert round(Sizes.of(dry_run.objective()[0]).trained / 1e6, 2) == millions


# The same for UMT with its teacher, which runs forward only and whose last block computes the kept tokens only.
@pytest.mark.slow
@pytest.mark.parametrize("name, student, teacher", [("umt_b", 30.7, 139.0), ("umt_l", 104.4, 484.9)])
def test_umt_costs_what_the_official_code_does(name: str, student: float, teacher: float) -> None:
    official = 3 * student + teacher
    assert 0.95 * official < DryRun(recipe(name)).cost(1).model_flop / 2e9 < official


def test_recompute_takes_a_forward_pass_more_and_less_memory() -> None:
    dry_run = DryRun(recipe("videomae_tiny", "--data.init_args.size=64"))
    plain, again = dry_run.cost(2), dry_run.cost(2, recompute=True)
    assert 1.2 * plain.hardware_flop < again.hardware_flop < 4 / 3 * plain.hardware_flop
    assert again.activations < 0.7 * plain.activations


def test_memory_of_each_strategy() -> None:
    """Weights, gradients and moments add up to 16 bytes a parameter, whole or sharded (ZeRO, arXiv 1910.02054)."""
    sizes, traced = Sizes(10**9, 0, 10**7, 10**7, 0, 0), MicroBatchCost(backward_peaks=[(0, 10**9), (4 * 10**9, 0)])
    of = lambda kind, **k: memory_use(Strategy(kind, **k), sizes, traced, 8e9, 64, True, True, False, True).parts_alone  # noqa: E731
    kept = lambda parts: sum(parts[name] for name in ("weights", "gradients", "optimiser")) / 1e9  # noqa: E731
    assert kept(of("ddp")) == 16 and of("ddp")["exchange"] == 4e9 and of("ddp", bucket_view=True)["exchange"] == 0
    assert kept(of("fsdp")) == pytest.approx(16 / 64)
    # the paper's figure 1, with K = 12 and 7.5 B parameters on 64: 31.4, 16.6 and 1.9 of 120 GB
    assert [round(7.5 * kept(of(f"zero{n}")), 1) for n in (1, 2, 3)] == [31.4, 16.6, 1.9]
    given = {"class_path": "lightning.pytorch.strategies.DeepSpeedStrategy"}
    given["init_args"] = {"stage": 3, "offload_optimizer": True}
    assert Strategy.read(given, 8).kind == "zero3" and Strategy.read(given, 8).offload
    assert Strategy.read("deepspeed_stage_2_offload", 8).offload
    zero = {"class_path": "pretrain.engine.strategies.ZeROStrategy", "init_args": {"stage": 1}}
    assert Strategy.read(zero, 8).kind == "zero1" and not Strategy.read(zero, 8).offload
    assert [Strategy.read("fsdp", 8).gathers_bfloat16, Strategy.read(zero, 8).half_weights] == [True, True]
    own = {
        "class_path": "pretrain.engine.strategies.FSDP2Strategy",
        "init_args": {"group": 8, "param_dtype": "bfloat16", "reshard": False},
    }
    assert Strategy.read(own, 64) == Strategy("fsdp", group=8, gathers_bfloat16=True, reshard=False)
    assert Strategy.read("auto", 8).kind == "ddp" and Strategy.read("auto", 1).kind == "single"
    with pytest.raises(ValueError, match="no strategy colossal"):
        Strategy.read("colossal", 8)


REAL = [
    *("--trainer.accelerator=cpu", "--trainer.max_steps=2", "--trainer.precision=32-true", "--trainer.logger=false"),
    *("--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.callbacks=null"),
    *("--trainer.limit_val_batches=0", "--data.init_args.workers=0", "--model.init_args.optim.warmup_steps=1"),
]
SMALL = [
    *("--data.init_args.train=Synthetic", "--data.init_args.size=128", "--data.init_args.global_batch=2"),
    *("--data.init_args.micro_batch=null", "--data.init_args.views=2"),
]


LAVIE, LORA = ("base", "interpolation", "vsr"), str(ROOT / "recipes/options/lora.yaml")
SPREAD = {
    "one": (1, []),
    "ddp": (2, ["--trainer.devices=2", "--trainer.strategy=ddp"]),
    "fsdp": (2, ["-c", str(ROOT / "recipes/trainer/fsdp.yaml"), "--trainer.devices=2"]),
}


@pytest.mark.parametrize(
    "name, more, spread",
    [
        ("videomae_tiny", [], "one"),
        *(pytest.param(f"lavie_{stage}_tiny", [], "one", marks=pytest.mark.slow) for stage in LAVIE),
        pytest.param("lavie_base_tiny", ["-c", LORA], "one", marks=pytest.mark.slow),
        pytest.param("videomae_tiny", [], "ddp", marks=pytest.mark.slow),
        *(pytest.param("videomae_s", SMALL, spread, marks=pytest.mark.slow) for spread in ("one", "ddp", "fsdp")),
    ],
)
def test_memory_is_what_a_run_allocates(name: str, more: list[str], spread: str, tmp_path: Path) -> None:
    """The peak of torch's CPU allocator in each process of a real `fit` of two steps, from start to end."""
    devices, options = SPREAD[spread]
    options = ["-c", str(ROOT / f"recipes/{name}.yaml"), *options, *REAL, *more]
    planned = Plan(settings_of(options), devices, "cpu").memory()
    out = run_script("tests/helpers/allocations.py", ["fit", *options, f"--trainer.default_root_dir={tmp_path}"])
    measured = [int(line.split()[1]) for line in out.splitlines() if line.startswith("PEAK")]
    assert measured  # always of rank 0: the last rank to end may be killed before it prints
    assert planned.total == pytest.approx(max(measured), rel=0.1)


def test_the_peak_of_sampling_is_what_predict_allocates() -> None:
    large = ["--data.init_args.size=32", "--data.init_args.frames=8"]  # enough to outweigh a kernel's copies of weights
    truth = recipe("lavie_base_tiny", "--model.init_args.sampling.steps=2", *large)
    planned = DryRun(truth, gpu=False).sampling()
    objective = build(truth["model"]).eval()
    data = truth["data"]["init_args"]
    video = torch.zeros(1, 3, data["frames"], data["size"], data["size"], dtype=torch.uint8)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found, torch.no_grad():
        objective.predict({"video": video, "text": ["a caption"], "name": ["0"]})
    assert planned is not None and planned.activations == pytest.approx(peak(found), rel=0.1)


def test_the_command_prints_writes_and_warns(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    files = [f"--json={tmp_path / 'plan.json'}", f"--png={tmp_path / 'plan.png'}"]
    small = ["--data.init_args.size=32", "--data.init_args.frames=8", "--data.init_args.global_batch=64"]
    slow = ["--videos-per-core=0.001", "--cores-per-device=3"]
    main(["plan", "-c", str(ROOT / "recipes/videomae_tiny.yaml"), *small, "--devices=4", *files, *slow])
    out, warned = capsys.readouterr()
    assert "WARNING: loading needs" in warned and "CPU cores a device, and 3 are there" in warned
    numbers = json.loads((tmp_path / "plan.json").read_text())
    assert numbers["fits"] and "does not know" in out and (tmp_path / "plan.png").stat().st_size > 5000
    assert numbers["batch"]["clips_a_step"] == 256 and numbers["largest_micro_videos"] == 16
    assert numbers["days"] == pytest.approx(400 * numbers["step_seconds"] / 86400)
    assert numbers["loading"]["clips_per_second"] == pytest.approx(256 / numbers["step_seconds"])
    with pytest.raises(MisconfigurationException, match="global_batch 64 is no multiple of 7 devices"):
        main(["plan", "-c", str(ROOT / "recipes/videomae_tiny.yaml"), *small, "--devices=7"])


RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("probe")])
def test_every_recipe_has_a_plan(name: str) -> None:
    """Weights, FLOP, memory and time of the recipe alone, on as many of 64 devices as its batch divides among."""
    truth = recipe(name)
    batch = truth["data"]["init_args"]
    micro = batch.get("micro_batch") or 1
    devices = next(n for n in (64, 32, 16, 8, 4, 2, 1) if batch["global_batch"] % (n * micro) == 0)
    found = Plan(truth, devices, "a100-80g").numbers()
    assert found["flop_a_step"]["hardware"] >= found["flop_a_step"]["model"] > 0 and found["days"] > 0
    assert found["memory_bytes"]["peak"] > found["parameters"]["trained"] > 0


def test_a_plan_that_does_not_fit_names_remedies(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = recipe("videomae_tiny", "--data.init_args.size=32", "--data.init_args.global_batch=64")
    whole = Plan(truth, 2, "a100-80g", Assumptions()).memory().total
    monkeypatch.setitem(DEVICES, "small", Device(whole - 1e6, 1e12, 1e12, "a test"))
    plan = Plan(truth, 2, "small")
    hint, warning = plan.warnings(plan.memory())
    assert hint == "trainer.precision is 32-true: bf16-mixed takes less memory and time"
    assert "do not fit" in warning and "recompute: true" in warning and "micro_batch: 16" in warning


@pytest.mark.parametrize(
    ("days", "length"), [(4.5, "4.5 days"), (0.5, "12.0 hours"), (0.01, "14.4 minutes"), (1e-5, "0.0 minutes")]
)
def test_lengths_below_a_day_are_hours_or_minutes(days: float, length: str) -> None:
    assert _length(days) == length


@pytest.mark.parametrize(
    ("cores", "workers", "source", "enough"),
    [
        (None, None, "Files", 16),
        (20, None, "Files", 20),
        (None, 4, "Files", 4),
        (None, None, "datamodules.Latents", 999),
    ],
)
def test_a_plan_warns_of_too_few_cores(cores: float | None, workers: int | None, source: str, enough: int) -> None:
    plan = object.__new__(Plan)  # without a trace of the model
    plan.devices, plan.assumptions = 8, Assumptions(cores_per_device=cores)
    plan.data = {"workers": workers, "train": {"class_path": source}}
    assert not plan._too_few_cores(8 * enough) and not plan._too_few_cores(None)
    assert len(plan._too_few_cores(8 * enough + 1)) == (enough < 999)


@pytest.mark.parametrize(("max_steps", "videos", "steps"), [(-1, 11, 5), (-1, None, None), (7, 11, 7)])
def test_a_length_in_passes_needs_the_number_of_videos(max_steps: int, videos: int | None, steps: int | None) -> None:
    plan = object.__new__(Plan)  # without a trace of the model
    plan.data, plan.recipe = {"passes": 2.5, "global_batch": 4}, {"trainer": {"max_steps": max_steps}}
    plan.assumptions = Assumptions(videos=videos)
    assert plan._steps() == steps
