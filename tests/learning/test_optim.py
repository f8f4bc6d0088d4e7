"""Optimisers: parameter groups by name for every encoder, rates, schedules, and any optimiser by its class path."""

import math
import re
from collections.abc import Callable

import jsonargparse
import pytest
import torch
from torch import nn

import models
from models.chat.gmhra import VideoChatViT
from pretrain.learning.optim import ClampedAdamW, Optim, parameter_groups
from pretrain.learning.schedules import SCHEDULES


def scales(groups: list[dict], model: nn.Module) -> dict[str, float]:
    """The factor of the learning rate of each parameter, by its name."""
    name = {id(parameter): name for name, parameter in model.named_parameters()}
    return {name[id(parameter)]: group["lr_scale"] for group in groups for parameter in group["params"]}


def vit(depth: int = 2, **options: bool) -> models.VideoViT:
    return models.VideoViT(16, depth, 2, 32, patch=16, tubelet=2, frames=4, size=32, **options)


def uniformer(out: int | None = 8, **options: int) -> models.UniFormerV2:
    return models.UniFormerV2(16, 3, 2, 32, 16, frames=4, size=32, out=out, reads=(1, 2), **options)


def classifier(encoder: models.Encoder) -> nn.Module:
    return nn.ModuleDict({"model": models.VideoClassifier(encoder, 4, mean=False)})


def coordinated() -> nn.Module:
    masked = models.VideoClassifier(vit(4, norm=False), 3)
    pair = models.Coordinated(masked, models.UniFormerV2Classifier(uniformer(None), 3, 0.0), tune=True)
    return nn.ModuleDict({"model": pair})


# Every encoder in a classifier.
ENCODERS: dict[str, Callable[[], nn.Module]] = {
    "VideoViT": lambda: classifier(vit()),
    "VideoViT, learnt positions": lambda: classifier(vit(learn_positions=True)),
    "ViCLIPVision": lambda: classifier(models.ViCLIPVision(16, 2, 2, 32, 16, 1, frames=4, size=32, out=8)),
    "UniFormerV2": lambda: nn.ModuleDict({"model": models.UniFormerV2Classifier(uniformer(None), 4)}),
    "UniFormerV2, local": lambda: nn.ModuleDict({"model": models.UniFormerV2Classifier(uniformer(None, local=1), 4)}),
    "VideoChatViT": lambda: classifier(VideoChatViT(16, 3, 2, 32, 2, 32, 16, 32, 4)),
    "Coordinated": coordinated,
}
BEFORE_BLOCKS = r"patch_embed\.|cls_token|pos_embed|positions\.|time\.|norm_pre\."
AFTER_BLOCKS = r"norm\.|proj\.|extractors\.|readers\.|query|balance|video_token"


@pytest.mark.parametrize("name", ENCODERS)
def test_layer_decay_by_name(name: str) -> None:
    """What precedes the blocks has the lowest rate, block i the next, and heads and readers the full rate."""
    model = ENCODERS[name]()
    found = scales(parameter_groups(model, 0.05, 0.5), model)
    assert found.keys() == {name for name, p in model.named_parameters() if p.requires_grad}
    depths = {}
    for parameter in found:
        if block := re.match(r"(.*encoder)\.blocks\.(\d+)", parameter):
            depths[block[1]] = max(depths.get(block[1], 0), int(block[2]) + 1)
    for parameter, scale in found.items():
        encoder = re.match(r"(.*encoder)\.(.*)", parameter)
        if encoder is None:
            assert scale == 1, parameter
        elif block := re.match(r"blocks\.(\d+)", encoder[2]):
            assert scale == 0.5 ** (depths[encoder[1]] - int(block[1])), parameter
        elif re.match(BEFORE_BLOCKS, encoder[2]):
            assert scale == 0.5 ** (depths[encoder[1]] + 1), parameter
        else:
            assert re.match(AFTER_BLOCKS, encoder[2]) and scale == 1, parameter


@pytest.mark.parametrize("name", ENCODERS)
def test_weight_decay_by_name(name: str) -> None:
    """In fine-tuning matrices decay, and tables of positions do not; in pretraining tables do."""
    model, optim = ENCODERS[name](), Optim()
    for parameter, value in model.named_parameters():
        table = bool(re.search(r"\.(pos_embed|positions\.table|time\.table)$", parameter))
        assert optim.decays(parameter, value) == (value.ndim > 1 and not table), parameter
        if table and value.ndim > 1:
            assert optim.decays(parameter.removeprefix("model."), value), parameter


def test_timm_does_not_give_the_official_layer_decay() -> None:
    """Official: patches 0.5 ** 3, blocks 0.5 ** 2 and 0.5, head 1 (VideoMAE V2 `optim_factory.py`).

    This is why parameter groups are our own.
    """
    from timm.optim import param_groups_layer_decay

    model = models.VideoClassifier(vit(), classes=4)
    ours = scales(parameter_groups(model, 0.05, 0.5), model)
    theirs = scales(param_groups_layer_decay(model, 0.05, layer_decay=0.5), model)
    assert ours["encoder.blocks.0.mlp.fc1.weight"] == 0.25 and ours["head.weight"] == 1
    assert theirs != ours


def test_an_absolute_rate_does_not_depend_on_the_batch() -> None:
    absolute, scaled = (
        Optim(lr=8e-5, min_lr=1e-6, warmup_steps=1),
        Optim(base_lr=8e-5, base_min_lr=1e-6, warmup_steps=1),
    )
    for step in (1, 7, 9):
        assert absolute.rate(step, 10, 14336) == absolute.rate(step, 10) == scaled.rate(step, 10, 256)
        assert scaled.rate(step, 10, 512) == pytest.approx(2 * scaled.rate(step, 10))
    optimizer = absolute.build(nn.Linear(2, 2), 14336)
    assert absolute.set_rates(optimizer, 1, 10, 14336)[0] == 8e-5 == optimizer.param_groups[0]["lr"]
    clamped = ClampedAdamW(lr=8e-5, min_lr=2e-6, warmup_steps=2)
    assert [clamped.rate(step, 4, 14336) for step in (1, 2, 4)] == pytest.approx([4e-5, 8e-5, 2e-6])


@pytest.mark.parametrize("both", [{"base_lr": 1e-4}, {"base_min_lr": 1e-6}, {"base_start_lr": 0.0}])
def test_two_ways_to_state_a_rate_are_refused(both: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="keep one"):
        Optim(lr=1e-4, **both)


def test_a_floor_without_its_peak_is_refused() -> None:
    with pytest.raises(ValueError, match="go with"):
        Optim(base_lr=1e-4, min_lr=1e-6)


# The rate at steps 0, 2, 6, 9 and 10 of 10, with two steps of warm-up to 1 and a floor of 0.1.
RATES = {
    "cosine": (0, 1, 0.55, 0.1 + 0.45 * (1 + math.cos(math.pi * 7 / 8)), 0.1),
    "linear": (0, 1, 0.55, 0.2125, 0.1),
    "constant": (0, 1, 1, 1, 1),
    "warmup_stable_decay": (0, 1, 1, 0.55, 0.1),
    "clamped_cosine": (0.1, 1, 0.5, 0.1, 0.1),
}


def test_schedules() -> None:
    assert RATES.keys() == SCHEDULES.keys()
    for name, right in RATES.items():
        optim = Optim(lr=1.0, min_lr=0.1, warmup_steps=2, schedule=name)
        assert [optim.rate(step, 10) for step in (0, 2, 6, 9, 10)] == pytest.approx(right), name
    late = Optim(lr=1.0, warmup_steps=2, schedule="warmup_stable_decay", decay_share=0.5)
    assert [late.rate(step, 10) for step in (5, 6, 9)] == pytest.approx([1, 0.8, 0.2])


def test_rates_by_module() -> None:
    model = nn.ModuleDict(
        {"text": nn.Linear(2, 2), "encoder": nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})}
    )
    optim = Optim(lr=1.0, rates={"text": 0.1, "encoder": 0.5, "encoder.b": 0.25, "encoder.b.bias": 2.0})
    found = scales(optim.build(model).param_groups, model)
    assert {name: found[name] for name in ("text.weight", "encoder.a.bias", "encoder.b.weight", "encoder.b.bias")} == {
        **{"text.weight": 0.1, "encoder.a.bias": 0.5, "encoder.b.weight": 0.25, "encoder.b.bias": 2.0}
    }
    with pytest.raises(ValueError, match="begins 'encode'"):
        Optim(rates={"encode": 0.1}).build(model)


def from_recipe(settings: dict) -> Optim:
    """The optimiser of a recipe's section `optim`."""
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_argument("--optim", type=Optim)
    return parser.instantiate_classes(parser.parse_object({"optim": settings})).optim


# Options of optimisers that recipes may name, with matrices, vectors and scalars to train.
OTHERS = {
    "torch.optim.SGD": {"momentum": 0.9, "nesterov": True},
    "torch.optim.RMSprop": {},
    "timm.optim.Lion": {"betas": [0.95, 0.98]},
    "timm.optim.Lars": {"momentum": 0.9},
    "timm.optim.Muon": {"momentum": 0.95},
}


@pytest.mark.parametrize("name", OTHERS)
def test_any_optimiser_by_its_class_path(name: str) -> None:
    named = {"optimizer": name, "optimizer_options": OTHERS[name]}
    optim = from_recipe({"lr": 0.1, "warmup_steps": 1, "weight_decay": 0.01, **named})
    model = nn.ModuleDict({"a": nn.Conv3d(3, 4, 2, 2), "b": nn.Linear(4, 4)})
    model["b"].register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    optimizer = optim.build(model)
    assert type(optimizer).__name__ == name.rpartition(".")[2]
    optim.set_rates(optimizer, 1, 10)
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    sum(p.square().sum() for p in model.parameters()).backward()
    optimizer.step()
    for key, p in model.named_parameters():
        assert p.isfinite().all() and not torch.equal(p, before[key]), key
    decaying = [group["weight_decay"] for group in optimizer.param_groups if group["decays"]]
    assert decaying == [0.01] * len(decaying) and len(decaying) < len(optimizer.param_groups)


def test_an_optimiser_without_weight_decay_is_named() -> None:
    settings = {"optimizer": "torch.optim.Rprop", "weight_decay": 0.05}
    with pytest.raises(ValueError, match="Rprop has no weight decay"):
        from_recipe(settings).build(nn.Linear(2, 2))
    from_recipe({**settings, "weight_decay": 0.0}).build(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"optimizer": "timm.optim.Lyon"}, "there is no timm.optim.Lyon"),
        ({"optimizer": "timm.optim.create_optimizer"}, "is no torch.optim.Optimizer"),
        ({"optimizer": "torch.optim.SGD", "optimizer_options": {"momentun": 0.9}}, "momentun"),
        ({"optimizer_options": {"momentum": 0.9}}, "name it by optim.optimizer"),
    ],
)
def test_a_wrong_optimiser_is_named(settings: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Optim(**settings).build(nn.Linear(2, 2))
