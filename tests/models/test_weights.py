"""load_weights: every layout is recognised, every key accounted for, and nothing of another architecture gets in."""

import argparse
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import models
from models.convert import videomae as names
from models.convert.rules import to_ours, to_theirs
from pretrain.objectives import VideoMAE

SIZES = {"patch": 8, "tubelet": 2, "frames": 4, "size": 32}


def objective(width: int = 48, depth: int = 2, **options) -> VideoMAE:
    return VideoMAE(
        models.VideoViT(width, depth, 3, 96, **SIZES, **options), models.PixelDecoder(width, 32, 1, 2, 64, **SIZES)
    )


def random_state(model: torch.nn.Module, seed: int = 1) -> dict[str, torch.Tensor]:
    dice = torch.Generator().manual_seed(seed)
    return {name: torch.randn(t.shape, generator=dice) for name, t in model.state_dict().items()}


@pytest.fixture
def official() -> dict[str, torch.Tensor]:
    state, unknown = to_theirs(names.OFFICIAL_PRETRAIN, random_state(objective()))
    assert not unknown
    return state


def check(model: torch.nn.Module, path: object) -> models.LoadReport:
    report = models.load_weights(model, path)
    expected = random_state(objective())
    for name in report.loaded:
        whole = name if name in expected else f"encoder.{name}"
        assert torch.equal(model.state_dict()[name], expected[whole])
    return report


@pytest.mark.parametrize("wrap", [("model",), ("module",), ("state_dict",), (), ("checkpoint_is_in", "model")][:4])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "module._orig_mod."])
def test_official_files_of_every_wrapping(official: dict, wrap: tuple, prefix: str, tmp_path: Path) -> None:
    saved = {prefix + name: tensor for name, tensor in official.items()}
    for key in wrap:
        saved = {key: saved, "epoch": 3, "args": argparse.Namespace(lr=1e-3), "optimizer": {"state": {}}}
    torch.save(saved, tmp_path / "c.pth")
    report = check(objective(), tmp_path / "c.pth")
    assert report.source == "official pretraining" and not report.unused and not report.missing


def test_a_bare_encoder_takes_its_part(official: dict) -> None:
    report = check(objective().encoder, official)
    assert not report.missing
    assert report.unused and all("encoder." not in name for name in report.unused)


def test_pretraining_into_a_classifier_names_what_is_fresh(official: dict) -> None:
    model = models.VideoClassifier(models.VideoViT(48, 2, 3, 96, **SIZES, norm=False), 5)
    report = models.load_weights(model, official)
    assert sorted(report.missing) == ["fc_norm.bias", "fc_norm.weight", "head.bias", "head.weight"]
    assert {"encoder.norm.weight", "mask_token", "encoder_to_decoder.weight"} <= set(report.unused)


def test_a_head_for_other_classes_is_refused_unless_told(official: dict) -> None:
    small = models.VideoClassifier(models.VideoViT(48, 2, 3, 96, **SIZES, norm=False), 5)
    large = models.VideoClassifier(models.VideoViT(48, 2, 3, 96, **SIZES, norm=False), 7)
    state, _ = to_theirs(names.OFFICIAL_FINETUNE, random_state(large))
    before = small.head.weight.clone()
    with pytest.raises(ValueError, match="a head for 7 classes, and the model's is for 5: say which of its rows"):
        models.load_weights(small, state)
    with pytest.raises(ValueError, match="a head for 7 classes, and `classes` names row 7"):
        models.load_weights(small, state, classes=[0, 1, 2, 3, 7])
    report = models.load_weights(small, state, classes="none")
    assert {"head.weight", "head.bias"} <= set(report.unused) and {"head.weight", "head.bias"} <= set(report.missing)
    assert torch.equal(small.head.weight, before)


def test_transformers_names_of_both_spellings() -> None:
    state, unknown = to_theirs(names.TRANSFORMERS, random_state(objective()))
    assert not unknown
    assert not check(objective(), state).unused
    live = {n.replace(".q_bias", ".query.bias").replace(".v_bias", ".value.bias"): t for n, t in state.items()}
    report = check(objective(), live)
    assert report.source == "transformers" and not report.unused and not report.missing


def test_a_transformers_folder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=4, hidden_size=48, num_hidden_layers=2, num_attention_heads=3,
        intermediate_size=96, layer_norm_eps=1e-6, use_mean_pooling=False,
    )  # fmt: skip
    theirs = transformers.VideoMAEModel(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = objective().encoder
    report = models.load_weights(ours, tmp_path)
    assert not report.missing and not report.unused
    video = torch.randn(1, 3, 4, 32, 32)
    with torch.no_grad():
        expected = theirs(video.transpose(1, 2)).last_hidden_state
        torch.testing.assert_close(ours(video), expected, atol=1e-5, rtol=0)


def test_ours_comes_back_with_layer_scale_too(tmp_path: Path) -> None:
    for options in ({}, {"layer_scale": 0.1}):
        model = objective(**options)
        state = random_state(model)
        save_file(state, tmp_path / "model.safetensors")
        for path in (tmp_path, tmp_path / "model.safetensors"):
            report = models.load_weights(model, path)
            assert not report.unused and not report.missing
        bare = {name.removeprefix("encoder."): t for name, t in state.items() if name.startswith("encoder.")}
        assert not models.load_weights(model.encoder, bare).missing


def test_maps_are_their_own_inverse() -> None:
    state = random_state(objective())
    for rules in (names.OFFICIAL_PRETRAIN, names.TRANSFORMERS):
        theirs, unknown = to_theirs(rules, state)
        back, _ = to_ours(rules, theirs)
        assert not unknown and back.keys() == state.keys()
        assert all(torch.equal(back[name], state[name]) for name in state)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda: objective(width=96), "another architecture: encoder.patch_embed.proj.weight is"),
        (lambda: objective(depth=3), "encoder.blocks.2.attn.proj.bias is not in the checkpoint"),
        (lambda: objective(depth=1), "encoder.blocks.1.attn.proj.bias is not in the model"),
        (lambda: objective(layer_scale=0.1), "ls1.gamma is not in the checkpoint"),
    ],
)
def test_another_architecture_is_refused(official: dict, model, words: str) -> None:
    m = model()
    before = {name: t.clone() for name, t in m.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        models.load_weights(m, official)
    assert all(torch.equal(t, before[name]) for name, t in m.state_dict().items()), "refused, and yet changed"


def test_unreadable_files_say_so(official: dict, tmp_path: Path) -> None:
    torch.save({"model": official}, tmp_path / "whole.pth")
    (tmp_path / "cut.pth").write_bytes((tmp_path / "whole.pth").read_bytes()[:-5000])
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    (tmp_path / "empty").mkdir()
    torch.save({"model": {"other.weight": torch.zeros(1)}}, tmp_path / "other.pth")
    torch.save({"epoch": 1}, tmp_path / "none.pth")
    torch.save({"model": Trap()}, tmp_path / "code.pth")
    for name, words in {
        "missing.pth": "no checkpoint at",
        "cut.pth": "cut or damaged",
        "cut.safetensors": "not a whole safetensors file",
        "empty": "neither model.safetensors",
        "other.pth": "no known layout",
        "none.pth": "holds no state dict",
        "code.pth": "holding pickled code",
    }.items():
        with pytest.raises((ValueError, FileNotFoundError), match=words):
            models.load_weights(objective(), tmp_path / name)
    with pytest.raises(FileNotFoundError, match="did you mean the release umt_b"):
        models.load_weights(objective(), "umt_bb")
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    (tmp_path / "run/checkpoints/step=4.ckpt").touch()
    with pytest.raises(FileNotFoundError, match=r"folder of a run: name .* such as .*step=4\.ckpt"):
        models.load_weights(objective(), tmp_path / "run")


class Trap:
    """Pickles as a call: reading it as anything but weights would run code."""

    def __reduce__(self) -> tuple:
        return print, ("a checkpoint ran code",)
