"""Damaged weights are named by their file: a flipped bit, a replaced file, an index that leads out of its folder."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from datamodules.making.captions import ImageToText
from models import load_weights
from models.chat.language_model import language_model
from models.convert.integrity import MANIFEST, SUMS, crc32
from models.convert.read import read_tensors
from pretrain.export.command import export
from pretrain.export.load_run import load_objective
from pretrain.vbench.transformers_models import OpenVocabularyDetector
from tests.helpers.damage import flip_bit
from tests.helpers.paths import TESTS

RUN = TESTS / "legacy/videomae/checkpoints/step=0000004.ckpt"


@pytest.mark.parametrize("kind", ["safetensors", "transformers", "official"])
def test_an_export_is_compared_with_its_sums(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(str(RUN), kind, str(out))
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=out, check=True)
    assert len((out / SUMS).read_text().splitlines()) == len(list(out.iterdir())) - 1
    model, _ = load_objective(str(RUN))
    file = out / ("checkpoint.pth" if kind == "official" else "model.safetensors")
    path = file if kind == "official" else out
    assert load_weights(model, path).loaded
    flip_bit(file)
    with pytest.raises(ValueError, match=rf"{file} is (damaged: its SHA-256|cut or damaged)"):
        load_weights(model, path)


def test_a_flipped_bit_would_be_a_weight(tmp_path: Path) -> None:
    """Without the sums the same file loads: the format itself notices nothing."""
    out = tmp_path / "out"
    export(str(RUN), "safetensors", str(out))
    before = {name: tensor.clone() for name, tensor in read_tensors(out).items()}
    flip_bit(out / "model.safetensors")
    (out / SUMS).unlink()
    after = read_tensors(out)
    assert sum(not torch.equal(before[name], after[name]) for name in before) == 1


def test_every_bit_of_a_record_counts(tmp_path: Path) -> None:
    file = tmp_path / "weights.pth"
    torch.save({"weight": torch.ones(64)}, file)
    whole = file.read_bytes()
    start = whole.index(torch.ones(64).numpy().tobytes())
    for place in range(start, start + 256, 17):
        content = bytearray(whole)
        content[place] ^= 1
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"weights\.pth is cut or damaged: its record"):
            read_tensors(file)


def test_a_sharded_folder_is_compared_with_its_manifest(tmp_path: Path) -> None:
    import torch.distributed.checkpoint as dcp

    folder = tmp_path / "run.ckpt"
    state = {"state_dict": {"encoder.patch_embed.proj.weight": torch.ones(64)}}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(folder, single_file_per_rank=True))
    files = {file.name: (file.stat().st_size, crc32(file)) for file in folder.iterdir()}
    (folder / MANIFEST).write_text(json.dumps(files))
    assert torch.equal(read_tensors(folder)["encoder.patch_embed.proj.weight"], torch.ones(64))
    flip_bit(folder / "__0_0.distcp")
    with pytest.raises(ValueError, match=r"run\.ckpt is cut or damaged"):
        read_tensors(folder)


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_map": 3}', '{"weight_map": {"a": "../model.safetensors"}}'])
def test_a_crafted_index_of_weights_is_refused(content: str, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    folder.mkdir()
    save_file({"weight": torch.ones(1)}, tmp_path / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=r"model\.safetensors\.index\.json (is damaged|names files outside)"):
        read_tensors(folder)


def test_a_pipe_is_no_file_of_weights(tmp_path: Path) -> None:
    """It would be waited for without end."""
    os.mkfifo(tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="is no regular file"):
        read_tensors(tmp_path / "weights.pth")


def test_a_file_without_sums_is_read(tmp_path: Path) -> None:
    """Others' files have none; a line for another file says nothing of this one."""
    file = Path(shutil.copy(TESTS / "legacy/videomae_safetensors/model.safetensors", tmp_path))
    (tmp_path / SUMS).write_text(f"{'0' * 64}  other.safetensors\n")
    assert read_tensors(file)
    (tmp_path / SUMS).write_text(f"{'0' * 64}  model.safetensors\n")
    with pytest.raises(ValueError, match="if you replaced the file on purpose"):
        read_tensors(file)


def _language_model(folder: str) -> object:
    return language_model(folder)


def _captioner(folder: str) -> object:
    return ImageToText(folder)


def _detector(folder: str) -> object:
    return OpenVocabularyDetector(folder, ["a dog"])


@pytest.mark.parametrize("read", [_language_model, _captioner, _detector])
def test_code_in_a_folder_of_transformers_is_not_run_whatever_is_answered(
    read: Callable[[str], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers asks on a terminal whether to run it, unless it is told."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    (tmp_path / "crafted.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    names = ("AutoConfig", "AutoProcessor", "AutoModelForCausalLM", "AutoModelForImageTextToText")
    classes = dict.fromkeys((*names, "AutoModelForZeroShotObjectDetection"), "crafted.Anything")
    for file in ("config.json", "processor_config.json", "preprocessor_config.json"):
        (tmp_path / file).write_text(json.dumps({"model_type": "crafted", "auto_map": classes}))
    with pytest.raises((ValueError, OSError)):
        read(str(tmp_path))
    assert not (tmp_path / "ran").exists()
