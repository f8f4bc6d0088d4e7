"""What is said to be float32 is float32 under autocast: similarities, temperatures, losses, hard negatives."""

import pytest
import torch
import torch.nn.functional as F

from pretrain.learning.contrast import contrastive_loss, pair_loss, similarity
from pretrain.learning.matching import sample_negatives

TEMPERATURE = torch.tensor(0.01)


def features(rows: int, *more: int, seed: int = 0) -> torch.Tensor:
    """Features with similarities near each other, as those of a trained model have: rounding shows."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(1 + 0.1 * torch.randn(rows, *more, 64, generator=generator), dim=-1)


@pytest.mark.parametrize("pool", ["mean", "max"])
@pytest.mark.parametrize("video,text", [((8,), (8,)), ((8, 3), (8,)), ((8,), (8, 3))])
def test_similarities_are_float32_under_autocast(video: tuple, text: tuple, pool: str) -> None:
    v, t = features(*video), features(*text, seed=1)
    expected = similarity(v, t, TEMPERATURE, pool)
    with torch.autocast("cpu", torch.bfloat16):
        found = similarity(v, t, TEMPERATURE, pool)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


def test_the_loss_and_its_gradient_are_float32_under_autocast() -> None:
    losses, gradients = [], []
    for enabled in (False, True):
        v, t = features(8).requires_grad_(), features(8, seed=1).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = pair_loss(v, t, torch.arange(8), TEMPERATURE)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(v.grad)
    assert torch.equal(*losses) and torch.equal(*gradients)


def test_a_loss_of_bfloat16_features_is_that_of_their_float32_values() -> None:
    v, t = features(8).bfloat16(), features(8, seed=1).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = contrastive_loss(similarity(v, t, TEMPERATURE))
    assert torch.equal(found, contrastive_loss(similarity(v.float(), t.float(), TEMPERATURE)))


def test_hard_negatives_do_not_depend_on_autocast() -> None:
    v, t, keys = features(64), features(64, seed=1), torch.arange(64)
    noise = torch.rand(64, 129, generator=torch.Generator().manual_seed(2))
    plain = sample_negatives(v, t, keys, TEMPERATURE, noise, lambda x: x)
    with torch.autocast("cpu", torch.bfloat16):
        found = sample_negatives(v, t, keys, TEMPERATURE, noise, lambda x: x)
    assert all(map(torch.equal, plain, found))
