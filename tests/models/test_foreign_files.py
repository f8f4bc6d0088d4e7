"""Weights as others save them: objects beside them are never run, other wrappings are found, and what is no weights is
named."""

import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import models
from models.convert.read import read_tensors
from tests.models.test_weights import check, objective, official  # noqa: F401 (a fixture)

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b.bias": torch.ones(3)}


def same(path: Path) -> bool:
    found = read_tensors(path)
    return found.keys() == STATE.keys() and all(torch.equal(found[name], STATE[name]) for name in STATE)


@pytest.fixture
def loss_scaler(monkeypatch: pytest.MonkeyPatch) -> object:
    """An object of a class of DeepSpeed, which cannot be imported when it is read."""
    names = ["deepspeed", "deepspeed.runtime", "deepspeed.runtime.fp16", "deepspeed.runtime.fp16.loss_scaler"]
    for name in names:
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))

    class LossScaler:
        def __init__(self) -> None:
            self.cur_scale, self.window = 65536, [1, 2]

    LossScaler.__module__, LossScaler.__qualname__ = names[-1], "LossScaler"
    sys.modules[names[-1]].LossScaler = LossScaler
    return LossScaler()


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == "deepspeed"]:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("old", [False, True], ids=["zip", "before 1.6"])
def test_states_of_deepspeed(tmp_path: Path, loss_scaler: object, old: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file alone, the folder of its step, and the whole checkpoint at stage 0."""
    step = tmp_path / "ds" / "global_step10"
    step.mkdir(parents=True)
    saved = {"module": STATE, "loss_scaler": loss_scaler, "param_shapes": None, "dp_world_size": 1, "ds_config": {}}
    torch.save(saved, step / "mp_rank_00_model_states.pt", _use_new_zipfile_serialization=not old)
    forget(monkeypatch)
    assert same(step / "mp_rank_00_model_states.pt")
    if not old:  # DeepSpeed has written archives since torch does
        assert same(step)
        (tmp_path / "ds" / "latest").write_text("global_step10")
        assert same(tmp_path / "ds")


def test_a_folder_of_stage_3_without_its_weights_is_refused(tmp_path: Path) -> None:
    empty = {name: torch.zeros(0) for name in STATE}
    shapes = [{name: tensor.shape for name, tensor in STATE.items()}]
    saved = {"module": empty, "param_shapes": shapes, "dp_world_size": 2}
    torch.save(saved, tmp_path / "zero_pp_rank_0_mp_rank_00_model_states.pt")
    with pytest.raises((ValueError, RuntimeError), match="lacks optim_states, which hold the weights of stage 3"):
        read_tensors(tmp_path)


def test_arrays_paths_and_settings_beside_the_weights(tmp_path: Path) -> None:
    from omegaconf import OmegaConf

    beside = {
        "path": Path("/data/run"),
        "array": np.arange(5),
        "scalar": np.float64(0.5),
        "kinds": np.array(["a", "b"]),
    }
    saved = {"model": STATE, "config": OmegaConf.create({"lr": 0.1, "path": ["a"]}), **beside}
    for new in (True, False):
        torch.save(saved, tmp_path / "c.pth", _use_new_zipfile_serialization=new)
        assert same(tmp_path / "c.pth")


class Hostile:
    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


def test_nothing_of_a_file_runs(tmp_path: Path) -> None:
    """Functions of packages that stand-ins are made for are not called; modules of Python are refused, as before."""
    from numpy.testing import rundocs  # runs the file that it is given

    (tmp_path / "ran.py").write_text("raise SystemExit('it ran')")
    torch.save({"model": STATE, "x": Hostile(rundocs, str(tmp_path / "ran.py"))}, tmp_path / "c.pth")
    assert same(tmp_path / "c.pth")
    torch.save({"model": STATE, "x": Hostile(exec, "raise SystemExit('it ran')")}, tmp_path / "d.pth")
    with pytest.raises(ValueError, match="holding pickled code"):
        read_tensors(tmp_path / "d.pth")


@pytest.mark.parametrize("key", ["model_ema", "state_dict_ema", "ema_model", "ema"])
def test_a_file_of_averages_only(tmp_path: Path, key: str) -> None:
    torch.save({key: STATE, "epoch": 3}, tmp_path / "c.pth")
    assert same(tmp_path / "c.pth")


def test_a_model_beside_other_parts(official: dict, tmp_path: Path) -> None:  # noqa: F811
    saved = {f"model.{name}": tensor for name, tensor in official.items()} | {"criterion.weight": torch.ones(3)}
    torch.save({"state_dict": saved}, tmp_path / "c.ckpt")
    report = check(objective(), tmp_path / "c.ckpt")
    assert report.unused == ["criterion.weight"] and not report.missing


def test_shards_of_pickles_with_an_index(tmp_path: Path) -> None:
    for number, name in enumerate(STATE, 1):
        torch.save({name: STATE[name]}, tmp_path / f"pytorch_model-0000{number}-of-00002.bin")
    where = {name: f"pytorch_model-0000{number}-of-00002.bin" for number, name in enumerate(STATE, 1)}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    assert same(tmp_path) and same(tmp_path / "pytorch_model.bin.index.json")
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    with pytest.raises(ValueError, match=r"00002-of-00002\.bin is no regular file, or is not there"):
        read_tensors(tmp_path)


MISTAKEN = {
    "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n": "is a pointer of Git LFS.*git lfs pull",
    "\n <!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>": "is a web page, not weights",
    "<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>": "is a web page, not weights",
    '{"error": "Repository not found"}': "is the answer of a server, not weights: .*Repository not found",
    "": "is empty",
}


@pytest.mark.parametrize("content", MISTAKEN)
@pytest.mark.parametrize("name", ["c.pth", "model.safetensors"])
def test_what_is_no_weights_is_named(tmp_path: Path, content: str, name: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name} {MISTAKEN[content]}"):
        models.load_weights(objective(), tmp_path / name)
    with pytest.raises(ValueError, match=MISTAKEN[content]):
        read_tensors(tmp_path / name)
