"""Finds where a run on a CPU would make the host wait for a device: what a training step reads of a device's tensors.

On a CPU nothing shows which tensors would be on a device. Here these are: weights, the batch after its transfer, what
is made with an explicit `device` other than HOST, and all that is computed from them. A HostRead is raised where their
values are read, where a shape depends on them, and by a copy to the device that is not `non_blocking`.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from pretrain.learning.teachers import Frozen
from pretrain.learning.transfer import HOST
from pretrain.objectives import Objective

aten = torch.ops.aten

_READS = {  # operators whose result, or its shape, the host needs to know
    aten._local_scalar_dense,
    aten.equal,
    aten.is_nonzero,
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_dim,
    aten.unique_consecutive,
    aten.bincount,
}
_METHODS = {Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.__iter__, Tensor.cpu}  # they need not reach operators
_FACTORIES_FROM_DATA = {torch.tensor, torch.as_tensor, Tensor.new_tensor}


class _HostGenerator(torch.Generator):
    """A generator of the host."""

    device = HOST


class _DeviceGenerator(torch.Generator):
    """A generator that would be on the device."""

    device = torch.device("cpu", 0)  # a CPU's too, and not equal to HOST


class HostRead(Exception):
    """The host would wait for the device."""


class _OnDevice:
    """The storages that would be on a device."""

    def __init__(self) -> None:
        self.storages: dict[int, StorageWeakRef] = {}

    def add(self, found: Any) -> None:
        for x in _tensors(found):
            storage = x.untyped_storage()
            self.storages[storage._cdata] = StorageWeakRef(storage)

    def holds(self, x: Tensor) -> bool:
        found = self.storages.get(x.untyped_storage()._cdata)
        return found is not None and not found.expired()

    def any(self, found: Any) -> bool:
        return any(self.holds(x) for x in _tensors(found))


class _Operators(TorchDispatchMode):
    """What is computed from a device's tensors is on the device; reads of them raise."""

    def __init__(self, device: _OnDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self.device.any((args, kwargs)):
            return func(*args, **kwargs)
        packet = func._overloadpacket
        by_mask = packet in (aten.index, aten._index_put_impl_, aten.index_put, aten.index_put_) and any(
            x.dtype in (torch.bool, torch.uint8) for x in _tensors(args[1])
        )
        repeats = packet is aten.repeat_interleave and kwargs.get("output_size") is None and len(args) < 2
        if packet in _READS or by_mask or repeats:
            raise HostRead(f"{packet} of a tensor on the device")
        out = func(*args, **kwargs)
        self.device.add(out)
        return out


class _Calls(TorchFunctionMode):
    """Copies between host and device, and what is made on the device. (torch turns this off in a backward pass.)"""

    def __init__(self, device: _OnDevice) -> None:
        super().__init__()
        self.device = device

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        reads = func in _METHODS and self.device.holds(args[0])
        if reads and not (func is Tensor.__iter__ and args[0].ndim):
            raise HostRead(f"Tensor.{func.__name__} of a tensor on the device")
        if func is Tensor.to:
            return self._to(*args, **kwargs)
        named = kwargs.get("device") is not None and kwargs["device"] is not HOST
        if func in _FACTORIES_FROM_DATA and (named or func is Tensor.new_tensor):
            raise HostRead(f"{func.__name__} of values of the host on the device")
        out = func(*args, **kwargs)
        if named and not any(True for _ in _tensors(args)):
            self.device.add(out)
        return out

    def _to(self, x: Tensor, *args: Any, **options: Any) -> Tensor:
        place = options.get("device", next((a for a in args if isinstance(a, str | torch.device)), None))
        if place is HOST and self.device.holds(x):
            if not options.get("non_blocking"):
                raise HostRead("a blocking copy to the host")
            return _detached_copy(x)
        if isinstance(place, torch.device) and place is not HOST and not self.device.holds(x):
            if not options.get("non_blocking"):
                raise HostRead("a blocking copy to the device")
            x = x.clone()
            self.device.add(x)
        return x.to(*args, **options)


def _detached_copy(x: Tensor) -> Tensor:
    """A copy that does not count as computed from `x`."""
    with torch.utils._python_dispatch._disable_current_modes():
        return x.detach().clone()


def _tensors(found: Any) -> Iterator[Tensor]:
    return (x for x in tree_iter(found) if isinstance(x, Tensor))


@contextlib.contextmanager
def watch(held: Any) -> Iterator[None]:
    """Raises a HostRead for each read, if the tensors in `held` are on the device."""
    device = _OnDevice()
    device.add(held)
    with _Operators(device), _Calls(device):
        yield


@contextlib.contextmanager
def no_host_reads(monkeypatch: pytest.MonkeyPatch, first: int = 0) -> Iterator[list[int]]:
    """Training steps raise a HostRead inside this context, from micro-batch `first` on; yields those that were checked.

    A step goes from the batch's transfer to the last callback after it.
    """
    advance, checked = _TrainingEpochLoop.advance, []

    def watched(self: Any, data_fetcher: Any) -> None:
        if self.batch_idx + 1 < first:
            return advance(self, data_fetcher)
        module = self.trainer.lightning_module
        frozen = [part.model for part in module.modules() if isinstance(part, Frozen)]
        held = [[*part.parameters(), *part.buffers()] for part in (module, *frozen)]
        held += [list(state.values()) for state in self.trainer.optimizers[0].state.values()]
        held += [c.average for c in self.trainer.callbacks if hasattr(c, "average")]
        with watch(held):
            advance(self, data_fetcher)
        checked.append(self.batch_idx)

    def generator(self: Objective, device: torch.device) -> torch.Generator:
        return (_HostGenerator() if device is HOST else _DeviceGenerator()).manual_seed(self.derive_seed())

    monkeypatch.setattr(_TrainingEpochLoop, "advance", watched)
    monkeypatch.setattr(Objective, "generator", generator)
    # Lightning's transfers are `non_blocking` except on these devices.
    monkeypatch.setattr("lightning.fabric.utilities.apply_func._BLOCKING_DEVICE_TYPES", ())
    yield checked
