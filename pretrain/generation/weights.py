"""Finds and loads the networks of the stages: LaVie's files, Stable Diffusion's folders, our exports and runs."""

import inspect
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from models import load_weights
from models.convert.integrity import sha256
from models.convert.sharded import is_sharded
from models.diffusion.unet import UNET_SIZES, SpatioTemporalUNet
from pretrain.engine.checkpoint import newest_checkpoint
from pretrain.export.load_run import load_objective
from pretrain.generation.autoencoder import FrameCodec
from pretrain.generation.text import Texts

# The folder that holds a stage's VAE and text encoder if the stage's own does not, and the VAE's scale and factor.
_IMAGE_MODELS = {
    "base": ("stable-diffusion-v1-4", 0.18215, 8),
    "interpolation": ("stable-diffusion-v1-4", 0.18215, 8),
    "vsr": ("stable-diffusion-x4-upscaler", 0.08333, 4),
}
_ORIGINS = {
    "stable-diffusion-v1-4": "huggingface.co/CompVis/stable-diffusion-v1-4",
    "stable-diffusion-x4-upscaler": "huggingface.co/stabilityai/stable-diffusion-x4-upscaler",
}
_PARTS = ("vae", "text_encoder", "tokenizer")
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".distcp")
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json")


@dataclass
class Places:
    """Where the parts of a stage lie: the network's file, pipeline or checkpoint, and the folders of the others."""

    unet: Path
    parts: dict[str, Path]

    def files(self) -> Iterable[Path]:
        """The files of weights and the tokenizer's tables, which decide a result."""
        for place in (self.unet, *self.parts.values()):
            found = [place] if place.is_file() else sorted(place.rglob("*"))
            yield from (file for file in found if file.suffix in _WEIGHT_SUFFIXES or file.name in _TOKENIZER_FILES)


@dataclass
class Networks:
    """The networks of a stage."""

    unet: SpatioTemporalUNet
    codec: FrameCodec
    texts: Texts

    def to(self, device: torch.device, dtype: torch.dtype) -> "Networks":
        """The same on a device; `dtype` is the UNet's. VAE and text encoder stay in float32."""
        self.unet.to(device, dtype)
        self.codec.vae.to(device)
        self.texts.encoder.to(device)
        return self


def find(folder: Path, stages: Iterable[str]) -> dict[str, Places]:
    """The places of all parts of the stages.

    A stage's network is `lavie_STAGE.pt`, `lavie_STAGE.safetensors` or a folder `STAGE`: one of diffusers' layout (such
    as `python -m pretrain export` writes) or of a training run. The other parts lie in that folder, or in those of
    Stable Diffusion 1.4 and its x4 upscaler, as LaVie's own page says.

    Raises:
        FileNotFoundError: one sentence names all that is missing, and where it comes from.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder of weights: see --help for what it should hold")
    found, missing = {}, []
    for stage in stages:
        options = [folder / f"lavie_{stage}.pt", folder / f"lavie_{stage}.safetensors", folder / stage]
        unet = next((path for path in options if path.exists()), None)
        if unet is not None and unet.is_dir():
            unet = newest_checkpoint(unet) or unet  # of a run
        if unet is None:
            missing.append(f"lavie_{stage}.pt (huggingface.co/YaohuiW/LaVie, or a folder {stage} of your own training)")
        shared, *_ = _IMAGE_MODELS[stage]
        parts = {}
        for part in _PARTS:
            own = folder / stage / part
            parts[part] = own if own.is_dir() else folder / shared / part
            if not parts[part].is_dir():
                missing.append(f"{shared}/{part} ({_ORIGINS[shared]})")
        if unet is not None:
            found[stage] = Places(unet, parts)
    if missing:
        raise FileNotFoundError(f"{folder} lacks {', '.join(dict.fromkeys(missing))}")
    return found


def load(stage: str, places: Places, tile: int = 512) -> Networks:
    """The networks of a stage, in float32 on the CPU and in eval mode.

    Args:
        tile: see `FrameCodec`.

    Raises:
        ValueError: they do not fit each other or the stage.
    """
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for each file would break the stages' own
    unet = load_unet(stage, places.unet)
    _, scale, factor = _IMAGE_MODELS[stage]
    vae: Any = AutoencoderKL.from_pretrained(places.parts["vae"], local_files_only=True, torch_dtype=torch.float32)
    if "scaling_factor" not in _config(places.parts["vae"]):
        vae.register_to_config(scaling_factor=scale)  # diffusers would take Stable Diffusion 1's
    codec = FrameCodec(vae, tile=tile)
    encoder = CLIPTextModel.from_pretrained(places.parts["text_encoder"], local_files_only=True, dtype=torch.float32)
    texts = Texts(CLIPTokenizer.from_pretrained(places.parts["tokenizer"], local_files_only=True), encoder)
    condition = {"base": 0, "interpolation": unet.channels, "vsr": 3}[stage]
    if unet.condition_channels != condition:
        raise ValueError(
            f"{places.unet} takes {unet.condition_channels} channels of a condition, and {stage} gives {condition}: "
            "it is the network of another stage"
        )
    if (codec.channels, codec.factor) != (unet.channels, factor):
        raise ValueError(
            f"{places.parts['vae']} has {codec.channels} channels and the factor {codec.factor}, and {stage} needs "
            f"{unet.channels} and {factor}: take the VAE that the network was trained with"
        )
    if encoder.config.hidden_size != unet.text_width:
        raise ValueError(
            f"{places.parts['text_encoder']} makes texts of {encoder.config.hidden_size} channels, and {places.unet} "
            f"takes {unet.text_width}: take the text encoder that the network was trained with"
        )
    return Networks(unet, codec, texts)


def load_unet(stage: str, place: Path) -> SpatioTemporalUNet:
    """The network of a stage from a file in LaVie's size, a folder of diffusers, or a run (its averaged weights)."""
    if place.suffix == ".ckpt" or is_sharded(place):
        objective, _ = load_objective(str(place))
        unet = getattr(objective, "unet", None)
        if not isinstance(unet, SpatioTemporalUNet):
            raise ValueError(f"{place} is the run of a {type(objective).__name__}, which does not generate")
        return unet.eval().requires_grad_(False)
    config = _config(place / "unet") if place.is_dir() else None
    names = inspect.signature(SpatioTemporalUNet).parameters
    sizes = UNET_SIZES[stage] if config is None else {name: config[name] for name in names if name in config}
    unet = SpatioTemporalUNet(**sizes)
    report = load_weights(unet, place)
    if report.missing:
        raise ValueError(f"{place} lacks {len(report.missing)} tensors of the {stage} network: {report.missing[0]}")
    return unet.eval().requires_grad_(False)


def fingerprints(places: Places, root: Path) -> dict[str, str]:
    """The SHA-256 of each file of a stage, by its path in the folder of weights."""
    return {str(file.relative_to(root)): sha256(file) for file in places.files()}


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
