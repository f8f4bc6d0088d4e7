"""GradCache: losses and gradients of the whole batch, with less memory."""

import pytest
import torch
from torch import Tensor

from pretrain.cli import main
from pretrain.export.load_run import build
from pretrain.learning.grad_cache import in_chunks
from tests.helpers.methods import resolved
from tests.helpers.paths import ROOT


@pytest.fixture(params=["viclip", "vilp", "internvideo_mm"])
def truth(request: pytest.FixtureRequest, capsys: pytest.CaptureFixture) -> dict:
    recipe = ["-c", str(ROOT / f"recipes/{request.param}_tiny.yaml")]
    return resolved(capsys, recipe, "--data.init_args.frames=4", "--data.init_args.size=32")["model"]


def losses_and_gradients(truth: dict, chunk_size: int | None, rows: int = 7) -> tuple[dict, dict]:
    torch.manual_seed(0)
    truth["init_args"]["chunk_size"] = chunk_size
    objective = build(truth)
    video = torch.randint(0, 256, (rows, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    colours = ["red", "green", "blue", "white", "yellow", "pink", "grey"]
    batch = {"video": video, "text": [f"a {c} circle moves left" for c in colours[:rows]], "name": list("abcdefg")}
    losses = objective(batch)
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("chunk_size", [1, 3])
def test_chunks_equal_the_whole_batch(truth: dict, chunk_size: int) -> None:
    whole, gradients = losses_and_gradients(truth, None)
    parts, found = losses_and_gradients(truth, chunk_size)
    torch.testing.assert_close(parts, whole, atol=1e-5, rtol=1e-5)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, atol=1e-5, rtol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_chunks_keep_no_activations() -> None:
    weight = torch.randn(64, 64, requires_grad=True)
    kept = {}

    def rows(x: Tensor) -> tuple[Tensor]:
        for _ in range(8):
            x = torch.tanh(x @ weight)
        return (x,)

    for chunk_size in (None, 16):
        saved: dict[int, int] = {}

        def count(x: Tensor, saved: dict = saved) -> Tensor:
            saved[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(count, lambda x: x):
            (made,) = in_chunks(rows, chunk_size, torch.randn(256, 64))
        kept[chunk_size] = sum(saved.values())
        assert made.shape == (256, 64)
    assert kept[16] < kept[None] / 4


def test_a_chunk_of_no_rows_raises(capsys: pytest.CaptureFixture) -> None:
    words = ["fit", "-c", str(ROOT / "recipes/viclip_tiny.yaml"), "--model.init_args.chunk_size=0"]
    with pytest.raises(Exception, match="1 or more, not 0"):
        main(words)
