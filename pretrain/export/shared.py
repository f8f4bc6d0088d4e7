"""What all exports share: which of an objective's parts and tensors are handed on, sizes in transformers' words, and
checks that nothing was lost."""

import torch
from torch import Tensor, nn

from models.convert import videomae as names
from models.convert.rules import Rules, to_theirs
from models.viclip import ViCLIPVision
from models.vit import VideoViT
from pretrain.objectives import Classify, Objective

_NOT_SHIPPED = ("metrics.", "normalize.")
_ONLY_TAUGHT = ("decoder.", "fusion.", "caption.", "text.mask_embed")  # what pretraining adds to the model


def encoder_state(model: Objective, decoder: bool) -> dict[str, Tensor]:
    """The model's tensors, with those that pretraining adds to it where they are wanted and there."""
    if isinstance(model, Classify):
        kept = "" if decoder else "encoder."
        return {name: tensor for name, tensor in model.model.state_dict().items() if name.startswith(kept)}
    left_out = _NOT_SHIPPED if decoder else _NOT_SHIPPED + _ONLY_TAUGHT
    return {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(left_out)}


def encoder_of(model: Objective) -> nn.Module:
    """The encoder, which a classifier holds in its `model`."""
    return model.model.encoder if isinstance(model, Classify) else model.encoder


def none_left(unknown: list[str]) -> None:
    """A ValueError that names the first tensor without a place, if there is one."""
    if unknown:
        raise ValueError(
            f"{len(unknown)} tensors have no place in that layout, the first is {unknown[0]}: --decoder false leaves "
            "out what pretraining added, and safetensors have room for all"
        )


def fill_videomae(theirs: nn.Module, rules: Rules, state: dict[str, Tensor]) -> None:
    """Puts our tensors into one of transformers' VideoMAE models; a ValueError names one that has no place there, or
    that is wanted there and not ours to give."""
    state, unknown = to_theirs(rules, state)
    none_left(unknown)
    live = {names.on_disk_name(name): name for name in theirs.state_dict()}
    none_left([name for name in live if name not in state and "position_embeddings" not in name])
    theirs.load_state_dict({live[name]: tensor for name, tensor in state.items()}, strict=False)


def encoder_sizes(e: VideoViT | ViCLIPVision) -> dict[str, int]:
    """An encoder's sizes in the words of transformers' configs."""
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


def noise_for(e: VideoViT | ViCLIPVision) -> Tensor:
    """A random video of an encoder's size, the same each time: `[1, 3, T, H, W]`."""
    return torch.randn(1, 3, e.frames, e.size, e.size, generator=torch.Generator().manual_seed(0))


def only_rounding(difference: float, what: str, most: float = 1e-4) -> float:
    """The difference between what was exported and what was trained; a ValueError where it is more than rounding."""
    if not difference < most:
        raise ValueError(f"the exported {what} differs from the trained one by {difference}")
    return difference
