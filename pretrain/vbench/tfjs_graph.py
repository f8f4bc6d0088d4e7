"""A network in TensorFlow.js' graph format, a JSON of nodes beside files of weights, run by torch on the CPU.

It knows the operations of convolutional detectors; tensors are `[n, H, W, C]`, as TensorFlow lays them out.
"""

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.metrics.vbench.prompts import read_json_file

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"Relu": F.relu, "Relu6": F.relu6}
_TYPES = {"DT_FLOAT": torch.float32, "DT_INT32": torch.int32, "DT_BOOL": torch.bool}


class Graph:
    """Args: path: the JSON; its weights lie beside it. ValueError if it is of another format."""

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no network of TensorFlow.js at {path}")
        model = read_json_file(path)
        try:
            self.nodes = {node["name"]: node for node in model["modelTopology"]["node"]}
            self.weights = {
                name: weight
                for group in model["weightsManifest"]
                for name, weight in _read_group(path.parent, group).items()
            }
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path} is no graph of TensorFlow.js with its weights ({error!r})") from None

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Tensor], wanted: Sequence[str]) -> list[Tensor]:
        """The outputs of the nodes `wanted`, given those of the nodes `inputs`."""
        made = dict(inputs)
        waiting = list(wanted)
        while waiting:
            name = waiting[-1]
            parents = [_plain(parent) for parent in self._node(name).get("input", []) if not parent.startswith("^")]
            missing = [] if name in made or name in self.weights else [p for p in parents if p not in made]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if name not in made:
                made[name] = self._output(name, [made[parent] for parent in parents])
        return [made[name] for name in wanted]

    def _node(self, name: str) -> dict[str, Any]:
        if name not in self.nodes:
            raise ValueError(f"the network has no node {name!r}")
        return self.nodes[name]

    def _output(self, name: str, values: list[Tensor]) -> Tensor:
        if name in self.weights:
            return self.weights[name]
        node = self.nodes[name]
        if node["op"] not in _OPERATIONS:
            raise ValueError(f"the node {name} asks for {node['op']}, which is not known here")
        return _OPERATIONS[node["op"]](node.get("attr", {}), *values)


def _plain(name: str) -> str:
    return name.split(":")[0]


def _read_group(folder: Path, group: Mapping[str, Any]) -> dict[str, Tensor]:
    data, at, found = b"".join((folder / Path(name).name).read_bytes() for name in group["paths"]), 0, {}
    for entry in group["weights"]:
        packed = entry.get("quantization", {})
        kind, count = np.dtype(packed.get("dtype", entry["dtype"])), math.prod(entry["shape"])
        array = np.frombuffer(data, kind, count, at).reshape(entry["shape"])
        at += array.nbytes
        if "scale" in packed:
            array = array.astype(np.float32) * packed["scale"] + packed.get("min", 0)
        found[entry["name"]] = torch.from_numpy(array.astype(entry["dtype"]))
    return found


def _words(attributes: Mapping[str, Any], name: str) -> list[str]:
    """The strings of an attribute that is one or a list of them."""
    found = attributes.get(name, {})
    coded = found["list"].get("s", []) if "list" in found else [found["s"]] if "s" in found else []
    return [base64.b64decode(word).decode() for word in coded]


def _sides(attributes: Mapping[str, Any], name: str) -> tuple[int, int]:
    """The values for rows and columns of a list for all four axes; 1 and 1 if it is not there."""
    values = attributes.get(name, {}).get("list", {}).get("i", [1, 1, 1, 1])
    return int(values[1]), int(values[2])


def _pad(x: Tensor, attributes: Mapping[str, Any], kernel: Sequence[int], value: float = 0.0) -> Tensor:
    """`[n, C, H, W]` as TensorFlow's SAME pads it, the odd pixel right and below; or as it is, for VALID."""
    if _words(attributes, "padding") != ["SAME"]:
        return x
    strides, dilations = _sides(attributes, "strides"), _sides(attributes, "dilations")
    needed = [
        max((math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size, 0)
        for size, k, s, d in zip(x.shape[-2:], kernel, strides, dilations, strict=True)
    ]
    high, wide = needed
    return F.pad(x, (wide // 2, wide - wide // 2, high // 2, high - high // 2), value=value)


def _convolve(
    attributes: Mapping[str, Any], x: Tensor, weight: Tensor, *more: Tensor, depthwise: bool = False
) -> Tensor:
    """A convolution with TensorFlow's weights `[h, w, C, out]`, and what is fused with it: a bias and an activation."""
    groups = weight.shape[2] if depthwise else 1
    own = weight.permute(2, 3, 0, 1).flatten(0, 1)[:, None] if depthwise else weight.permute(3, 2, 0, 1)
    x = _pad(x.permute(0, 3, 1, 2), attributes, weight.shape[:2])
    strides, dilations = _sides(attributes, "strides"), _sides(attributes, "dilations")
    y = F.conv2d(x, own, None, strides, dilation=dilations, groups=groups).permute(0, 2, 3, 1)
    rest = list(more)
    for word in _words(attributes, "fused_ops"):
        if word == "BiasAdd":
            y = y + rest.pop(0)
        elif word == "Prelu":
            y = torch.where(y > 0, y, y * rest.pop(0))
        else:
            y = _ACTIVATIONS[word](y)
    return y


def _max_pool(attributes: Mapping[str, Any], x: Tensor) -> Tensor:
    kernel = _sides(attributes, "ksize")
    x = _pad(x.permute(0, 3, 1, 2), attributes, kernel, -math.inf)
    return F.max_pool2d(x, kernel, _sides(attributes, "strides")).permute(0, 2, 3, 1)


def _mean(attributes: Mapping[str, Any], x: Tensor, axes: Tensor) -> Tensor:
    return x.mean(axes.flatten().tolist(), keepdim=bool(attributes.get("keep_dims", {}).get("b")))


def _resize(attributes: Mapping[str, Any], x: Tensor, size: Tensor) -> Tensor:
    """Bilinear by TensorFlow 1's rule: a pixel comes from its index times the ratio of the sizes."""
    if any(attributes.get(name, {}).get("b") for name in ("align_corners", "half_pixel_centers")):
        raise ValueError("the network resizes by a rule that is not known here")
    for axis, count in enumerate(size.tolist(), 1):
        length = x.shape[axis]
        place = torch.arange(count) * (length / count)
        low = place.floor().long()
        share = (place - low).view(-1, *[1] * (x.ndim - axis - 1))
        x = torch.lerp(x.index_select(axis, low), x.index_select(axis, (low + 1).clamp(max=length - 1)), share)
    return x


_OPERATIONS: dict[str, Callable[..., Tensor]] = {
    "Identity": lambda a, x: x,
    **dict.fromkeys(("Conv2D", "_FusedConv2D"), _convolve),
    **dict.fromkeys(
        ("DepthwiseConv2dNative", "FusedDepthwiseConv2dNative"),
        lambda a, *values: _convolve(a, *values, depthwise=True),
    ),
    **dict.fromkeys(("Add", "AddV2", "BiasAdd"), lambda a, x, y: x + y),
    "Sub": lambda a, x, y: x - y,
    "Mul": lambda a, x, y: x * y,
    **{name: lambda a, x, f=function: f(x) for name, function in _ACTIVATIONS.items()},
    "Sigmoid": lambda a, x: x.sigmoid(),
    "MaxPool": _max_pool,
    "Mean": _mean,
    "ConcatV2": lambda a, *values: torch.cat(values[:-1], dim=int(values[-1])),
    "Reshape": lambda a, x, shape: x.reshape(shape.flatten().tolist()),
    "Cast": lambda a, x: x.to(_TYPES[a["DstT"]["type"]]),
    "ResizeBilinear": _resize,
}
