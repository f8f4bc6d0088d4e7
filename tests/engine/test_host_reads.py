"""The host runs ahead of the device: no method's training step reads a tensor of the device, or waits for a copy."""

from pathlib import Path

import pytest
import torch

from pretrain.learning.transfer import HostCopy
from tests.helpers.host_reads import HostRead, no_host_reads, watch
from tests.helpers.methods import each_method
from tests.helpers.runs import fit

# Steps of two micro-batches, with all that may run in a step; logging is at longer intervals than this.
ALL_ON = [
    "--trainer.callbacks+=EMA",
    "--trainer.gradient_clip_val=1.0",
    "--guard.factor=10",
    "--trainer.log_every_n_steps=50",
    "--trainer.max_steps=4",
    "--data.init_args.micro_batch=2",
]


@each_method(slow=("internvideo", "lavie"))
def test_no_training_step_reads_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: list[str]) -> None:
    with no_host_reads(monkeypatch, first=2) as checked:  # Lightning reads metrics before the first step
        fit(tmp_path, recipe, *ALL_ON)
    assert checked == list(range(2, 8))


MASK = torch.tensor([True, False, True])
READS = {  # of `x` `[3]` on the device
    "item": lambda x: x[0].item(),
    "branch": lambda x: 1 if x.isfinite().all() else 0,
    "list": lambda x: x.tolist(),
    "number": lambda x: float(x.sum()),
    "numpy": lambda x: x.detach().numpy(),
    "nonzero": lambda x: x.nonzero(),
    "a mask as index": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(MASK),
    "equal": lambda x: torch.equal(x, x + 1),
    "unique": lambda x: x.unique(),
    "made from a list": lambda x: torch.tensor([1.0], device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0]),
    "blocking copy there": lambda x: x + MASK.to(x.device),
    "blocking copy here": lambda x: x.cpu(),
    "made there, then read": lambda x: bool(torch.arange(3, device=x.device).any()),
}


@pytest.mark.parametrize("read", READS.values(), ids=list(READS))
def test_each_kind_of_read_is_found(read) -> None:
    x = torch.ones(3, requires_grad=True)
    with watch([x]), pytest.raises(HostRead):
        read(2 * x)


@pytest.mark.parametrize("kind", ["item", "branch", "number", "nonzero", "a mask as index"])
def test_reads_in_the_backward_pass_are_found(kind: str) -> None:
    x = torch.ones(3, requires_grad=True)
    x.register_hook(lambda gradient: READS[kind](gradient) and None)
    with watch([x]), pytest.raises(HostRead):
        (2 * x).sum().backward()


def test_reads_of_the_host_are_none() -> None:
    x, ids = torch.ones(3), torch.tensor([2, 0, 1])
    with watch([x]):
        there = ids.to(x.device, non_blocking=True)
        assert x[there].shape == (3,)
        assert ids[MASK].tolist() == [2, 1] and ids.max().item() == 2
        assert HostCopy(x).read() == [1.0, 1.0, 1.0]
