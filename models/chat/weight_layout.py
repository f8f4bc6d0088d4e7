"""Layouts of linear layers' weights in memory: on CPUs, products of few rows are faster by others than `[out, in]`."""

from typing import Any

import torch
from torch import Tensor, nn

_ROWS = 64  # for which oneDNN chooses the layout; it serves one row and hundreds as well


def lay_out(llm: Any) -> None:
    """Stores the weights of a language model of transformers for answers: by `pack_output`, and by `store_by_input`."""
    pack_output(llm)
    store_by_input(llm)


def store_by_input(model: nn.Module) -> None:
    """Stores the weights `[out, in]` of a language model's float32 linear layers on a CPU with `out` as the fast axis.

    Shapes, names and values stay. MKL multiplies 8 to 16 rows, a token of each answer of a batch, by such weights in
    less time, and one row or hundreds of rows in the same time. Weights that another layer shares stay as they are: an
    embedding reads rows.
    """
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear]
    embedded = {id(layer.weight) for layer in model.modules() if isinstance(layer, nn.Embedding)}
    for layer in layers:
        if _is_float_on_cpu(layer.weight) and id(layer.weight) not in embedded:
            layer.weight.data = layer.weight.data.t().contiguous().t()


def pack_output(llm: Any) -> None:
    """Lets the output layer of a language model, in float32 on a CPU, multiply by a copy of its weights in blocks.

    It is the widest layer, and no layout of rows or columns suits it: MKL reads 8 rows' products from memory at half of
    the rate. Names and values stay, and nothing is trained through it.
    """
    layer = llm.get_output_embeddings()
    adapted = hasattr(layer, "base_layer")  # by LoRA
    found = layer.base_layer if adapted else layer
    if type(found) is not nn.Linear or not _is_float_on_cpu(found.weight) or not torch.backends.mkldnn.is_available():
        return
    if adapted:
        layer.base_layer = PackedLinear(found)
    else:
        llm.set_output_embeddings(PackedLinear(found))


class PackedLinear(nn.Linear):
    """A linear layer that multiplies by a copy of its weights in oneDNN's blocks, as torch's compiler does."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self.weight, self.bias = layer.weight, layer.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), _ROWS)

    def forward(self, input: Tensor) -> Tensor:
        """`[..., in]` to `[..., out]`."""
        return torch.ops.mkldnn._linear_pointwise(input, self.packed, self.bias, "none", [], "")


def _is_float_on_cpu(weight: Tensor) -> bool:
    return weight.device.type == "cpu" and weight.dtype == torch.float32
