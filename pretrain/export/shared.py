"""What all exports share: the tensors to write, sizes for transformers' configs, and checks of completeness."""

from typing import TypedDict, cast

import torch
from torch import Tensor, nn

from models.classifier import Classifier
from models.convert import videomae as names
from models.convert.rules import Rules, to_theirs
from models.encoder import Encoder
from models.viclip import ViCLIPVision
from models.vit import VideoViT
from pretrain.objectives import Align, Classify, Converse, Objective

_NEVER_EXPORTED = ("metrics.", "normalize.")
_ONLY_TRAINING = ("decoder.", "fusion.", "caption.", "text.mask_embed")  # parts that pretraining adds to the model


def exported_module(model: Objective) -> nn.Module:
    """The module whose tensors are exported: the objective itself, or the model that it holds."""
    return model.model if isinstance(model, Classify | Converse | Align) else model


def encoder_of(model: Objective) -> Encoder:
    """The video encoder of an objective."""
    return cast(Encoder, exported_module(model).encoder)


def exported_state(model: Objective, decoder: bool) -> dict[str, Tensor]:
    """The tensors to export; with `decoder` those that training adds: a decoder, a fusion, a classification head."""
    module = exported_module(model)
    state = module.state_dict()
    if isinstance(module, Classifier):
        return {name: tensor for name, tensor in state.items() if decoder or name.startswith("encoder.")}
    left_out = _NEVER_EXPORTED if decoder else _NEVER_EXPORTED + _ONLY_TRAINING
    return {name: tensor for name, tensor in state.items() if not name.startswith(left_out)}


def require_no_leftovers(names: list[str]) -> None:
    """Raise a ValueError for tensors that have no name in the layout, if there are any."""
    if names:
        raise ValueError(
            f"{len(names)} tensors have no place in that layout, the first is {names[0]}: --decoder false leaves "
            "out what pretraining added, and safetensors can hold all of them"
        )


def load_videomae(theirs: nn.Module, rules: Rules, state: dict[str, Tensor]) -> None:
    """Load our tensors into one of transformers' VideoMAE models; ValueError for tensors without a counterpart."""
    state, unknown = to_theirs(rules, state)
    require_no_leftovers(unknown)
    live = {names.on_disk_name(name): name for name in theirs.state_dict()}
    require_no_leftovers([name for name in live if name not in state and "position_embeddings" not in name])
    theirs.load_state_dict({live[name]: tensor for name, tensor in state.items()}, strict=False)


class EncoderSizes(TypedDict):
    """Sizes of a video encoder by the names of transformers' configs."""

    image_size: int
    num_frames: int
    patch_size: int
    tubelet_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int


def encoder_sizes(e: VideoViT | ViCLIPVision) -> EncoderSizes:
    """The sizes of an encoder for a config of transformers."""
    block = e.blocks[0]
    return {
        "image_size": e.size,
        "num_frames": e.frames,
        "patch_size": e.patch,
        "tubelet_size": e.tubelet,
        "hidden_size": e.width,
        "num_hidden_layers": len(e.blocks),
        "num_attention_heads": block.attn.heads,
        "intermediate_size": block.mlp.fc1.out_features,
    }


def random_video(e: Encoder) -> Tensor:
    """A random video of an encoder's size, the same each time: `[1, 3, T, H, W]`."""
    return torch.randn(1, 3, e.frames, e.size, e.size, generator=torch.Generator().manual_seed(0))


def require_close(difference: float, what: str, tolerance: float = 1e-4) -> float:
    """Return the difference between exported and trained outputs; ValueError if it is larger than rounding errors."""
    if not difference < tolerance:
        raise ValueError(f"the exported {what} differs from the trained one by {difference}")
    return difference
