"""The README of an export: the right kind of training, no absolute paths, and commands that run as they are written."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from pretrain import objectives
from pretrain.cli import main
from pretrain.export.command import export
from pretrain.export.model_card import TRAINING, without_places
from pretrain.features.videos import read_features
from tests.helpers.paths import TESTS
from tests.helpers.videos import make

RUN = TESTS / "legacy/videomae/checkpoints/step=0000004.ckpt"


def test_each_method_says_how_it_trains() -> None:
    assert TRAINING.keys() == set(objectives.__all__) - {"Objective"}


def test_absolute_paths_are_their_last_parts() -> None:
    given = {"data": {"path": "/home/me/videos", "list": ["~/x.csv", "runs/mine"]}, "text": "a / b", "root": "/"}
    found = yaml.safe_load(without_places(yaml.safe_dump(given)))
    assert found == {"data": {"path": "videos", "list": ["x.csv", "runs/mine"]}, "text": "a / b", "root": ""}
    assert without_places("{") == without_places("") == ""


def test_the_command_of_a_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my").mkdir()
    make(tmp_path / "my/one.mp4", frames=24)
    export(str(RUN), "safetensors", "my-model")
    card = (tmp_path / "my-model/README.md").read_text()
    assert "self-supervised" in card and "masked autoencoding" in card and "[recipe.yaml](recipe.yaml)" in card
    assert "PATH" not in card and not re.search(r"[\s\"'(]/\w", card)
    command = re.search(r"```sh\n(tubelet .*)\n```", card)
    assert command is not None
    words = shlex.split(command[1].replace("my/videos", "my"))[1:]
    main([*words, "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--data.workers=0"])
    (file,) = (tmp_path / "features").glob("*.safetensors")
    assert read_features(file)[0] == ["one.mp4"]
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code is not None
    names: dict = {}
    exec(code[1], names)
    assert len(names["tensors"]) > 20
