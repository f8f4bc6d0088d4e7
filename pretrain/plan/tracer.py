"""One training step without its numbers: the objective runs on stand-in tensors, and its work and room are counted.

Nothing here knows a formula of any method. Parameters and videos are torch's fake tensors, which have shapes and types
and no values. What is small and known (token ids, noise, masks, labels) stays real, so that code which reads it works.
"""

import weakref
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from pretrain.learning.teachers import Frozen
from pretrain.plan.gpu_emulation import ATTENTION, Kernels, attention_flop

_MUCH = 1_000_000  # bytes


@dataclass
class Traced:
    """What one micro-batch takes on one device, in FLOP (a multiplication and an addition are two) and bytes.

    model: FLOP that the maths needs. hardware: with what is computed twice, in recomputed blocks and in attention.
    batch: bytes of the video.
    forward: the most bytes that lived in the forward pass beside weights, gradients and video: what autograd saves,
        copies of weights in half precision, intermediates.
    moments: of the backward pass, for each state of the gradients: their bytes, and the most that lived beside them.
    talks: whether ranks exchange more than a megabyte beside gradients, so that the size of the world matters.
    """

    model: float = 0.0
    hardware: float = 0.0
    batch: int = 0
    forward: int = 0
    moments: list[tuple[int, int]] = field(default_factory=list)
    talks: bool = False

    @property
    def activations(self) -> int:
        """The most bytes that lived at a time beside weights, gradients and video."""
        return max(self.forward, *(held for _, held in self.moments))


def pretend(module: nn.Module) -> FakeTensorMode:
    """Replace all parameters and buffers, as they are on the meta device, by stand-ins."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        module.to_empty(device="cpu")
    for part in module.modules():
        if hasattr(part, "_device"):
            part._device = torch.device("cpu")  # Lightning's modules note it in `to` alone
    return mode


def trace(
    objective: nn.Module, batch: dict[str, Any], mode: FakeTensorMode, gpu: bool = True, half: torch.dtype | None = None
) -> Traced:
    """Forward and backward pass of a micro-batch whose `video` is a stand-in of `mode`, as the objective's parameters.

    Args:
        gpu: follow what a GPU would run (see `Kernels`), else what a CPU would.
        half: autocast to this type; None: none.
    """
    objective.zero_grad(set_to_none=True)
    meter = Meter(objective, batch)
    with meter, Kernels(mode, gpu):
        with torch.autocast("cpu", half or torch.bfloat16, enabled=half is not None):
            loss = sum(objective(batch).values())
        meter.turn()
        # From the edge, not from the tensor: a function of tensors would be given to `Kernels`, which is off meanwhile.
        torch.autograd.backward(torch.autograd.graph.get_gradient_edge(loss), torch.ones_like(loss))
    del loss
    objective.zero_grad(set_to_none=True)
    return meter.traced


class Meter(TorchDispatchMode):
    """Counts the FLOP of operators, and the bytes of storages from when an operator makes them until nobody has them.

    The objective's weights and the batch are not counted; its gradients are counted by themselves once they are whole.
    """

    def __init__(self, objective: nn.Module, batch: dict[str, Any]) -> None:
        super().__init__()
        self.traced = Traced(batch=batch["video"].untyped_storage().nbytes())
        self.held = self.most = self.gradients = 0
        self.live = WeakIdKeyDictionary()  # storage -> [bytes that count for it]
        frozen = [m.model for m in objective.modules() if isinstance(m, Frozen)]
        owned = [t for module in (objective, *frozen) for t in (*module.parameters(), *module.buffers())]
        for tensor in tree_iter((owned, list(batch.values()))):
            if isinstance(tensor, Tensor):
                self.live[tensor.untyped_storage()] = [0]
        trained = [p for p in objective.parameters() if p.requires_grad]
        self.hooks = [p.register_post_accumulate_grad_hook(self._gradient) for p in trained]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.namespace == "c10d":
            sent = sum(t.untyped_storage().nbytes() for t in tree_iter((args, kwargs)) if isinstance(t, Tensor))
            self.traced.talks |= sent > _MUCH
        self._count(func._overloadpacket, args, kwargs, out)
        for tensor in tree_iter(out):
            if isinstance(tensor, Tensor):
                self._hold(tensor.untyped_storage())
        return out

    def __exit__(self, *error) -> None:
        super().__exit__(*error)
        for hook in self.hooks:
            hook.remove()
        self._close()

    def _count(self, packet, args, kwargs, out) -> None:
        if packet in ATTENTION:
            model, hardware = attention_flop(packet, args)
        elif packet in flop_registry:
            model = hardware = flop_registry[packet](*args, **kwargs, out_val=out)
        else:
            return
        self.traced.model += model
        self.traced.hardware += hardware

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage in self.live:
            return
        size = [storage.nbytes()]
        self.live[storage] = size
        self.held += size[0]
        self.most = max(self.most, self.held)
        weakref.finalize(storage, self._release, size).atexit = False

    def _release(self, size: list[int]) -> None:
        self.held -= size[0]

    def turn(self) -> None:
        """The forward pass is over."""
        self.traced.forward, self.most = self.most, self.held

    def _gradient(self, parameter: Tensor) -> None:
        size = self.live.get(parameter.grad.untyped_storage())
        if size is None or not size[0]:
            return  # counted already
        self._close()
        self.held -= size[0]
        self.gradients += size[0]
        size[0] = 0

    def _close(self) -> None:
        self.traced.moments.append((self.gradients, self.most))
        self.most = self.held
