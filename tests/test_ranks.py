"""Two ranks are one: the same global batch over two gloo processes gives the weights of one process."""

from pathlib import Path

import pytest
import torch

from tests.runs import arguments, fit, losses, run, weights
from tests.test_objectives import EACH

# Methods that compare or blend the samples of a batch: accumulated parts of it are not one batch, but ranks are.
COMPARED = ("viclip", "vilp", "umt2", "internvideo_mm")
COUPLED = ("finetune", *COMPARED)


@EACH
def test_two_ranks_equal_one(tmp_path: Path, recipe: list[str]) -> None:
    (two := tmp_path / "two").mkdir()
    (tmp_path / "one").mkdir()
    one = fit(tmp_path / "one", recipe, "--data.init_args.views=2", *_noted(tmp_path / "one"))
    spread = ["--trainer.devices=2", "--trainer.strategy=ddp", *_noted(two)]
    if not Path(recipe[1]).stem.startswith(COUPLED):
        spread.append("--data.init_args.micro_batch=1")  # accumulates twice
    run(arguments(two, recipe, "--data.init_args.views=2", *spread))
    if not Path(recipe[1]).stem.startswith(COMPARED):  # 3 videos: a rank has two of them, the other one
        found = [losses(folder)["val", 6] for folder in (tmp_path / "one", two)]
        # Masks of evaluation are drawn batch by batch, and ranks have other batches than one process has.
        assert found[0] == pytest.approx(found[1], rel=1e-4 if "finetune" in recipe[1] else 2e-2)
    ours, theirs = weights(one, 6), weights(two / "run", 6)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        tensor, other = _steered(name, tensor), _steered(name, theirs[name])
        torch.testing.assert_close(other, tensor, atol=2e-5, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


def _noted(folder: Path) -> list[str]:
    return ["--trainer.callbacks+=tests.runs.Losses", f"--trainer.callbacks.path={folder}/losses.tsv"]


def _steered(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """What a gradient steers. A key's bias adds as much to all keys of a query, which softmax takes away: its gradient
    is rounding, and Adam makes whole steps of that."""
    if name.endswith("attn.qkv.bias"):
        q, _, v = tensor.chunk(3)
        return torch.cat((q, v))
    return tensor.chunk(2)[1] if name.endswith(".kv.bias") else tensor
