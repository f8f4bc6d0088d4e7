"""Every recipe parses, builds on the meta device at its published size, and opens with a complete header."""

from pathlib import Path

import pytest
import torch
import yaml

import models
from pretrain.cli import main
from pretrain.export.load_run import build
from tests.helpers.methods import resolved
from tests.helpers.paths import ROOT
from tests.helpers.runs import fit

RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
EACH_METHOD = pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)


@EACH_METHOD
def test_it_opens_with_a_complete_header(path: Path) -> None:
    head = path.read_text().split("\nmodel:")[0]
    for line in ("# Paper:", "# Data:", "# Hardware:", "# Command:", "# Differs:"):
        assert line in head, f"the header of {path.name} lacks {line!r}"
    assert f"python -m pretrain fit -c recipes/{path.name}" in head
    if "tiny" not in path.stem:
        assert "# Expected:" in head


# A language model of billions takes seconds even without weights: of those of one form, the quick tests build one.
OF_ONE_FORM = {
    *("videochat2_connect_mistral", "videochat2_connect_phi", "videochat2_instruct_mistral"),
    *("videochat2_instruct_phi", "videochat2_hd", "videochat2_hd_tiny", "videochat_embed_instruct"),
    *("videochat2_align_tiny", "videochat2_connect_tiny", "videochat_embed_tiny", "videochat_modern_tiny"),
    *("videochat2_regions_tiny", "videochat2_smollm"),
}


def quick(path: Path) -> object:
    """The recipe as a parameter of a test, which is slow if a quick test runs another of the same form."""
    return pytest.param(path, marks=pytest.mark.slow) if path.stem in OF_ONE_FORM else path


EACH_FORM = pytest.mark.parametrize("path", [quick(p) for p in RECIPES], ids=[p.stem for p in RECIPES])


TINY = [p for p in RECIPES if p.stem.endswith("_tiny")]
EACH_TINY = pytest.mark.parametrize("path", [quick(p) for p in TINY], ids=[p.stem for p in TINY])


@EACH_FORM
def test_it_builds_on_the_meta_device(path: Path, capsys: pytest.CaptureFixture) -> None:
    truth = resolved(capsys, ["-c", str(path)])
    with torch.device("meta"):
        objective = build(truth["model"])
    assert all(p.is_meta for p in objective.parameters())
    owned = [name for name, _ in objective.named_parameters(remove_duplicate=False)]
    assert len(owned) == len(list(objective.parameters())), "a parameter that is registered twice breaks safetensors"
    data, optim = truth["data"]["init_args"], objective.optim
    assert data["global_batch"] > 0
    if data["passes"] is None:
        assert optim.warmup_steps < truth["trainer"]["max_steps"]
    else:
        assert truth["trainer"]["max_steps"] == -1, "trainer.max_steps would take precedence"
        assert (optim.warmup_passes or 0) < data["passes"]


NAMED = {"s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}
# Encoder with decoder, in millions: counted with the official code.
MILLIONS = {"s": 24.03, "b": 94.21, "l": 317.78, "h": 645.66, "g": 1026.31}
# Peak learning rate by the author's rule (1.5e-4 for 256 clips, four a video), floor, global batch and passes of the
# official scripts, and the published number of clips.
RATES = {
    "b": (2.4e-3, 4e-5, 1024, 200),
    "l": (3.6e-3, 6e-5, 1536, 300),
    "h": (4.8e-3, 8e-5, 2048, 300),
    "g": (4.8e-3, 8e-5, 2048, 300),
}


@pytest.mark.parametrize("size", NAMED)
def test_videomae_has_the_published_sizes_and_rates(size: str, capsys: pytest.CaptureFixture) -> None:
    truth = resolved(capsys, ["-c", str(ROOT / f"recipes/videomae_{size}.yaml")])
    arguments = truth["model"]["init_args"]
    encoder, decoder = (arguments[part]["init_args"] for part in ("encoder", "decoder"))
    for table, found in ((models.SIZES, encoder), (models.DECODER_SIZES, decoder)):
        expected = table[NAMED[size]]
        assert {key: found[key] for key in expected} == expected
    with torch.device("meta"):
        objective = build(truth["model"])
    assert round(sum(p.numel() for p in objective.parameters()) / 1e6, 2) == MILLIONS[size]
    if size in RATES:
        peak, floor, batch, passes = RATES[size]
        data, optim = truth["data"]["init_args"], objective.optim
        assert (data["global_batch"], data["passes"], optim.warmup_passes) == (batch, passes, passes / 10)
        assert optim.peak_floor_start(batch) == pytest.approx((peak, floor, 0))
        assert peak * 256 / (batch * data["views"]) == pytest.approx(1.5e-4)


# Student with its linear decoders, and teacher, in millions: counted with the official code.
UMT_MILLIONS = {"b": (88.0, 86.2), "l": (307.8, 303.9)}


@pytest.mark.parametrize("size", UMT_MILLIONS)
def test_umt_has_the_published_sizes_and_rates(size: str, capsys: pytest.CaptureFixture) -> None:
    truth = resolved(capsys, ["-c", str(ROOT / f"recipes/umt_{size}.yaml")])
    with torch.device("meta"):
        objective = build(truth["model"])
    parts = objective, objective.teacher.model
    assert tuple(round(sum(p.numel() for p in part.parameters()) / 1e6, 1) for part in parts) == UMT_MILLIONS[size]
    batch, optim = truth["data"]["init_args"]["global_batch"], objective.optim
    assert batch == 2048 and objective.mask.ratio == 0.8 and len(objective.taps) == 6
    assert optim.peak_floor_start(batch) == pytest.approx((1.2e-3, 8e-5, 0))
    assert (truth["data"]["init_args"]["passes"], optim.warmup_passes) == (200, 40)


# Towers in millions, counted with the official code (text at 32 places); peak rate and global batch of its scripts.
VICLIP = {"b": (86.2, 63.4, 2e-4, 1024), "l": (304.0, 123.6, 4e-4, 32768)}


@pytest.mark.parametrize("stage", ["", "_unmasked"])
@pytest.mark.parametrize("size", VICLIP)
def test_viclip_has_the_published_sizes_and_rates(size: str, stage: str, capsys: pytest.CaptureFixture) -> None:
    truth = resolved(capsys, ["-c", str(ROOT / f"recipes/viclip_{size}{stage}.yaml")])
    with torch.device("meta"):
        objective = build(truth["model"])
    video, text, peak, batch = VICLIP[size]
    parts = (objective.encoder, video), (objective.text, text)
    for part, millions in parts:
        assert round(sum(p.numel() for p in part.parameters()) / 1e6, 1) == millions
    peak, batch = (4e-6, 2048) if stage else (peak, batch)
    assert truth["data"]["init_args"]["global_batch"] == batch
    assert (objective.optim.lr, objective.optim.min_lr) == pytest.approx((peak, 0.01 * peak))
    assert (objective.mask is None) == bool(stage) and objective.freeze_text
    # The official code applies weight decay to all matrices of this model except tables.
    no_decay = {n for n, p in objective.named_parameters() if p.requires_grad and not objective.optim.decays(n, p)}
    assert {"temperature", "encoder.cls_token", "encoder.pos_embed", "encoder.time.table"} <= no_decay
    assert not any(n.endswith("proj.weight") for n in no_decay)


# Peak rate, videos a step, passes, passes of warm-up, layer decay, drop path: the official scripts'.
TUNED = {
    "videomae_b_k400": (1.4e-3, 512, 90, 5, 0.75, 0.1),
    "videomae_b_k710": (1.4e-3, 512, 90, 5, 0.75, 0.1),
    "videomae_b_ssv2": (2e-3, 256, 25, 5, 0.65, 0.1),
    "videomae_l_k400": (1.5e-3, 192, 35, 5, 0.75, 0.2),
    "videomae_l_ssv2": (3.75e-4, 192, 20, 5, 0.75, 0.2),
    "videomae_h_k400": (5e-4, 128, 40, 5, 0.8, 0.2),
    "videomae_h_k710": (5e-4, 128, 40, 5, 0.8, 0.2),
    "videomae_h_ssv2": (2.5e-4, 128, 20, 5, 0.8, 0.2),
    "videomae_g_k400": (7.5e-4, 192, 30, 5, 0.9, 0.2),
    "videomae_g_k710": (3.75e-4, 96, 35, 5, 0.9, 0.3),
    "videomae_g_k710_k400": (3.75e-6, 96, 3, 1, 0.9, 0.25),
    "videomae_g_ssv2": (1.125e-4, 96, 20, 5, 0.9, 0.25),
    "videomae_g_ucf101": (9.375e-5, 24, 50, 5, 0.9, 0.35),
    "videomae_g_hmdb51": (4.6875e-5, 24, 15, 5, 0.9, 0.35),
    "umt_b_k710": (4e-4, 256, 35, 2, 0.75, 0.1),
    "umt_l_k710": (2e-4, 256, 20, 2, 0.85, 0.2),
    "umt_b_k400": (4e-5, 256, 5, 1, 0.75, 0.1),
    "umt_l_k400": (2e-5, 256, 5, 1, 0.85, 0.2),
    "umt_l_k400_f16": (1e-5, 128, 5, 1, 0.85, 0.2),
    "umt_b_ssv2": (4e-4, 256, 30, 5, 0.75, 0.1),
    "umt_l_ssv2": (8e-4, 256, 14, 4, 0.85, 0.2),
    "umt_b_mit": (2e-4, 512, 40, 5, 0.75, 0.1),
    "umt_l_mit": (2e-4, 512, 20, 5, 0.85, 0.2),
}
VIDEOS = {"k400": 240436, "k710": 658340, "ssv2": 168913, "ucf101": 9537, "hmdb51": 3570, "mit": 802264}


def test_fine_tuning_has_the_published_rates_and_steps() -> None:
    pages = {path.stem.removeprefix("finetune_"): path for path in RECIPES if path.stem.startswith("finetune_")}
    assert pages.keys() - {"tiny"} == TUNED.keys()
    for name, (peak, batch, passes, warm, decay, drop) in TUNED.items():
        page = yaml.safe_load(pages[name].read_text())
        model, data = (page[part]["init_args"] for part in ("model", "data"))
        optim, encoder = model["optim"], model["model"]["init_args"]["encoder"]["init_args"]
        size = models.SIZES[NAMED[name.split("_")[1]]]
        assert {key: encoder[key] for key in size} == size and encoder["drop_path"] == drop, name
        assert data["global_batch"] == batch and optim["layer_decay"] == decay, name
        assert optim["base_lr"] * batch / 256 == pytest.approx(peak), name
        a_pass = VIDEOS[name.removesuffix("_f16").split("_")[-1]] // batch
        assert (data["passes"], optim["warmup_passes"]) == (passes, warm), name
        assert f"{passes * a_pass:,} steps" in pages[name].read_text().split("\nmodel:")[0].replace("\n#", ""), name
        assert data["flip"] == (0.0 if name.endswith("ssv2") else 0.5) and data["augment"], name


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/encoder").glob("*.yaml")), ids=lambda p: p.stem)
def test_probes_take_any_encoder(path: Path, capsys: pytest.CaptureFixture) -> None:
    truth = resolved(capsys, ["-c", str(ROOT / "recipes/probe_attentive.yaml"), "-c", str(path)])
    with torch.device("meta"):
        objective = build({**truth["model"], "init_args": truth["model"]["init_args"] | {"weights": None}})
    probe = objective.model
    assert not any(p.requires_grad for p in probe.encoder.parameters())
    assert probe.head.in_features == probe.encoder.width and truth["model"]["init_args"]["weights"]


# Parameters and tensors of both towers and the scale, counted with the official code.
INTERNVIDEO = {"b": (178_066_433, 369), "l": (478_127_105, 513)}


@pytest.mark.parametrize("size", INTERNVIDEO)
def test_internvideo_has_the_published_sizes_and_rates(size: str, capsys: pytest.CaptureFixture) -> None:
    truth = resolved(capsys, ["-c", str(ROOT / f"recipes/internvideo_mm_{size}.yaml")])
    with torch.device("meta"):
        objective = build(truth["model"])
    towers = [p for name, p in objective.named_parameters() if not name.startswith("caption.")]
    assert (sum(p.numel() for p in towers), len(towers)) == INTERNVIDEO[size]
    assert len(objective.caption.blocks) == 6 and objective.mask is None and not objective.freeze_text
    assert objective.optim.lr == 8e-5


# Peak rate, floor as a share of it, and global batch of each stage: the published settings.
CHAT = {
    "align": (1e-4, 0.01, 4096),
    "connect_vicuna": (1e-4, 0.01, 128),
    "connect_mistral": (1e-4, 0.01, 512),
    "connect_phi": (1e-4, 0.01, 640),
    "instruct_vicuna": (2e-5, 0.25, 128),
    "instruct_mistral": (2e-5, 0.25, 128),
    "instruct_phi": (2e-5, 0.25, 256),
    "hd": (1e-5, 0.01, 96),
}


def test_videochat2_has_the_published_rates() -> None:
    for stage, (peak, floor, batch) in CHAT.items():
        page = yaml.safe_load((ROOT / f"recipes/videochat2_{stage}.yaml").read_text())
        optim = page["model"]["init_args"]["optim"]["init_args"]
        assert page["data"]["init_args"]["global_batch"] == batch, stage
        assert optim["base_lr"] * batch / 256 == pytest.approx(peak, rel=1e-3), stage
        assert optim["base_min_lr"] == pytest.approx(floor * optim["base_lr"], rel=1e-3), stage


# Millions of parameters of the encoder and of LoRA, counted with the official code.
def test_videochat2_has_the_published_sizes(capsys: pytest.CaptureFixture) -> None:
    truth = resolved(capsys, ["-c", str(ROOT / "recipes/videochat2_instruct_vicuna.yaml")])
    with torch.device("meta"):
        chat = build(truth["model"]).model
    count = lambda pairs: round(sum(p.numel() for _, p in pairs) / 1e6, 1)  # noqa: E731
    assert count(chat.encoder.named_parameters()) == 290.5
    former = [(name, p) for name, p in chat.qformer.named_parameters() if not name.startswith("embeddings.")]
    assert count(former) == 158.3
    assert count((name, p) for name, p in chat.llm.named_parameters() if "lora_" in name) == 8.4
    assert chat.visual_tokens_of_video == 96 and chat.projector.weight.shape == (4096, 768)


def test_umt_takes_dinov2_as_its_teacher(capsys: pytest.CaptureFixture) -> None:
    fragment = ROOT / "recipes/options/teacher_dinov2.yaml"
    truth = resolved(capsys, ["-c", str(ROOT / "recipes/umt_b.yaml"), "-c", str(fragment)])
    with torch.device("meta"):
        objective = build(truth["model"])
    assert objective.teacher.model.grid == (1, 14, 14) and objective.teacher.weights == "hf://facebook/dinov2-base"
    assert objective.teacher_taps == objective.taps


def test_one_key_changes_everything_that_refers_to_it(capsys: pytest.CaptureFixture) -> None:
    truth = resolved(capsys, ["-c", str(ROOT / "recipes/videomae_b.yaml")], "--data.init_args.frames=32")
    parts = truth["model"]["init_args"]
    assert parts["encoder"]["init_args"]["frames"] == parts["decoder"]["init_args"]["frames"] == 32


def test_seed_and_global_batch_are_stated_once(tmp_path: Path) -> None:
    """The command line passes them to the order of data, the masks and the learning rate."""
    run = fit(
        tmp_path, ["-c", str(ROOT / "recipes/videomae_tiny.yaml")], "--trainer.max_steps=1", "--seed_everything=7"
    )
    saved = torch.load(run / "checkpoints/step=0000001.ckpt", weights_only=True)
    model = yaml.safe_load(saved["recipe"]["model"])["init_args"]
    assert model["seed"] == 7 and saved["VideoData"]["seed"] == 7
    assert model["global_batch"] == 4 == saved["VideoData"]["global_batch"]


@EACH_TINY
def test_tiny_recipes_run(path: Path, tmp_path: Path) -> None:
    frames = ["--data.init_args.frames=9"] if "interpolation" in path.stem else []  # twice the factor and one
    few = ["--trainer.max_steps=1", "--trainer.val_check_interval=1"]
    few += ["--data.init_args.global_batch=2", "--data.init_args.val.init_args.samples=1"]
    run = fit(tmp_path, ["-c", str(path)], *few, *frames)
    assert (run / "config.yaml").exists() and list((run / "checkpoints").glob("*.ckpt"))


@pytest.mark.parametrize("path", sorted((ROOT / "recipes/data").glob("*.yaml")), ids=lambda p: p.stem)
def test_data_fragments_fit_any_recipe(path: Path, capsys: pytest.CaptureFixture) -> None:
    truth = resolved(capsys, ["-c", str(ROOT / "recipes/videomae_b.yaml"), "-c", str(path)])
    assert truth["data"]["init_args"]["size"] == 224 and truth["data"]["init_args"]["global_batch"] == 1024


# What each task is asked of: the recipe and the data that its command names.
JUDGED = {
    "retrieval": ("viclip_l", "msrvtt"),
    "zero_shot": ("viclip_l", "k400"),
    "wise": ("viclip_l", "k400"),
    "multiple_choice": ("viclip_l", "msrvtt_mc"),
    "reranked": ("umt2_l", "msrvtt"),
    "answers": ("umt2_b_msrvttqa", "msrvtt_qa"),
    "directions": ("viclip_tiny", None),
    "knn": ("videomae_b", "k400"),
    "feature_distance": ("videomae_b", None),
    "lavie_ucf101": ("videomae_b", None),
    "lavie_msrvtt": ("viclip_b", None),
    "vbench": ("lavie_base", "files"),
}
OF_PREDICT = ("dense_features", "generate")
# Whole recipes and what goes over them: tests/questions.
OF_CHAT = ("mvbench", "mvbench_lmms", "egoschema", "nextqa", "videomme", "activitynet_qa_open")
OTHERS = OF_PREDICT + OF_CHAT
TASKS = [path for path in sorted((ROOT / "recipes/eval").glob("*.yaml")) if path.stem not in OTHERS]
# Dimensions whose models are not here are refused; this one has none.
MORE = {"vbench": ["--model.init_args.metrics.vbench.init_args.dimensions=[temporal_flickering]"]}


@pytest.mark.parametrize("path", TASKS, ids=lambda p: p.stem)
def test_evaluation_fragments_fit_a_recipe(path: Path, capsys: pytest.CaptureFixture) -> None:
    recipe, data = JUDGED[path.stem]
    only = [] if path.stem == "knn" else ["recipes/data/test_only.yaml"]  # knn needs the training videos
    files = [f"recipes/{recipe}.yaml", *([f"recipes/data/{data}.yaml", *only] if data else [])]
    command = " ".join(path.read_text().replace("\\\n#", "").split())
    for file in (*files, f"recipes/eval/{path.name}"):
        assert f"-c {file}" in command, f"the command of {path.name} lacks {file}"
    options = [option for file in (*files, path.relative_to(ROOT)) for option in ("-c", str(ROOT / file))]
    with pytest.raises(SystemExit) as stop:
        main(["test", *options, *MORE.get(path.stem, []), "--print_config"])
    assert stop.value.code == 0
    truth = yaml.safe_load(capsys.readouterr().out)
    with torch.device("meta"):
        objective = build({**truth["model"], "init_args": truth["model"]["init_args"] | {"weights": None}})
    kinds = {type(metric).__name__ for metric in objective.metrics.values()}
    assert path.stem == "wise" or len(kinds) == 1
    assert path.stem != "wise" or "WiseFT" in str(truth["trainer"]["callbacks"])
