"""Exports an objective to transformers: to a class of transformers if one fits, else with a modelling file of ours."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from models.convert import videomae as names
from models.vit import VideoViT
from pretrain.export import chat, classifier, clip_pair
from pretrain.export.shared import (
    encoder_of,
    encoder_sizes,
    exported_state,
    load_videomae,
    random_video,
    require_close,
)
from pretrain.objectives import Classify, Converse, Objective, VideoMAE

if TYPE_CHECKING:
    from transformers import VideoMAEConfig


def to_transformers(model: Objective, folder: Path, decoder: bool, settings: dict[str, Any]) -> str:
    """Write a folder for `from_pretrained`, load it and compare the outputs."""
    if isinstance(model, clip_pair.ClipPair):
        return clip_pair.to_transformers(model, folder)
    if isinstance(model, Converse):
        return chat.to_transformers(model, folder)
    if isinstance(model, Classify):
        return classifier.to_transformers(model.model, folder, model.names)
    return _to_videomae(model, folder, decoder) if isinstance(model, VideoMAE) else _to_modeling_file(model, folder)


def example(model: Objective) -> str:
    """Code that loads the folder of `to_transformers`, for its model card."""
    if isinstance(model, clip_pair.ClipPair):
        return clip_pair.example(model)
    if isinstance(model, Converse):
        return chat.EXAMPLE
    if isinstance(model, Classify):
        return classifier.EXAMPLE
    auto, more = ("VideoMAEModel", "") if isinstance(model, VideoMAE) else ("AutoModel", ", trust_remote_code=True")
    return (
        f'from transformers import {auto}\nmodel = {auto}.from_pretrained("PATH"{more})\n'
        "model(pixel_values).last_hidden_state  # [B, N, D], of frames [B, T, 3, H, W]"
    )


def _to_videomae(model: VideoMAE, folder: Path, decoder: bool) -> str:
    from transformers import VideoMAEForPreTraining, VideoMAEModel

    as_transformers(model, decoder).save_pretrained(folder)  # writes the names that transformers 4 and 5 both read
    if decoder:
        kind, encoder = VideoMAEForPreTraining, VideoMAEForPreTraining.from_pretrained(folder).videomae
    else:
        kind, encoder = VideoMAEModel, VideoMAEModel.from_pretrained(folder)
    return f"{kind.__name__}, features equal to {compare(model, encoder):.1e}"


def as_transformers(model: VideoMAE, decoder: bool):
    """transformers' model of the same weights: `VideoMAEForPreTraining`, or without the decoder `VideoMAEModel`."""
    from transformers import VideoMAEForPreTraining, VideoMAEModel

    kind = VideoMAEForPreTraining if decoder else VideoMAEModel
    rules = names.TRANSFORMERS if decoder else names.TRANSFORMERS_MODEL
    theirs = kind(transformers_config(model))
    load_videomae(theirs, rules, exported_state(model, decoder))
    device = next(model.parameters()).device
    return theirs.to(device)  # pyrefly: ignore[bad-argument-type] transformers wraps nn.Module.to, and self is lost


def _to_modeling_file(model: Objective, folder: Path) -> str:
    """Write the encoder for `AutoModel.from_pretrained(folder, trust_remote_code=True)`, with its modelling file."""
    from models.convert.modeling_videovit import VideoViTConfig, VideoViTModel

    e = encoder_of(model)
    if not isinstance(e, VideoViT) or e.blocks[0].attn.scale is not None:
        raise ValueError(f"the modelling file has no {type(e).__name__} of these options: export to safetensors")
    config = VideoViTConfig(
        **encoder_sizes(e),
        layer_scale=not isinstance(e.blocks[0].ls1, nn.Identity),
        final_norm=isinstance(e.norm, nn.LayerNorm),
    )
    theirs = VideoViTModel(config)
    theirs.load_state_dict({**e.state_dict(), "positions.table": e.positions.table.detach()})
    VideoViTConfig.register_for_auto_class()
    VideoViTModel.register_for_auto_class("AutoModel")
    theirs.save_pretrained(folder)
    difference = compare(model, VideoViTModel.from_pretrained(folder))
    return f"VideoViTModel with its modelling file, features equal to {difference:.1e}"


def transformers_config(model: VideoMAE) -> "VideoMAEConfig":
    """transformers' config of a VideoMAE; ValueError for options that its class does not have."""
    from transformers import VideoMAEConfig

    e, d = model.encoder, model.decoder
    if not isinstance(e, VideoViT):
        raise ValueError(f"transformers' VideoMAE has no {type(e).__name__}: export to safetensors")
    if e.blocks[0].attn.scale is not None or not isinstance(e.blocks[0].ls1, nn.Identity):
        raise ValueError("transformers' VideoMAE has neither cosine attention nor layer scale: export to safetensors")
    return VideoMAEConfig(
        **encoder_sizes(e),
        layer_norm_eps=1e-6,
        use_mean_pooling=False,
        decoder_hidden_size=d.embed.out_features,
        decoder_num_hidden_layers=len(d.blocks),
        decoder_num_attention_heads=d.blocks[0].attn.heads,
        decoder_intermediate_size=d.blocks[0].mlp.fc1.out_features,
        norm_pix_loss=model.normalize_target,
    )


@torch.no_grad()
def compare(model: Objective, theirs: nn.Module) -> float:
    """Largest difference of the encoder's features on random video; ValueError if it is larger than rounding errors."""
    e = encoder_of(model)
    video = random_video(e)
    difference = (e(video) - theirs.eval()(video.transpose(1, 2)).last_hidden_state).abs().max().item()
    return require_close(difference, "encoder")
