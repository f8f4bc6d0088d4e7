"""Runs, exports and indexes made before files and arguments were renamed (commit c19d0f3) load, test, resume, export.

tests/legacy holds them: a VideoMAE and a ViCLIP of a few thousand parameters after four steps of their tiny recipes,
and what the code of that commit exported and indexed. The expected numbers are what that code computed.
"""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
import yaml

import models
from datamodules.clips import scale
from pretrain.cli import main
from pretrain.engine.old_names import with_new_names
from pretrain.export.command import export
from pretrain.export.load_run import load_objective
from pretrain.objectives import Objective
from tests.helpers.paths import ROOT, TESTS
from tests.helpers.runs import run_script

LEGACY = TESTS / "legacy"
# The old runs scaled their pictures by the compiled kernel; torch's differs by up to two grey levels.
PIXELS = 1e-3 if scale.kernel() == "torch" else 1e-6
QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


def legacy_run(name: str, folder: Path) -> tuple[Path, list[str]]:
    """A copy of an old run in `folder`, and the arguments that resume it from its own config.yaml."""
    shutil.copytree(LEGACY / name, folder / name)
    place = [f"--trainer.logger.init_args.save_dir={folder}", f"--trainer.logger.init_args.name={name}"]
    return folder / name, ["-c", str(folder / name / "config.yaml"), *place, *QUIET]


def size(state: dict[str, torch.Tensor]) -> float:
    """Sum of all absolute values."""
    return sum(float(tensor.double().abs().sum()) for tensor in state.values())


def old_noise(self: Objective, generator: torch.Generator, rows: int, width: int) -> torch.Tensor:
    """The noise of masks as it was: of the whole global batch, by torch's generator."""
    total = rows * self.random_key.parts * self.position[1]
    return torch.rand(total, width, generator=generator)[self.places(rows)]


def test_an_old_run_goes_on_to_the_weights_that_the_old_code_reached(tmp_path: Path, monkeypatch) -> None:
    """With the masks of that time: today's are drawn otherwise, and all else is as it was."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(Objective, "noise", old_noise)
    run, words = legacy_run("videomae", tmp_path)
    main(["fit", *words, "--ckpt_path=last", "--trainer.max_steps=8", "--trainer.val_check_interval=8"])
    saved = torch.load(run / "checkpoints/step=0000008.ckpt", weights_only=True)
    assert size(saved["state_dict"]) == pytest.approx(1358.6379488532311, rel=PIXELS)
    assert size(saved["ema"]) == pytest.approx(1357.2822500205837, rel=PIXELS)


def test_an_old_run_is_tested(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    run, words = legacy_run("viclip", tmp_path)
    held_out = ["--data.init_args.test=Synthetic", "--data.init_args.test.init_args.samples=8"]
    held_out += ["--data.init_args.test.init_args.size=64", "--data.init_args.test.init_args.label=combination"]
    main(["test", *words, f"--ckpt_path={run / 'checkpoints/step=0000004.ckpt'}", *held_out])
    entry = json.loads((run / "results.json").read_text())[0]
    assert entry["losses"]["loss"] == pytest.approx(1.9428467750549316, rel=PIXELS)


EXPORTS = [("videomae", to) for to in ("safetensors", "transformers", "official")]


@pytest.mark.parametrize("name,to", [*EXPORTS, ("viclip", "safetensors"), ("viclip", "official")])
def test_an_old_checkpoint_is_exported(name: str, to: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    export(str(LEGACY / name), to, str(tmp_path / "out"), ema=False)
    old = LEGACY / f"{name}_{to}" / "model.safetensors"
    if old.exists():
        assert (tmp_path / "out/model.safetensors").read_bytes() == old.read_bytes()


def test_old_exports_load() -> None:
    objective, _ = load_objective(str(LEGACY / "videomae"), ema=False)
    blank, _ = load_objective(str(LEGACY / "videomae"), ema=False)
    torch.nn.init.zeros_(blank.encoder.patch_embed.proj.weight)
    report = models.load_weights(blank, str(LEGACY / "videomae_safetensors"))
    assert not report.unused and not report.missing
    assert all(map(torch.equal, blank.state_dict().values(), objective.state_dict().values()))
    theirs = transformers.VideoMAEForPreTraining.from_pretrained(LEGACY / "videomae_transformers")
    video = torch.randn(1, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))
    features = theirs.videomae(video.transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(objective.encoder(video), features, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_an_old_index_is_searched(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    shutil.copytree(LEGACY / "viclip_index", folder)
    about = json.loads((folder / "index.json").read_text())
    about |= {"checkpoint": str(LEGACY / "viclip/checkpoints/step=0000004.ckpt"), "started in": str(ROOT)}
    (folder / "index.json").write_text(json.dumps(about))
    out = run_script("tools/search.py", ["a red circle", "--index", str(folder), "--out", str(tmp_path / "found.png")])
    assert "a red circle" in out and (tmp_path / "found.png").exists()


def test_names_are_translated_wherever_they_stand() -> None:
    old = {
        "model": {
            "class_path": "pretrain.objectives.UMT",
            "init_args": {
                "mask": {"class_path": "pretrain.masking.Attention", "init_args": {"ratio": 0.8}},
                "teacher": {"class_path": "pretrain.teachers.Frozen", "init_args": {"half": True}},
                "optim": {"spared": ["pos_embed"]},
                "chunk": {"at_once": 2},
                "text": {"class_path": "CLIPText", "init_args": {"hides": True}},
            },
        },
        "trainer": {
            "callbacks": [
                {"class_path": "pretrain.callbacks.Features"},
                {"class_path": "pretrain.callbacks.Throughput"},
            ],
            "strategy": {"class_path": "pretrain.strategies.FSDP2Strategy", "init_args": {"half": False}},
        },
    }
    new = with_new_names(old)
    parts = new["model"]["init_args"]
    assert parts["mask"]["class_path"] == "pretrain.learning.masking.Attention"
    assert parts["teacher"] == {
        "class_path": "pretrain.learning.teachers.Frozen",
        "init_args": {"param_dtype": "bfloat16"},
    }
    assert parts["optim"] == {"no_decay": ["pos_embed"]} and parts["chunk"] == {"chunk_size": 2}
    assert parts["text"]["init_args"] == {"mask_token": True}
    callbacks = [callback["class_path"] for callback in new["trainer"]["callbacks"]]
    assert callbacks == ["pretrain.features.writer.Features", "pretrain.engine.monitoring.Throughput"]
    assert new["trainer"]["strategy"]["init_args"] == {"param_dtype": "float32"}
    assert with_new_names(new) == new


def test_every_old_place_leads_to_classes_that_are_there() -> None:
    import importlib

    from pretrain.engine import old_names

    for place in old_names._MODULES.values():
        if place.rpartition(".")[2][0].isupper():
            place = place.rpartition(".")[0]
        importlib.import_module(place)
    for recipe in LEGACY.glob("*/config.yaml"):
        given = yaml.safe_load(recipe.read_text())
        assert with_new_names(given) != given, "it tests nothing that has new names already"
