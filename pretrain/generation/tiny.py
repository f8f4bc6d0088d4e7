"""A cascade of random tiny networks, in the layout that trained ones have: for tests and first tries."""

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from models.diffusion.unet import UNET_SIZES, SpatioTemporalUNet
from pretrain.export.diffusers_folder import save_folder
from pretrain.generation.settings import STAGES

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

WIDTH = 32  # of the text states


def write_tiny(folder: Path, seed: int = 0, stages: tuple[str, ...] = STAGES) -> None:
    """Write a pipeline folder for each stage, which `pretrain.generation.weights` finds by the stage's name."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for stage in stages:
            unet = SpatioTemporalUNet(**UNET_SIZES[f"tiny_{stage}"])
            vae = tiny_vae(levels=3 if stage == "vsr" else 4)
            save_folder(
                unet, folder / stage, "v" if stage == "vsr" else "eps", vae, tiny_text_encoder(), tiny_tokenizer()
            )


def tiny_vae(levels: int) -> "AutoencoderKL":
    """A random autoencoder that halves the sides `levels - 1` times; Stable Diffusion's scale."""
    from diffusers import AutoencoderKL

    down, up = ("DownEncoderBlock2D",) * levels, ("UpDecoderBlock2D",) * levels
    return AutoencoderKL(
        3, 3, down, up, (8,) * levels, layers_per_block=1, norm_num_groups=4, sample_size=64, scaling_factor=0.18215
    )


def tiny_text_encoder() -> "CLIPTextModel":
    """A random CLIP text encoder of two layers for `tiny_tokenizer`."""
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": WIDTH, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513}
    return CLIPTextModel(CLIPTextConfig(vocab_size=514, max_position_embeddings=77, **sizes, **ends))


def tiny_tokenizer() -> "CLIPTokenizer":
    """CLIP's tokenizer without merges: a token a letter."""
    from transformers import CLIPTokenizer

    letters = _byte_letters()
    names = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    with tempfile.TemporaryDirectory() as place:  # the tokenizer is made of files only
        Path(place, "vocab.json").write_text(json.dumps({name: i for i, name in enumerate(names)}), encoding="utf-8")
        Path(place, "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
        return CLIPTokenizer.from_pretrained(place, model_max_length=77)


def _byte_letters() -> list[str]:
    """The printable letters that stand for the 256 bytes in CLIP's vocabulary (GPT-2's table)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    table = {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
    return [table[byte] for byte in [*shown, *hidden]]
