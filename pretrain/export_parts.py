"""What of a trained objective is handed on: its encoder, and its tensors without those that only training needs."""

from torch import Tensor, nn

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
