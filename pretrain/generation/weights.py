"""Finds and loads the networks of the stages: LaVie's files, Stable Diffusion's folders, our exports and runs."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from datamodules.storage.json_text import parse_json
from models import load_weights
from models.diffusion.autoencoder import KLAutoencoder
from models.diffusion.schedules import Kind, alpha_bar_of, linear_betas
from models.diffusion.unet import UNET_SIZES, SpatioTemporalUNet
from models.fetch import local_path, sha256
from pretrain.engine.checkpoint import newest_checkpoint
from pretrain.export.load_run import load_objective
from pretrain.generation.autoencoder import FrameCodec
from pretrain.generation.text import Texts, TrainedTexts
from pretrain.learning.teachers import Frozen
from pretrain.objectives.denoise import Denoise

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
_KINDS: dict[str, Kind] = {"base": "eps", "interpolation": "eps", "vsr": "v"}  # of LaVie's files
_PREDICTIONS: dict[str, Kind] = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}  # diffusers' names
_NULL_TEXTS = {"base": "", "interpolation": "None", "vsr": "None"}  # LaVie's `dataset.py`
_VAE_SIZES = ("block_out_channels", "layers_per_block", "latent_channels", "norm_num_groups")
_PARTS = ("vae", "text_encoder", "tokenizer")
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".distcp")
_TOKENIZER_FILES = ("vocab.json", "merges.txt", "tokenizer.json")


LAVIE = "lavie"  # the releases of all stages


@dataclass
class Places:
    """Where the parts of a stage lie: the network's file, pipeline or checkpoint, and the folders of the others."""

    unet: Path
    parts: dict[str, Path] | None  # None: a run's checkpoint, whose recipe names them

    def files(self) -> Iterable[Path]:
        """The files of weights and the tokenizer's tables, which decide a result."""
        for place in (self.unet, *(self.parts or {}).values()):
            found = [place] if place.is_file() else sorted(place.rglob("*"))
            yield from (file for file in found if file.suffix in _WEIGHT_SUFFIXES or file.name in _TOKENIZER_FILES)


@dataclass
class Networks:
    """The networks of a stage, and what they were trained for: what is predicted, the schedule, the null text."""

    unet: SpatioTemporalUNet
    codec: FrameCodec
    texts: Texts | TrainedTexts
    kind: Kind
    alpha_bar: Tensor
    null_text: str

    def to(self, device: torch.device, dtype: torch.dtype) -> "Networks":
        """The same on a device; `dtype` is the UNet's. Autoencoder and text encoder stay in float32."""
        self.unet.to(device, dtype)
        self.codec.to(device)
        self.texts.to(device)
        return self


def find(folder: str | Path, stages: Iterable[str]) -> dict[str, Places]:
    """The places of all parts of the stages.

    `folder` is a folder, a whole repository of the hub (`hf://OWNER/NAME`), or `lavie`: the official files and Stable
    Diffusion's folders, from the hub. A stage's network is `lavie_STAGE.pt`, `lavie_STAGE.safetensors` or a folder
    `STAGE`: one of diffusers' layout (such as `python -m pretrain export` writes) or of a training run. The other parts
    lie in that folder, or in those of Stable Diffusion 1.4 and its x4 upscaler, as LaVie's own page says.

    Raises:
        FileNotFoundError: one sentence names all that is missing, and where it comes from.
    """
    if str(folder) == LAVIE and not Path(folder).exists():
        return {stage: _released(stage) for stage in stages}
    folder = local_path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder of weights: see --help for what it should hold")
    found, missing = {}, []
    for stage in stages:
        options = [folder / f"lavie_{stage}.pt", folder / f"lavie_{stage}.safetensors", folder / stage]
        unet = next((path for path in options if path.exists()), None)
        if unet is not None and unet.is_dir() and (run := newest_checkpoint(unet)):
            found[stage] = Places(run, None)
            continue
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


def _released(stage: str) -> Places:
    """The official network of a stage, and the folders that its page names, downloaded if they are not here."""
    image = local_path(f"hf://{_ORIGINS[_IMAGE_MODELS[stage][0]].removeprefix('huggingface.co/')}")
    return Places(local_path(f"lavie_{stage}"), {part: image / part for part in _PARTS})


def load(stage: str, places: Places, tile: int = 512) -> Networks:
    """The networks of a stage, in float32 on the CPU and in eval mode.

    Args:
        tile: see `FrameCodec`.

    Raises:
        ValueError: they do not fit each other or the stage.
    """
    parts = places.parts
    networks = _of_run(places.unet, tile) if parts is None else _of_files(stage, places.unet, parts, tile)
    unet, autoencoder = networks.unet, networks.codec.autoencoder
    condition = {"base": 0, "interpolation": unet.channels, "vsr": 3}[stage]
    if unet.condition_channels != condition:
        raise ValueError(
            f"{places.unet} takes {unet.condition_channels} channels of a condition, and {stage} gives {condition}: "
            "it is the network of another stage"
        )
    if autoencoder.channels != unet.channels:
        raise ValueError(
            f"the autoencoder has {autoencoder.channels} channels, and {places.unet} {unet.channels}: take the "
            "autoencoder that the network was trained with"
        )
    width = networks.texts("").shape[-1]
    if width != unet.text_width:
        raise ValueError(
            f"the text encoder makes states of {width} channels, and {places.unet} takes {unet.text_width}: take the "
            "text encoder that the network was trained with"
        )
    return networks


def _of_files(stage: str, place: Path, parts: dict[str, Path], tile: int) -> Networks:
    """Networks of LaVie's files or of diffusers' folders."""
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()  # a bar for each file would break the stages' own
    unet = load_unet(stage, place)
    _, scale, factor = _IMAGE_MODELS[stage]
    config = _config(parts["vae"], "config.json", *_VAE_SIZES)
    autoencoder = KLAutoencoder(
        config["block_out_channels"],
        config["layers_per_block"],
        config["latent_channels"],
        config["norm_num_groups"],
        config.get("scaling_factor", scale),  # files of Stable Diffusion 1 state none
    )
    if place.is_file() and (autoencoder.factor, autoencoder.scale) != (factor, scale):
        raise ValueError(
            f"{parts['vae']} has the factor {autoencoder.factor} and the scale {autoencoder.scale}, and LaVie's "
            f"{stage} was trained with {factor} and {scale}: take the one of {_ORIGINS[_IMAGE_MODELS[stage][0]]}"
        )
    vae: Any = AutoencoderKL.from_pretrained(parts["vae"], local_files_only=True, torch_dtype=torch.float32)
    cast(Any, autoencoder.vae).load_state_dict(vae.state_dict())
    encoder = CLIPTextModel.from_pretrained(parts["text_encoder"], local_files_only=True, dtype=torch.float32)
    texts = Texts(CLIPTokenizer.from_pretrained(parts["tokenizer"], local_files_only=True), encoder)
    kind = _KINDS[stage]
    if place.is_dir() and (place / "scheduler").is_dir():
        predicted = _config(place / "scheduler", "scheduler_config.json", "prediction_type")["prediction_type"]
        if predicted not in tuple(_PREDICTIONS):
            raise ValueError(f"{place}/scheduler predicts {predicted!r}: there are {', '.join(_PREDICTIONS)}")
        kind = _PREDICTIONS[predicted]
    codec = FrameCodec(autoencoder, tile=tile)
    return Networks(unet, codec, texts, kind, alpha_bar_of(linear_betas()), _NULL_TEXTS[stage])


def _of_run(place: Path, tile: int) -> Networks:
    """Networks of a training run, with its averaged weights if it has them."""
    objective, _ = load_objective(str(place))
    if not isinstance(objective, Denoise):
        raise ValueError(f"{place} is of a run of {type(objective).__name__}, which does not generate")
    for module in objective.modules():
        if isinstance(module, Frozen):
            module.load()
    unet = objective.unet.eval().requires_grad_(False)
    codec = FrameCodec(objective.autoencoder, tile=tile)
    texts = TrainedTexts(objective.prompts)
    return Networks(unet, codec, texts, objective.kind, objective.alpha_bar, objective.null_text)


def load_unet(stage: str, place: Path) -> SpatioTemporalUNet:
    """The network of a stage from a file, in LaVie's size, or from a folder of diffusers."""
    config = _config(place / "unet") if place.is_dir() else None
    names = inspect.signature(SpatioTemporalUNet).parameters
    sizes = UNET_SIZES[stage] if config is None else {name: config[name] for name in names if name in config}
    unet = SpatioTemporalUNet(**sizes)
    report = load_weights(unet, place)
    if report.missing:
        raise ValueError(f"{place} lacks {len(report.missing)} tensors of the {stage} network: {report.missing[0]}")
    return unet.eval().requires_grad_(False)


def fingerprints(places: Places, root: str | Path) -> dict[str, str]:
    """The SHA-256 of each file of a stage, by its path in the folder of weights, or by its last parts in the hub's
    cache."""
    return {
        str(file.relative_to(root)) if file.is_relative_to(root) else "/".join(file.parts[-2:]): sha256(file)
        for file in places.files()
    }


def _config(folder: Path, name: str = "config.json", *needed: str) -> dict[str, Any]:
    """The table in a JSON file; ValueError names the file if it is none, or lacks a needed entry."""
    file = folder / name
    try:
        found = parse_json(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    if not isinstance(found, dict) or not set(needed) <= found.keys():
        raise ValueError(f"{file} is no table with {', '.join(needed) or 'settings'}")
    return found
