"""Networks in TensorFlow.js' format compute what TensorFlow does, by hand; what is not known is named."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pretrain.vbench.tfjs_graph import Graph


def text(word: str) -> str:
    return base64.b64encode(word.encode()).decode()


def conv(stride: int, padding: str = "SAME", fused: tuple[str, ...] = ()) -> dict[str, Any]:
    return {
        "strides": {"list": {"i": ["1", str(stride), str(stride), "1"]}},
        "padding": {"s": text(padding)},
        **({"fused_ops": {"list": {"s": [text(word) for word in fused]}}} if fused else {}),
    }


def write(place: Path, nodes: list[tuple[str, str, list[str], dict]], weights: dict[str, np.ndarray]) -> Path:
    """A graph whose weights lie in two files, those of float32 packed as float16."""
    data, entries = b"", []
    for name, array in weights.items():
        packed = array.astype(np.float16) if array.dtype == np.float32 else array
        data += packed.tobytes()
        entry = {"name": name, "shape": list(array.shape), "dtype": array.dtype.name}
        entries.append(entry | ({"quantization": {"dtype": "float16"}} if packed is not array else {}))
    (place / "a.bin").write_bytes(data[:10])
    (place / "b.bin").write_bytes(data[10:])
    graph = [{"name": n, "op": op, "input": inputs, "attr": attr} for n, op, inputs, attr in nodes]
    graph += [{"name": name, "op": "Const"} for name in weights] + [{"name": "x", "op": "Placeholder"}]
    manifest = [{"paths": ["a.bin", "b.bin"], "weights": entries}]
    (place / "net.json").write_text(json.dumps({"modelTopology": {"node": graph}, "weightsManifest": manifest}))
    return place / "net.json"


@pytest.mark.parametrize(("side", "stride", "before", "after"), [(5, 2, 1, 1), (4, 2, 0, 1), (6, 1, 1, 1)])
def test_same_padding_puts_the_odd_pixel_last(tmp_path: Path, side: int, stride: int, before: int, after: int) -> None:
    rng = np.random.default_rng(0)
    kernel, bias = rng.integers(-3, 4, (3, 3, 2, 4)).astype(np.float32), np.arange(4, dtype=np.float32)
    deep = rng.integers(-3, 4, (3, 3, 2, 1)).astype(np.float32)
    own = conv(stride, fused=("BiasAdd", "Relu6"))
    nodes = [
        ("y", "_FusedConv2D", ["x", "kernel", "bias"], own),
        ("z", "DepthwiseConv2dNative", ["x", "deep:0", "^y"], conv(stride)),
        ("pool", "MaxPool", ["x"], conv(stride) | {"ksize": {"list": {"i": ["1", "3", "3", "1"]}}}),
        ("valid", "Conv2D", ["x", "kernel"], conv(stride, "VALID")),
    ]
    graph = Graph(write(tmp_path, nodes, {"kernel": kernel, "bias": bias, "deep": deep}))
    x = torch.from_numpy(rng.integers(-5, 6, (1, side, side, 2)).astype(np.float32))
    y, z, pool, valid = (o.permute(0, 3, 1, 2) for o in graph.run({"x": x}, ["y", "z", "pool", "valid"]))
    planes = x.permute(0, 3, 1, 2)
    padded = F.pad(planes, (before, after, before, after))
    weight = torch.from_numpy(kernel).permute(3, 2, 0, 1)
    bias_ = torch.from_numpy(bias)[:, None, None]
    torch.testing.assert_close(y, (F.conv2d(padded, weight, stride=stride) + bias_).clamp(0, 6))
    torch.testing.assert_close(z, F.conv2d(padded, torch.from_numpy(deep).permute(2, 3, 0, 1), stride=stride, groups=2))
    low = F.pad(planes, (before, after, before, after), value=-np.inf)
    torch.testing.assert_close(pool, F.max_pool2d(low, 3, stride))
    torch.testing.assert_close(valid, F.conv2d(planes, weight, stride=stride))


def test_other_operations(tmp_path: Path) -> None:
    weights = {
        "size": np.array([4, 6], np.int32),
        "axes": np.array([1, 2], np.int32),
        "axis": np.array(3, np.int32),
        "flat": np.array([1, -1], np.int32),
    }
    nodes = [
        ("large", "ResizeBilinear", ["x", "size"], {}),
        ("mean", "Mean", ["x", "axes"], {"keep_dims": {"b": True}}),
        ("twice", "ConcatV2", ["x", "mean2", "axis"], {}),
        ("mean2", "Add", ["x", "mean"], {}),
        ("line", "Reshape", ["whole", "flat"], {}),
        ("whole", "Cast", ["sure"], {"DstT": {"type": "DT_INT32"}}),
        ("sure", "Mul", ["x", "x"], {}),
        ("strange", "Erf", ["x"], {}),
        ("aligned", "ResizeBilinear", ["x", "size"], {"align_corners": {"b": True}}),
    ]
    graph = Graph(write(tmp_path, nodes, weights))
    x = torch.tensor([[0.0, 1.0, 2.0], [4.0, 5.0, 6.0]])[None, :, :, None]
    large, mean, twice, line = graph.run({"x": x}, ["large", "mean", "twice", "line"])
    rows = torch.tensor([0.0, 2.0, 4.0, 4.0])[:, None] + torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 2.0])
    torch.testing.assert_close(large[0, :, :, 0], rows)  # index times ratio: no half pixels
    assert mean.flatten().tolist() == [3.0] and mean.shape == (1, 1, 1, 1)
    torch.testing.assert_close(twice, torch.cat((x, x + 3), dim=3))
    assert line.tolist() == [[0, 1, 4, 16, 25, 36]] and line.dtype == torch.int32
    for name, words in (("strange", "strange asks for Erf"), ("aligned", "by a rule"), ("none", "no node 'none'")):
        with pytest.raises(ValueError, match=words):
            graph.run({"x": x}, [name])


def test_weights_of_bytes_are_scaled(tmp_path: Path) -> None:
    path = write(tmp_path, [("y", "Identity", ["w"], {})], {"w": np.array([0, 2, 255], np.uint8)})
    model = json.loads(path.read_text())
    packed = {"dtype": "uint8", "scale": 0.5, "min": -1.0}
    model["weightsManifest"][0]["weights"][0] |= {"dtype": "float32", "quantization": packed}
    model["weightsManifest"][0]["paths"] = ["../x/a.bin", "b.bin"]  # a file of its own folder, whatever it says
    path.write_text(json.dumps(model))
    assert Graph(path).run({}, ["y"])[0].tolist() == [-1.0, 0.0, 126.5]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no network of TensorFlow.js at .*none.json"):
        Graph(tmp_path / "none.json")
    (tmp_path / "layers.json").write_text('{"modelTopology": {"model_config": {}}}')
    with pytest.raises(ValueError, match=r"layers.json is no graph of TensorFlow.js"):
        Graph(tmp_path / "layers.json")
