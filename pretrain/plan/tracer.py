"""One training step without its numbers: runs the objective on fake tensors and counts its FLOP and memory.

No method's formula is needed. Parameters and videos are torch's fake tensors, which have shapes and types but no
values. Small tensors with known values (token ids, noise, masks, labels) stay real, so that code may read them.
"""

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import torch
from lightning.fabric.utilities.device_dtype_mixin import _DeviceDtypeModuleMixin
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary
from torchmetrics import Metric

from pretrain.learning.teachers import Frozen
from pretrain.plan.gpu_emulation import ATTENTION, KernelEmulation, attention_flop

_SMALL_MESSAGE = 1_000_000  # bytes


@dataclass
class MicroBatchCost:
    """Cost of one micro-batch on one device, in FLOP (a multiplication and an addition are two) and bytes.

    model_flop: FLOP that the maths needs. hardware_flop: with the recomputed ones, of blocks and of attention.
    batch: bytes of the video, or of latents and text states.
    forward_peak: the most bytes alive in the forward pass besides weights, gradients and video: tensors that autograd
        saves, copies of weights in half precision, intermediates.
    backward_peaks: for each state of the gradients in the backward pass: their bytes, and the most other bytes alive.
    communicates: whether ranks exchange more than a megabyte besides gradients, so that the cost depends on the world
        size.
    """

    model_flop: float = 0.0
    hardware_flop: float = 0.0
    batch: int = 0
    forward_peak: int = 0
    backward_peaks: list[tuple[int, int]] = field(default_factory=list)
    communicates: bool = False

    @property
    def activations(self) -> int:
        """The most bytes alive at a time besides weights, gradients and video."""
        return max(self.forward_peak, *(peak for _, peak in self.backward_peaks))


def to_fake_tensors(module: nn.Module) -> FakeTensorMode:
    """Replace all parameters and buffers of a module on the meta device by fake tensors; returns their mode."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        module.to_empty(device="cpu")
    for part in module.modules():
        if isinstance(part, (_DeviceDtypeModuleMixin, Metric)):
            part._device = torch.device("cpu")  # Lightning's modules update it in `to` alone
    return mode


def trace(
    objective: nn.Module,
    batch: dict[str, Any],
    mode: FakeTensorMode,
    gpu: bool = True,
    autocast: torch.dtype | None = None,
) -> MicroBatchCost:
    """Cost of the forward and backward pass of a micro-batch whose clips are fake tensors, as are the parameters.

    Args:
        mode: of the fake tensors.
        gpu: emulate a GPU's kernels, else a CPU's (see `KernelEmulation`).
        autocast: to this type; None: no autocast.
    """
    objective.zero_grad(set_to_none=True)
    meter = CostMeter(objective, batch)
    with meter, KernelEmulation(mode, gpu):
        with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
            loss: Any = sum(objective(batch).values())
        meter.end_forward()
        # From the edge: `backward(loss)` would be a function of tensors, for which `KernelEmulation` turns itself off.
        torch.autograd.backward(torch.autograd.graph.get_gradient_edge(loss), torch.ones_like(loss))
    del loss
    objective.zero_grad(set_to_none=True)
    return meter.cost


def trace_call(
    call: Callable[[dict[str, Any]], Any],
    objective: nn.Module,
    batch: dict[str, Any],
    mode: FakeTensorMode,
    gpu: bool = True,
    autocast: torch.dtype | None = None,
) -> MicroBatchCost:
    """Cost of any call without gradients, such as `predict`; see `trace`."""
    meter = CostMeter(objective, batch)
    with meter, KernelEmulation(mode, gpu), torch.no_grad():
        with torch.autocast("cpu", autocast or torch.bfloat16, enabled=autocast is not None):
            call(batch)
        meter.end_forward()
    return meter.cost


class CostMeter(TorchDispatchMode):
    """Counts the FLOP of operators, and the bytes of each storage from its creation by an operator until it is freed.

    The objective's weights and the batch are not counted. A gradient is counted apart once it is complete.
    """

    def __init__(self, objective: nn.Module, batch: dict[str, Any]) -> None:
        super().__init__()
        clips = [batch[name] for name in ("video", "images", "latents", "text_states") if name in batch]
        self.cost = MicroBatchCost(batch=sum(x.untyped_storage().nbytes() for x in clips))
        self.alive = self.peak = self.gradients = 0  # bytes
        self.sizes = WeakIdKeyDictionary()  # storage -> [bytes that are counted for it]
        frozen = [m.model for m in objective.modules() if isinstance(m, Frozen)]
        owned = [t for module in (objective, *frozen) for t in (*module.parameters(), *module.buffers())]
        for tensor in tree_iter((owned, list(batch.values()))):
            if isinstance(tensor, Tensor):
                self.sizes[tensor.untyped_storage()] = [0]
        trained = [p for p in objective.parameters() if p.requires_grad]
        self.hooks = [p.register_post_accumulate_grad_hook(self._count_gradient) for p in trained]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.namespace == "c10d":
            sent = sum(t.untyped_storage().nbytes() for t in tree_iter((args, kwargs)) if isinstance(t, Tensor))
            self.cost.communicates |= sent > _SMALL_MESSAGE
        self._count_flop(func._overloadpacket, args, kwargs, out)
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._count_storage(tensor.untyped_storage())
        return out

    def __exit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        super().__exit__(exc_type, exc_val, exc_tb)
        for hook in self.hooks:
            hook.remove()
        self._end_interval()

    def _count_flop(self, packet, args, kwargs, out) -> None:
        if packet in ATTENTION:
            needed, executed = attention_flop(packet, args)
        elif packet in flop_registry:
            needed = executed = flop_registry[packet](*args, **kwargs, out_val=out)
        else:
            return
        self.cost.model_flop += needed
        self.cost.hardware_flop += executed

    def _count_storage(self, storage: torch.UntypedStorage) -> None:
        if storage in self.sizes:
            return
        size = [storage.nbytes()]
        self.sizes[storage] = size
        self.alive += size[0]
        self.peak = max(self.peak, self.alive)
        weakref.finalize(storage, self._free, size).atexit = False

    def _free(self, size: list[int]) -> None:
        self.alive -= size[0]

    def end_forward(self) -> None:
        """Ends the forward pass; the peak starts anew from the bytes alive now."""
        self.cost.forward_peak, self.peak = self.peak, self.alive

    def _count_gradient(self, parameter: Tensor) -> None:
        assert parameter.grad is not None  # the hook runs after its accumulation
        size = self.sizes.get(parameter.grad.untyped_storage())
        if size is None or not size[0]:
            return  # counted already
        self._end_interval()
        self.alive -= size[0]
        self.gradients += size[0]
        size[0] = 0

    def _end_interval(self) -> None:
        self.cost.backward_peaks.append((self.gradients, self.peak))
        self.peak = self.alive
