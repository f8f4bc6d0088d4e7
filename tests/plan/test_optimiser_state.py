"""Bytes of an optimiser's state: those that real steps leave, of any optimiser, and AdamW's where none can be taken."""

import pytest
import torch
from torch import nn

from pretrain.cli import settings_of
from pretrain.learning.optim import Optim
from pretrain.plan.dry_run import DryRun
from pretrain.plan.estimate import Plan
from pretrain.plan.memory import Sizes
from pretrain.plan.optimiser_state import state_bytes
from tests.helpers.paths import ROOT

NUMBERS = 3 * 64 * 8 + 64 + 500 * 100 + 500 + 1  # of `model`
OTHERS = [  # bytes a parameter, where they are a number
    ({}, 8),
    ({"optimizer": "torch.optim.SGD"}, 0),
    ({"optimizer": "torch.optim.SGD", "optimizer_options": {"momentum": 0.9}}, 4),
    ({"optimizer": "timm.optim.Lion"}, 4),
    ({"optimizer": "timm.optim.Muon"}, 4),
    ({"optimizer": "torch.optim.Adafactor", "weight_decay": 0.0}, None),
    ({"optimizer": "tests.plan.test_optimiser_state.OneByte"}, 1),
]


class OneByte(torch.optim.Optimizer):
    """Keeps a byte of each parameter, which it computes from values."""

    def __init__(self, params, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})

    def step(self, closure=None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                float(p.grad.sum())  # no step without values
                self.state[p]["average"] = (p.grad * 0).to(torch.uint8)


class OnlyOnGPU(OneByte):
    def step(self, closure=None) -> None:
        raise RuntimeError("no kernel for this device")


def model() -> nn.ModuleDict:
    parts = nn.ModuleDict({"a": nn.Conv3d(3, 64, 2, 2), "b": nn.Linear(100, 500)})
    parts["b"].register_parameter("scale", nn.Parameter(torch.tensor(1.0)))
    parts["frozen"] = nn.Linear(10, 10).requires_grad_(False)
    return parts


@pytest.mark.parametrize(("settings", "each"), OTHERS, ids=lambda value: str(value)[:60])
def test_bytes_are_those_after_a_real_step(settings: dict, each: int | None) -> None:
    optim, parts = Optim(**settings, rates={"b": 0.5}), model()
    found = state_bytes(optim, parts.named_parameters())
    optimizer = optim.build(parts)
    sum(p.square().sum() for p in parts.parameters()).backward()
    optimizer.step()
    kept = [part for state in optimizer.state.values() for part in state.values() if isinstance(part, torch.Tensor)]
    assert found == sum(part.nbytes for part in kept)
    assert found < 0.25 * NUMBERS if each is None else found == pytest.approx(each * NUMBERS, rel=0.02)


def test_weights_in_half_precision_have_a_state_in_it() -> None:
    assert state_bytes(Optim(), model().named_parameters(), torch.bfloat16) == pytest.approx(4 * NUMBERS, rel=0.01)


def test_the_plan_reads_the_recipes_optimiser() -> None:
    small = ["--data.init_args.size=32", "--data.init_args.frames=4", "--model.init_args.optim.weight_decay=0"]
    recipe = settings_of(["-c", str(ROOT / "recipes/videomae_tiny.yaml"), *small])
    recipe["model"]["init_args"]["optim"]["init_args"]["optimizer"] = "torch.optim.SGD"
    assert DryRun(recipe).optimiser_state(False) == 0
    recipe["model"]["init_args"]["optim"]["init_args"]["optimizer"] = "tests.plan.test_optimiser_state.OnlyOnGPU"
    plan = Plan(recipe, 1, "cpu")
    use = plan.memory()
    assert use.parts_alone["optimiser"] == 8 * Sizes.of(plan.dry_run.objective()[0]).trained
    assert "OnlyOnGPU takes no step on this machine" in plan.warnings(use)[0]
