"""Makes torch run a GPU's kernels on fake tensors, without a GPU: fused attention, dropout, autocast's types."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_iter, tree_map

_LARGE = 1 << 24  # elements; no code reads the values of a larger real tensor, so it becomes a fake one
aten = torch.ops.aten

# Fused attention: how many matrix products the maths needs, and how many run (backward recomputes the scores).
ATTENTION: dict[Any, tuple[int, int]] = {
    aten._scaled_dot_product_flash_attention: (2, 2),
    aten._scaled_dot_product_flash_attention_backward: (4, 5),
    aten._scaled_dot_product_efficient_attention: (2, 2),
    aten._scaled_dot_product_efficient_attention_backward: (4, 5),
    aten._scaled_dot_product_flash_attention_for_cpu: (2, 2),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: (4, 5),
}

# Functions that autocast runs in float32 on CUDA and not on the CPU (torch's "Autocast Op Reference").
_IN_FLOAT32 = {
    *(F.layer_norm, torch.layer_norm, F.softmax, torch.softmax, Tensor.softmax),
    *(F.log_softmax, torch.log_softmax, Tensor.log_softmax, F.normalize, F.cross_entropy, F.nll_loss),
    *(F.smooth_l1_loss, F.l1_loss, F.kl_div, F.cosine_similarity, F.binary_cross_entropy_with_logits, F.softplus),
    *(torch.exp, Tensor.exp, torch.log, Tensor.log, torch.log1p, Tensor.log1p, torch.pow, Tensor.pow, Tensor.square),
    *(torch.rsqrt, Tensor.rsqrt, torch.sum, Tensor.sum, torch.cumsum, Tensor.cumsum, torch.norm, Tensor.norm),
    *(torch.linalg.vector_norm, torch.logsumexp, Tensor.logsumexp, F.group_norm),
}


def attention_flop(packet: Any, args: tuple) -> tuple[float, float]:
    """FLOP of a fused attention over `[B, heads, N, d]`: needed by the maths, and executed. A mask saves none."""
    q, k = args[1:3] if packet.__name__.endswith("backward") else args[:2]
    product = 2 * math.prod(q.shape) * k.shape[2]
    needed, executed = ATTENTION[packet]
    return needed * product, executed * product


class KernelEmulation(TorchFunctionMode):
    """Runs functions of fake tensors as a GPU (`gpu`) or a CPU would, and turns large real tensors into fake ones.

    A test of unknown values, such as `if (a == b).all()`, is taken to fail.
    """

    def __init__(self, mode: FakeTensorMode, gpu: bool) -> None:
        super().__init__()
        self.mode, self.gpu = mode, gpu

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
        if not any(isinstance(t, FakeTensor) for t in tensors):
            if not _large(tensors):
                return func(*args, **kwargs)
            args, kwargs = tree_map(self._to_fake, (args, kwargs))
        if func is Tensor.__bool__:
            return False
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **kwargs)
        if self.gpu and func is F.dropout:
            return _dropout(*args, **kwargs)
        if self.gpu and func in _IN_FLOAT32 and torch.is_autocast_enabled("cpu"):
            args, kwargs = tree_map(_to_float32, (args, kwargs))
        return func(*args, **kwargs)

    def _to_fake(self, x: Any) -> Any:
        return self.mode.from_tensor(x) if isinstance(x, Tensor) and not isinstance(x, FakeTensor) else x

    def _attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """The kernel that torch would choose: a fused one; plain products on a CPU with dropout or a learnt mask."""
        learnt = attn_mask is not None and attn_mask.requires_grad and torch.is_grad_enabled()
        if not self.gpu and (dropout_p or learnt):
            return F.scaled_dot_product_attention(q, k, v, attn_mask, dropout_p, is_causal, scale=scale)
        if torch.is_autocast_enabled("cpu"):
            q, k, v = (x.to(torch.get_autocast_dtype("cpu")) for x in (q, k, v))
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                attn_mask = torch.zeros_like(attn_mask, dtype=q.dtype).masked_fill(attn_mask.logical_not(), -torch.inf)
            attn_mask = attn_mask.to(q.dtype)
        if not self.gpu:
            cpu = aten._scaled_dot_product_flash_attention_for_cpu
            return cpu(q, k, v, 0.0, is_causal, attn_mask=attn_mask, scale=scale)[0]
        if attn_mask is None and q.dtype in (torch.bfloat16, torch.float16):
            return aten._scaled_dot_product_flash_attention(q, k, v, dropout_p, is_causal, False, scale=scale)[0]
        if attn_mask is not None:
            attn_mask = attn_mask.expand(*q.shape[:3], k.shape[2])
        trains = any(x.requires_grad for x in (q, k, v)) and torch.is_grad_enabled()
        efficient = aten._scaled_dot_product_efficient_attention
        return efficient(q, k, v, attn_mask, trains, dropout_p, is_causal, scale=scale)[0]


def _dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    return torch.native_dropout(x, p, True)[0] if training and p > 0 else x


def _to_float32(x: Any) -> Any:
    return x.float() if isinstance(x, Tensor) and x.dtype in (torch.bfloat16, torch.float16) else x


def _large(tensors: list[Tensor]) -> bool:
    """Whether real tensors, or their broadcast shape, are too large to compute with."""
    shapes = [t.shape for t in tensors]
    if any(shape.numel() > _LARGE for shape in shapes):
        return True
    try:
        return len(shapes) > 1 and math.prod(torch.broadcast_shapes(*shapes)) > _LARGE
    except RuntimeError:  # a function that does not broadcast
        return False
