"""The contrastive losses over ranks: rows of a rank against columns of all, equal to one process with all pairs."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from pretrain.learning.contrast import contrastive_loss, logit_bias, pair_loss, same_pairs, sigmoid_loss, similarity
from pretrain.learning.grad_cache import in_chunks
from tests.helpers.ranks import in_ranks

ROWS, WIDTH = 4, 6  # pairs of a rank, channels of its inputs
# Loss, frames of a video, pairs that are encoded at a time.
VARIANTS = {
    "softmax": ("softmax", 1, None),
    "sigmoid": ("sigmoid", 1, None),
    "of frames": ("softmax", 3, None),
    "in chunks": ("softmax", 1, 3),
    "sigmoid in chunks": ("sigmoid", 1, 3),
}


class Towers(nn.Module):
    """Two towers of one layer, a temperature, and the bias of a sigmoid loss."""

    def __init__(self, loss: str) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.video, self.text = (nn.Parameter(torch.randn(WIDTH, 8, generator=generator)) for _ in range(2))
        self.temperature, self.bias = nn.Parameter(torch.tensor(0.1)), logit_bias(loss)

    def features(self, video: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(video @ self.video).squeeze(1), torch.tanh(text @ self.text)


def inputs(rows: int, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Videos, texts and keys of all ranks; the first and the last pair are positives of each other."""
    generator = torch.Generator().manual_seed(1)
    keys = torch.arange(rows)
    keys[-1] = 0
    video = torch.randn(rows, frames, WIDTH, generator=generator)
    return video, torch.randn(rows, WIDTH, generator=generator), keys


class Largest(TorchDispatchMode):
    """Counts the elements of the largest tensor that is made."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for part in out if isinstance(out, tuple | list) else (out,):
            if isinstance(part, Tensor):
                self.elements = max(self.elements, part.numel())
        return out


def on_rank(rank: int, folder: Path, exact: bool) -> None:
    dist.init_process_group("gloo")
    made, world = {}, dist.get_world_size()
    for name, (loss, frames, chunk_size) in VARIANTS.items():
        towers = Towers(loss)
        own = [x[rank * ROWS : (rank + 1) * ROWS] for x in inputs(world * ROWS, frames)]
        with Largest() as largest:
            video, text = in_chunks(towers.features, chunk_size, *own[:2])
            found = pair_loss(video, text, own[2], towers.temperature, exact=exact, bias=towers.bias)
            found.backward()
        values = {"loss": found.detach(), **{key: p.grad for key, p in towers.named_parameters()}}
        for value in values.values():
            dist.all_reduce(value)  # as DDP averages
        made[name] = {key: value / world for key, value in values.items()}, largest.elements
    if rank == 0:
        torch.save(made, folder / "found.pt")
    dist.destroy_process_group()


def of_one_process(world: int, loss: str, frames: int) -> dict[str, Tensor]:
    """Loss and gradients by the whole matrix of similarities."""
    towers = Towers(loss)
    video, text, keys = inputs(world * ROWS, frames)
    similar = similarity(*towers.features(video, text), towers.temperature)
    if towers.bias is None:
        value = contrastive_loss(similar, same_pairs(keys))
    else:
        value = sigmoid_loss(similar + towers.bias, same_pairs(keys))
    value.backward()
    return {"loss": value.detach(), **{key: p.grad for key, p in towers.named_parameters()}}


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_equal_one_process(world: int, tmp_path: Path) -> None:
    in_ranks(on_rank, tmp_path, True, world=world)
    made = torch.load(tmp_path / "found.pt", weights_only=True)
    for name, (loss, frames, _) in VARIANTS.items():
        found, largest = made[name]
        right = of_one_process(world, loss, frames)
        assert found.keys() == right.keys()
        for key, value in right.items():
            where = f"{name}, {key}: "
            torch.testing.assert_close(found[key], value, atol=1e-6, rtol=1e-5, msg=lambda m, w=where: w + m)
        if frames == 1:
            assert largest <= ROWS * world * max(ROWS, 8), f"{name}: more than [B, G] and the gathered features"


def test_inexact_gradients_are_divided_by_the_number_of_ranks(tmp_path: Path) -> None:
    """As released: of the towers, and not of the temperature."""
    in_ranks(on_rank, tmp_path, False, world=2)
    found, _ = torch.load(tmp_path / "found.pt", weights_only=True)["softmax"]
    right = of_one_process(2, "softmax", 1)
    for key in ("video", "text"):
        torch.testing.assert_close(found[key], right[key] / 2)
    for key in ("loss", "temperature"):
        torch.testing.assert_close(found[key], right[key])


def test_the_sigmoid_loss_is_that_of_siglip() -> None:
    """Arithmetic of the paper's algorithm 1: -log sigmoid(label * logit), summed and divided by the rows."""
    logits, labels = torch.randn(5, 5, generator=torch.Generator().manual_seed(2)), 2 * torch.eye(5) - 1
    right = -F.logsigmoid(labels * logits).sum() / 5
    torch.testing.assert_close(sigmoid_loss(logits, torch.eye(5).bool()), right)
