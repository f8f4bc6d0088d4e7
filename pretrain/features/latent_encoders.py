"""The encoders of latents: an autoencoder's posterior moments of a clip, and the states of its captions.

Letters: `C` channels of a latent, `T` frames, `H x W` pixels, `h x w` the grid of a latent, `K` captions, `L` tokens,
`D` width of a text state.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datamodules.storage.json_text import read_json
from models.diffusion.autoencoder import Autoencoder, KLAutoencoder, from_pixels
from models.diffusion.text_encoder import TextEncoder
from models.tokenizers import CLIPTokenizer
from pretrain.learning.encoder_names import autoencoder_name, joint_name, text_encoder_name
from pretrain.learning.prompts import Prompts
from pretrain.learning.teachers import Frozen

_FRAMES = 8  # encoded at once


class LatentEncoders:
    """An autoencoder, and a text encoder if captions are encoded too; both run in float32.

    A clip and a caption are encoded on their own: the results do not depend on others in a batch.

    Args:
        autoencoder: gives the moments.
        prompts: gives the text states; None: captions are not encoded.
        device: where they run.
    """

    def __init__(self, autoencoder: Autoencoder, prompts: Prompts | None = None, device: str = "cpu") -> None:
        self.autoencoder = autoencoder.float().eval().requires_grad_(False).to(device)
        self.prompts, self.device, text = prompts, torch.device(device), None
        if prompts is not None:
            prompts.encoder.load()
            prompts.to(self.device)
            text = text_encoder_name(prompts)
        self.name = joint_name(autoencoder_name(autoencoder), text)

    @torch.no_grad()
    def moments(self, clip: np.ndarray) -> np.ndarray:
        """float32 [2C, T, h, w], means and then log variances, of uint8 [T, H, W, 3]."""
        video = from_pixels(torch.from_numpy(clip).to(self.device))
        return self.autoencoder.encode(video)[0].cpu().numpy()

    @torch.no_grad()
    def states(self, captions: list[str]) -> tuple[np.ndarray, bool]:
        """float32 [K, L, D], and whether a caption has more tokens than L and was cut."""
        assert self.prompts is not None  # the caller has asked
        tokenizer = self.prompts.tokenizer
        cut = any(tokenizer.length(caption) > tokenizer.context for caption in captions)
        return torch.cat([self.prompts([caption], self.device) for caption in captions]).cpu().numpy(), cut


def load_encoders(vae: str, text: str | None = None, device: str = "cpu") -> LatentEncoders:
    """The encoders in folders of diffusers and transformers.

    Args:
        vae: a folder of an AutoencoderKL, or of a pipeline with a folder `vae`.
        text: a folder of a CLIPTextModel, or of a pipeline with a folder `text_encoder`; None: captions are not
            encoded.

    Raises:
        FileNotFoundError: a folder does not hold what it should.
        ValueError: a config.json is damaged, or of another model, or the text encoder has another vocabulary than CLIP.
    """
    sizes = ("block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups")
    place, config = _read_config(vae, "vae", "an AutoencoderKL of diffusers", sizes)
    scale = config.get("scaling_factor", 0.18215)
    autoencoder = KLAutoencoder(*(config[name] for name in sizes), scale=scale, frames=_FRAMES)
    autoencoder.read(place)
    if text is None:
        return LatentEncoders(autoencoder, device=device)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    needed = (*names, "vocab_size", "max_position_embeddings")
    place, config = _read_config(text, "text_encoder", "a CLIPTextModel of transformers", needed)
    if config["vocab_size"] != CLIPTokenizer.vocabulary:
        raise ValueError(f"{place} takes {config['vocab_size']} kinds of tokens, and CLIP's tokenizer has 49408")
    encoder = TextEncoder(*(config[name] for name in names), context=config["max_position_embeddings"])
    tokenizer = CLIPTokenizer(encoder.context, "zero" if _pads_with_zero(place) else "end")
    return LatentEncoders(autoencoder, Prompts(Frozen(encoder, str(place)), tokenizer), device)


def _read_config(folder: str, part: str, what: str, needed: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    place = Path(folder, part) if Path(folder, part).is_dir() else Path(folder)
    file = place / "config.json"
    if not file.is_file():
        raise FileNotFoundError(f"{place} holds no config.json: it should be {what}, or a folder `{part}` with one")
    config = read_json(file)
    if not isinstance(config, dict) or not set(needed) <= config.keys():
        raise ValueError(f"{file} is not that of {what}: it needs {', '.join(needed)}")
    return place, config


def _pads_with_zero(text_encoder: Path) -> bool:
    """Whether the tokenizer beside a text encoder pads with token 0, "!", as Stable Diffusion 2's does."""
    files = [text_encoder.parent / "tokenizer" / name for name in ("tokenizer_config.json", "special_tokens_map.json")]
    tables = [read_json(file) for file in files if file.is_file()]
    pads = [table.get("pad_token") for table in tables if isinstance(table, dict)]
    return any((pad.get("content") if isinstance(pad, dict) else pad) == "!" for pad in pads)
