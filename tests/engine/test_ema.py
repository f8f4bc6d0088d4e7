"""EMA: torch's averaging function gives the textbook recurrence, bit for bit, at the steps that the arguments name."""

from types import SimpleNamespace

import pytest
import torch

from pretrain.engine.ema import EMA


def follow(model: torch.nn.Module, ema: EMA, steps: int, micro_batches: int = 2) -> list[dict[str, torch.Tensor]]:
    """The trained weights in float32 before the first and after each of `steps` random updates of `model`."""
    trainer = SimpleNamespace(global_step=0)
    generator = torch.Generator().manual_seed(0)
    ema.on_train_start(trainer, model)
    weights = [{name: p.detach().float().clone() for name, p in model.named_parameters() if p.requires_grad}]
    for step in range(1, steps + 1):
        for micro_batch in range(micro_batches):
            if micro_batch == micro_batches - 1:
                trainer.global_step = step
                with torch.no_grad():
                    for p in model.parameters():
                        p.add_(torch.randn(p.shape, generator=generator).to(p.dtype))
            ema.on_train_batch_end(trainer, model, None, None, micro_batch)
        weights.append({name: p.detach().float().clone() for name, p in model.named_parameters() if p.requires_grad})
    return weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("decay,start_step,every_n_steps", [(0.9, 0, 1), (0.9999, 3, 1), (0.5, 1, 2), (0.0, 2, 3)])
def test_averages_are_the_recurrence(dtype, decay: float, start_step: int, every_n_steps: int) -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Linear(5, 2)).to(dtype)
    model[0].bias.requires_grad_(False)
    ema = EMA(decay, start_step, every_n_steps)
    weights = follow(model, ema, 10)
    expected = weights[0]
    for step, now in enumerate(weights[1:], 1):
        if step <= start_step:
            expected = now
        elif step % every_n_steps == 0:
            expected = {name: expected[name].lerp(tensor, 1 - decay) for name, tensor in now.items()}
    assert ema.average.keys() == expected.keys() == {"0.weight", "1.weight", "1.bias"}
    for name, tensor in ema.average.items():
        assert tensor.dtype == torch.float32 and torch.equal(tensor, expected[name])


def test_a_checkpoint_continues_the_average() -> None:
    model = torch.nn.Linear(3, 2)
    whole = EMA(0.9)
    follow(model, whole, 3)
    saved: dict = {}
    whole.on_save_checkpoint(None, model, saved)
    assert {name: type(tensor) for name, tensor in saved["ema"].items()} == {
        "weight": torch.Tensor,
        "bias": torch.Tensor,
    }
    resumed = EMA(0.9)
    resumed.on_load_checkpoint(None, model, saved)
    resumed.on_train_start(SimpleNamespace(global_step=3), model)
    assert all(torch.equal(tensor, whole.average[name]) for name, tensor in resumed.average.items())
    assert all(tensor is not saved["ema"][name] for name, tensor in resumed.average.items())
