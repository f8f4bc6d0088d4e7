"""What is said to be float32 is float32 under autocast: similarities, temperatures, losses, hard negatives."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from models import CLIPVision
from pretrain.learning.contrast import contrastive_loss, pair_loss, similarity
from pretrain.learning.matching import sample_negatives
from pretrain.learning.teachers import Float32LayerNorm, Frozen

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


class NormTypes(TorchDispatchMode):
    """Records the types of the inputs of norms and of softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.types: dict[str, set] = {"native_layer_norm": set(), "_softmax": set()}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        if name in self.types:
            self.types[name] |= {x.dtype for x in args if isinstance(x, torch.Tensor)}
        return function(*args, **(kwargs or {}))


def test_a_bfloat16_teacher_has_float32_norms_and_softmax() -> None:
    """As in the official code, whose autocast computes both in float32. Where no softmax is written out, torch's
    `scaled_dot_product_attention` accumulates in float32."""
    teacher = Frozen(CLIPVision(32, 2, 2, 64, 8, 16, 16), random=0, param_dtype="bfloat16")
    norms = [module for module in teacher.model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 6 and all(type(norm) is Float32LayerNorm for norm in norms)
    for name, parameter in teacher.model.named_parameters():
        assert parameter.dtype == (torch.float32 if "norm" in name else torch.bfloat16), name
    video = torch.randn(2, 3, 2, 16, 16, generator=torch.Generator().manual_seed(0))
    with NormTypes() as seen:
        made = teacher(video)
    assert seen.types == {"native_layer_norm": {torch.float32}, "_softmax": {torch.float32}}
    assert made.features[0].dtype == torch.bfloat16
    exact = Frozen(CLIPVision(32, 2, 2, 64, 8, 16, 16), random=0)(video)
    torch.testing.assert_close(made.features[0].float(), exact.features[0], atol=0.05, rtol=0.05)
    teacher.to(torch.bfloat16)  # as a strategy may convert the whole model
    assert teacher(video).features[0].isfinite().all()
