"""Every method's loss, gradient and optimiser step in bfloat16 under autocast equal those in float32 on a CPU."""

import pytest
import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from pretrain.export.load_run import build
from pretrain.objectives import Objective
from tests.helpers.devices import CUDA
from tests.helpers.methods import METHODS, resolved


def on_device(settings: dict, device: str) -> Objective:
    """A method without dropout and stochastic depth, whose masks follow numbers drawn on the CPU on any device."""
    torch.manual_seed(0)
    objective = build(settings).to(device).train()
    for module in objective.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
    return objective


def masks_from_the_cpu(objective: Objective) -> None:
    host = torch.Generator().manual_seed(1)
    objective.noise = lambda generator, rows, width: torch.rand(rows, width, generator=host).to(generator.device)


def two_steps(settings: dict, device: str, half: bool) -> tuple[dict[str, float], Tensor, dict[str, float]]:
    """The losses, the whole gradient `[parameters]`, and the losses after an optimiser step with the same masks."""
    objective = on_device(settings, device)
    generator = torch.Generator().manual_seed(1)
    text = ["a red circle moves left", "a green square moves up", "a blue cross moves right", "a yellow triangle"]
    batch = {"video": torch.randint(0, 256, (4, 3, 4, 32, 32), dtype=torch.uint8, generator=generator)}
    batch |= {"name": list("abcd"), "text": text, "label": torch.arange(4)}
    batch = objective.on_host(batch)
    batch |= {name: value.to(device) for name, value in batch.items() if isinstance(value, Tensor)}
    optimizer = objective.optim.build(objective)
    objective.optim.set_rates(optimizer, 50, 100)
    found = []
    for _ in range(2):
        masks_from_the_cpu(objective)
        optimizer.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            losses = objective(batch)
        sum(losses.values()).backward()
        found.append({name: loss.item() for name, loss in losses.items()})
        if len(found) == 1:
            gradients = [p.grad.float().flatten().cpu() for p in objective.parameters() if p.grad is not None]
            optimizer.step()
    return found[0], torch.cat(gradients), found[1]


# All of them on a GPU; on a CPU two in the default run, which between them have a teacher, texts and masked tokens.
QUICK = ("umt", "vilp")
CASES = [
    *(pytest.param(name, "cpu", id=f"{name}-cpu", marks=() if name in QUICK else pytest.mark.slow) for name in METHODS),
    *(pytest.param(name, *CUDA.values, id=f"{name}-cuda", marks=CUDA.marks) for name in METHODS),
]


@pytest.mark.parametrize("name, device", CASES)
def test_a_step_in_bfloat16_is_that_in_float32(name: str, device: str, capsys: pytest.CaptureFixture) -> None:
    small = "--data.init_args.frames=4", "--data.init_args.size=32"
    settings = resolved(capsys, METHODS[name], *small)["model"]
    losses, gradient, later = two_steps(settings, "cpu", half=False)
    half_losses, half_gradient, half_later = two_steps(settings, device, half=True)
    assert half_losses == pytest.approx(losses, rel=0.01, abs=0.01)
    assert F.cosine_similarity(half_gradient, gradient, dim=0) > 0.99
    assert float(half_gradient.norm()) == pytest.approx(float(gradient.norm()), rel=0.05)
    assert half_later == pytest.approx(later, rel=0.06, abs=0.02) and half_later != pytest.approx(losses, rel=0.01)
