"""Names of frozen encoders by their weights: stored latents carry those of the encoders that made them."""

import hashlib

import torch
from torch import Tensor, nn

from models.diffusion.autoencoder import Autoencoder
from pretrain.learning.prompts import Prompts
from pretrain.learning.teachers import Frozen

_NONE = "none"  # no text encoder


def encoder_name(encoder: nn.Module, *settings: object) -> str:
    """16 hexadecimal digits of an encoder's class and settings, and of all its parameters and buffers.

    Values count as float32, so that half-precision weights have the same name however they are loaded.

    Args:
        settings: what else decides its output, such as a size that is in no weight.
    """
    digest = hashlib.sha256(repr((type(encoder).__name__, *settings)).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        values = tensor.detach().cpu()
        values = (values.float() if values.is_floating_point() else values.long()).contiguous()
        digest.update(f"{name} {tuple(values.shape)} {values.dtype} ".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def autoencoder_name(autoencoder: nn.Module) -> str:
    """Of an `Autoencoder`."""
    return encoder_name(autoencoder, autoencoder.factor)


def text_encoder_name(prompts: Prompts) -> str:
    """Of a text encoder, whose weights are loaded, with its tokenizer."""
    tokenizer = prompts.tokenizer
    return encoder_name(prompts.encoder.model, type(tokenizer).__name__, tokenizer.context, tokenizer.pad)


def joint_name(autoencoder: str, text_encoder: str | None) -> str:
    """The name of what made latents and text states."""
    return f"{autoencoder}-{text_encoder or _NONE}"


def check_encoders(joint: str, vae: Frozen, prompts: Prompts) -> None:
    """ValueError if the latents of that name are of another autoencoder or text encoder than a model's own.

    One that runs in bfloat16 has rounded weights, by which it cannot be recognised: it is not checked.
    """
    vae.load()
    prompts.encoder.load()
    ours = autoencoder_name(vae.model), text_encoder_name(prompts)
    for what, frozen, theirs, own in zip(
        ("autoencoder", "text encoder"), (vae, prompts.encoder), joint.split("-"), ours, strict=True
    ):
        if theirs not in (own, _NONE) and frozen.param_dtype == torch.float32:
            raise ValueError(
                f"the latents were made by another {what} ({theirs}) than the recipe's ({own}): set the recipe's to "
                "the one that made them, or make them again by tools/latents.py"
            )


def check_moments(latents: Tensor, autoencoder: Autoencoder, name: str) -> None:
    """ValueError if `latents` `[B, 2C, T, h, w]`, that of sample `name` first, have other channels than a model's."""
    if latents.shape[1] != 2 * autoencoder.channels:
        raise ValueError(
            f"the latents of {name} have {latents.shape[1]} channels of moments, and the autoencoder makes "
            f"{2 * autoencoder.channels}: they are of another autoencoder"
        )
