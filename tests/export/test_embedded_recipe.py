"""A recipe in a checkpoint or an index starts nothing: each command that reads one refuses what is not ours."""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import jsonargparse
import pytest
import torch
import yaml
from torch import nn

from models.encoder import Encoder
from models.vit import VideoViT
from pretrain.cli import main, settings_of
from pretrain.errors import reports_errors
from pretrain.export.embedded_recipe import instantiate_embedded
from pretrain.export.load_run import load_objective
from pretrain.objectives import Objective
from pretrain.studies.quality.study import Size, Study
from tests.helpers.hub import hub
from tests.helpers.paths import ROOT, TESTS
from tools.search import main as search
from tools.wise import main as wise

RUN = TESTS / "legacy/videomae/checkpoints/step=0000004.ckpt"
INDEX = TESTS / "legacy/viclip_index"
ATTACKS = (
    *(
        "as the model",
        "as a metric",
        "under Any",
        "under a number",
        "in dict_kwargs",
        "in text",
        "through a module of torch",
    ),
    *("through a module of ours", "a function for a callable", "a module in this folder", "a tag of YAML"),
    *("a reference", "many aliases", "a part of ours that starts commands", "another program's model"),
)


class Started(nn.Module):
    """A class of somebody else: it writes a file when it is built."""

    def __init__(self, file: str) -> None:
        super().__init__()
        Path(file).touch()


class OwnEncoder(VideoViT):
    """An encoder of the user's own."""


STARTED = f"{Started.__module__}.Started"


def starts(file: Path) -> dict[str, Any]:
    """The part of a recipe that builds somebody else's class, which writes `file`."""
    return {"class_path": STARTED, "init_args": {"file": str(file)}}


def index_in(folder: Path, **changes: object) -> Path:
    """A copy of the old index, with paths that hold here, and changes."""
    index = Path(shutil.copytree(INDEX, folder / "index"))
    about = json.loads((index / "index.json").read_text())
    about["model"]["init_args"]["words"]["tokenizer"]["init_args"]["vocabulary"] = str(
        ROOT / "recipes/data/shapes_vocab.txt"
    )
    (index / "index.json").write_text(json.dumps({**about, "started in": str(folder), **changes}))
    return index


def crafted(attack: str, file: Path) -> str:
    """The recipe of the old VideoMAE run, as text, with an attack that would write `file`."""
    recipe = yaml.safe_load(torch.load(RUN, weights_only=True)["recipe"]["model"])
    arguments, part = recipe["init_args"], starts(file)
    encoder = arguments["encoder"]
    if attack == "as the model":
        recipe = part
    elif attack == "as a metric":
        arguments["metrics"] = {"top": part}
    elif attack == "under Any":
        arguments["metrics"] = {"top": {"class_path": "torchmetrics.MeanMetric", "init_args": {"process_group": part}}}
    elif attack == "under a number":
        encoder["init_args"]["width"] = part
    elif attack == "in dict_kwargs":
        encoder["dict_kwargs"] = {"more": part}
    elif attack == "in text":
        arguments["encoder"] = json.dumps(part)
    elif attack == "through a module of torch":
        encoder["class_path"] = "torch.optim.optimizer.functools.partial"
    elif attack == "through a module of ours":
        arguments["encoder"] = "pretrain.objectives.classify.Path"
    elif attack == "a function for a callable":
        arguments["metrics"] = {
            "top": {"class_path": "torchmetrics.MeanMetric", "init_args": {"dist_sync_fn": "os.system"}}
        }
        arguments["metrics"]["top"]["dict_kwargs"] = {"dist_sync_fn": "os.system"}
    elif attack == "a module in this folder":
        Path("evil.py").write_text(f"open({str(file)!r}, 'w')\nclass Encoder: pass\n")
        arguments["encoder"] = "evil.Encoder"
    elif attack == "a tag of YAML":
        return f"class_path: !!python/object/apply:os.system ['touch {file}']"
    elif attack == "a reference":
        encoder["init_args"]["width"] = "${oc.env:HOME}"
    elif attack == "many aliases":
        lists = "\n".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 10)}]" for i in range(12))
        return f"a0: &a0 [1]\n{lists}\nclass_path: VideoMAE"
    elif attack == "a part of ours that starts commands":
        arguments["metrics"] = {"top": {"class_path": "datamodules.sources.remote.Pipe"}}
    elif attack == "another program's model":
        arguments["metrics"] = {"top": {"class_path": "torchmetrics.text.BERTScore"}}
    return yaml.safe_dump(recipe)


def checkpoint(recipe: str, file: Path) -> Path:
    """The old VideoMAE run with another recipe."""
    saved = torch.load(RUN, weights_only=True)
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({**saved, "recipe": {**saved["recipe"], "model": recipe}}, file)
    return file


@pytest.fixture
def canary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that an attack would write; the current folder is the test's own, and modules are found there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "canary"


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_is_refused(attack: str, canary: Path, tmp_path: Path) -> None:
    file = checkpoint(crafted(attack, canary), tmp_path / "run/crafted.ckpt")
    with pytest.raises(ValueError, match=str(file)):
        load_objective(str(file))
    assert not canary.exists()


def test_the_attacks_work_where_a_recipe_is_trusted(canary: Path) -> None:
    """The crafted part does build its class if the parser reads it as a recipe of the user's own."""
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--anything", type=object)
    parser.instantiate(parser.parse_object({"anything": starts(canary)}))
    assert canary.exists()


DOORS = ("export", "wise", "search", "quality", "validate")


def go_through(door: str, attack: str, canary: Path, folder: Path) -> int:
    """Gives a crafted file to a command; returns its exit code."""
    recipe = crafted(attack, canary)
    file = checkpoint(recipe, folder / "videomae/checkpoints/step=0000600.ckpt")
    if door == "export":
        return reports_errors(main)(["export", f"--ckpt={file}", "--to=safetensors", f"--out={folder / 'out'}"])
    if door == "wise":
        return wise([str(file), str(RUN), "--out", str(folder / "mixed.ckpt")])
    if door == "search":
        return search(["a dog", "--index", str(index_in(folder)), "--ckpt", str(file)])
    if door == "quality":
        study = Study(folder, folder / "records.json", "shapes", Size(), lambda words: None)
        return reports_errors(lambda _: bool(study.objective("videomae", 0, 600)))([])
    # Lightning takes a class from `hyper_parameters`.
    saved = torch.load(file, weights_only=True)
    torch.save({**saved, "hyper_parameters": {"_class_path": STARTED, "file": str(canary)}}, file)
    quiet = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=1"]
    return reports_errors(main)(["validate", "-c", str(TESTS / "legacy/videomae/config.yaml"), *quiet,
                                 f"--ckpt_path={file}"])  # fmt: skip


@pytest.mark.parametrize("attack", ["under Any", "a tag of YAML"])
@pytest.mark.parametrize("door", [door for door in DOORS if door != "validate"])
def test_no_command_starts_what_a_checkpoint_names(
    door: str, attack: str, canary: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert go_through(door, attack, canary, tmp_path / "study") == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("error: ") and "\n" not in said and "step=0000600.ckpt" in said
    assert attack == "a tag of YAML" or STARTED in said
    assert not canary.exists()


def test_evaluation_takes_no_class_from_a_checkpoint(canary: Path, tmp_path: Path, monkeypatch) -> None:
    """The recipe on the command line decides what is built; the checkpoint gives weights only."""
    assert go_through("validate", "as the model", canary, tmp_path / "study") == 0
    assert not canary.exists()


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "canary"]}}},
        {"source": {"class_path": "datamodules.Shards", "init_args": {"path": "pipe:touch canary; cat {}"}}},
        {"source": {"class_path": "datamodules.Shards", "init_args": {"path": '["pipe:touch canary; cat {}"]'}}},
        {"source": {"class_path": "datamodules.sources.remote.Pipe", "init_args": {"folder": "touch canary; cat {}"}}},
        {"seen": {"frames": 8, "stride": 4, "decoder": {"class_path": "subprocess.Popen"}, "sampler": None}},
        {"seen": {"frames": "eight"}},
        {"started in": 3},
        {"probe": {"text": "a video"}},
        {"checkpoint": ["a"]},
    ],
)
def test_an_index_starts_nothing(change: dict, canary: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    index = index_in(tmp_path, **change)
    weights = TESTS / "legacy/viclip/checkpoints/step=0000004.ckpt"
    model = tmp_path / "weights.pt"  # not a checkpoint of a run: the model is built by the index
    torch.save(torch.load(weights, weights_only=True)["state_dict"], model)
    assert search(["a dog", "--index", str(index), "--ckpt", str(model)]) != 0
    said = capsys.readouterr().err
    assert "index.json" in said and "Traceback" not in said
    assert not canary.exists()


def test_features_of_an_index_lie_in_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    index = index_in(tmp_path)
    (index / "features-00001.safetensors").symlink_to(INDEX / "features-00000.safetensors")
    assert search(["a dog", "--index", str(index)]) == 2
    assert "leads elsewhere" in capsys.readouterr().err


def with_encoder(path: str) -> dict[str, Any]:
    recipe = yaml.safe_load(torch.load(RUN, weights_only=True)["recipe"]["model"])
    recipe["init_args"]["encoder"]["class_path"] = path
    return recipe


def test_a_user_adds_classes_of_his_own(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = f"{OwnEncoder.__module__}.OwnEncoder"
    file = checkpoint(yaml.safe_dump(with_encoder(path)), tmp_path / "own.ckpt")
    words = ["export", f"--ckpt={file}", "--to=safetensors", f"--out={tmp_path / 'out'}"]
    assert reports_errors(main)(words) == 2
    assert f"--trust {path}" in capsys.readouterr().err
    assert reports_errors(main)([*words, "--trust", "torch.nn.Linear", "--trust", path]) == 0
    model = instantiate_embedded(Objective, with_encoder(path), "here", [path])
    assert type(model.encoder).__name__ == "OwnEncoder" and isinstance(model.encoder, Encoder)
    with pytest.raises(ValueError, match="there is no such class"):
        instantiate_embedded(Objective, with_encoder(path), "here", ["no.such.Class"])


def test_trust_is_of_one_class_and_one_call(tmp_path: Path) -> None:
    recipe, own = with_encoder(f"{OwnEncoder.__module__}.OwnEncoder"), f"{OwnEncoder.__module__}.OwnEncoder"
    other = copy.deepcopy(recipe)
    other["init_args"]["metrics"] = {"x": starts(tmp_path / "canary")}
    with pytest.raises(ValueError, match="Started"):
        instantiate_embedded(Objective, other, "here", [own])
    instantiate_embedded(Objective, recipe, "here", [own])
    with pytest.raises(ValueError, match="OwnEncoder"):
        instantiate_embedded(Objective, recipe, "here")
    assert not (tmp_path / "canary").exists()


@pytest.mark.parametrize("address", ["hf://some/words", "SERVER/v.txt"])
def test_an_address_in_a_recipe_is_not_asked(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """UMT stage 2 with a vocabulary behind an address: it comes from the cache or not at all."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("TUBELET_WEIGHTS", str(tmp_path / "addresses"))
    settings = settings_of(["-c", str(ROOT / "recipes/umt2_tiny.yaml")])["model"]
    words = settings["init_args"]["words"]["tokenizer"]["init_args"]
    with hub({"some/words/vocab.txt": b"[PAD]", "v.txt": b"[PAD]"}) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        words["vocabulary"] = address.replace("SERVER", server.address)
        with pytest.raises((ValueError, FileNotFoundError), match="nothing is downloaded for such a recipe"):
            instantiate_embedded(Objective, settings, "file").words.tokenizer(["a word"])
        assert server.requests == []
