"""What is compiled, recomputed and sharded one by one: blocks, and layers of other names that are as large."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from models import Coordinated, UniFormerV2, UniFormerV2Classifier, VideoClassifier, VideoViT
from models.chat.gmhra import VideoChatViT
from pretrain.learning import parallel

VIDEO = torch.randn(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(0))
KEEP = torch.tensor([[0, 3, 4, 6, 9, 11, 13, 14], [1, 2, 5, 7, 8, 10, 12, 15]])  # two of each frame's four patches


def uniformer(out: int | None = 8, **options: float) -> UniFormerV2:
    return UniFormerV2(16, 3, 2, 32, 8, frames=4, size=16, out=out, reads=(1, 2), **options)


def coordinated() -> Coordinated:
    masked = VideoClassifier(VideoViT(16, 4, 2, 32, 8, 2, frames=4, size=16, norm=False), 3)
    return Coordinated(masked, UniFormerV2Classifier(uniformer(None), 3, 0.0), tune=True)


def videochat() -> VideoChatViT:
    return VideoChatViT(16, 3, 2, 32, 2, 32, 8, 16, 4, dropout=0.0)


MODELS = {
    "UniFormerV2": (lambda: uniformer(reader_drop_path=0.5), "extractors"),
    "Coordinated": (coordinated, "cross_models"),
    "VideoChatViT": (videochat, "readers"),
}
EACH_MODEL = pytest.mark.parametrize("make,name", MODELS.values(), ids=list(MODELS))


def randomised(model: nn.Module) -> nn.Module:
    """No parameter stays at 0: the layers of interest start as the identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model.train()


def step(model: nn.Module) -> list[Tensor]:
    """The output and all gradients; UniFormerV2 with a mask."""
    torch.manual_seed(2)
    out = model.feature(VIDEO, KEEP) if isinstance(model, UniFormerV2) else model(VIDEO)
    out.square().mean().backward()
    return [out.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


@EACH_MODEL
def test_layers_of_other_names_are_recomputed(make, name: str) -> None:
    plain = randomised(make())
    model = copy.deepcopy(plain)
    parallel.recompute(model)
    layers = getattr(model, name)
    assert set(layers) < set(parallel.blocks(model))
    forwards = []
    for layer in layers:
        layer.norm2.register_forward_hook(lambda *_: forwards.append(1))
    for found, right in zip(step(model), step(plain), strict=True):
        assert torch.equal(found, right)
    assert len(forwards) == 2 * len(layers)


@EACH_MODEL
def test_layers_of_other_names_are_compiled(make, name: str) -> None:
    plain = randomised(make())
    model = copy.deepcopy(plain)
    parallel.compile_blocks(model, backend="eager")
    layers = getattr(model, name)
    for found, right in zip(step(model), step(plain), strict=True):
        torch.testing.assert_close(found, right, atol=1e-6, rtol=1e-4)
    assert all({"compute", "forward"} & vars(layer).keys() for layer in layers)
    assert counters["stats"]["unique_graphs"] > 0 and not counters["graph_break"]


@EACH_MODEL
def test_no_attention_is_outside_of_blocks(make, name: str) -> None:
    """Single modules of the type of a block are blocks too, such as the last of InternVideo's cross models."""
    model = make()
    inside = {id(module) for block in parallel.blocks(model) for module in block.modules()}
    outside = [name for name, module in model.named_modules() if "Attention" in type(module).__name__]
    outside = [name for name in outside if id(model.get_submodule(name)) not in inside]
    assert not outside
    assert len({id(block) for block in parallel.blocks(model)}) == len(parallel.blocks(model))
