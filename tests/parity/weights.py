"""Official weights into our models, and our gradients and parameters under official names."""

import torch

import models
from models.convert.rules import to_theirs
from tests.parity.case import CLOSE, Case


def load_whole(model: torch.nn.Module, weights: dict) -> torch.nn.Module:
    """Load official weights; every key must find its place, and none of ours may be left."""
    report = models.load_weights(model, weights)
    assert not report.unused and not report.missing, report
    return model


def official_gradients(model: torch.nn.Module, rules: dict) -> dict[str, torch.Tensor]:
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return to_theirs(rules, gradients)[0]


def check_gradients(case: Case, model: torch.nn.Module, rules: dict, tolerance: dict = CLOSE, scale: float = 1) -> dict:
    """Compare the case's gradients; returns all of ours, under official names."""
    ours = official_gradients(model, rules)
    for name in case.names("grad"):
        case.close(name, ours[name.removeprefix("grad/")] * scale, tolerance)
    return ours


def norm_of(gradients: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([gradient.norm() for gradient in gradients.values()]).norm()


def official_names(names: list[str], rules: dict) -> list[str]:
    """The official names of these parameters."""
    return sorted(to_theirs(rules, {name: torch.empty(1) for name in names})[0])
