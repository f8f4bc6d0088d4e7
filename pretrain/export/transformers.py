"""A trained objective out to transformers: its own VideoMAE where that is the method, else a modelling file of ours."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.convert import videomae as names
from models.vit import VideoViT
from pretrain.export import classifier, clip_pair
from pretrain.export.shared import encoder_of, encoder_sizes, encoder_state, fill_videomae, noise_for, only_rounding
from pretrain.objectives import Classify, Objective, VideoMAE


def to_transformers(model: Objective, folder: Path, decoder: bool, settings: dict[str, Any]) -> str:
    """A folder for `from_pretrained`, checked by loading it and comparing outputs: transformers' VideoMAE where that is
    the method, else the encoder with a modelling file of its own."""
    from transformers import VideoMAEForPreTraining, VideoMAEModel

    if isinstance(model, clip_pair.Pair):
        _save_processor(model, folder)
        return clip_pair.to_transformers(model, folder)
    if isinstance(model, Classify):
        note = classifier.to_transformers(model.model, folder, model.names)
        _save_processor(model, folder)
        return note
    if not isinstance(model, VideoMAE):
        return to_modeling_file(model, folder)
    kind = VideoMAEForPreTraining if decoder else VideoMAEModel
    theirs = as_transformers(model, decoder)
    theirs.save_pretrained(folder)  # writes the names that transformers 4 and 5 both read
    _save_processor(model, folder)
    loaded = kind.from_pretrained(folder)
    encoder = loaded.videomae if decoder else loaded
    return f"{kind.__name__}, features equal to {compare(model, encoder):.1e}"


def as_transformers(model: VideoMAE, decoder: bool):
    """transformers' model of the same weights: `VideoMAEForPreTraining`, or without the decoder `VideoMAEModel`."""
    from transformers import VideoMAEForPreTraining, VideoMAEModel

    kind = VideoMAEForPreTraining if decoder else VideoMAEModel
    rules = names.TRANSFORMERS if decoder else names.TRANSFORMERS_MODEL
    theirs = kind(transformers_config(model))
    fill_videomae(theirs, rules, encoder_state(model, decoder))
    return theirs.to(next(model.parameters()).device)


def to_modeling_file(model: Objective, folder: Path) -> str:
    """The encoder for `AutoModel.from_pretrained(folder, trust_remote_code=True)`, with the file that defines it."""
    from models.convert.modeling_videovit import VideoViTConfig, VideoViTModel

    e = model.encoder
    if not isinstance(e, VideoViT) or e.blocks[0].attn.scale is not None:
        raise ValueError(f"the modelling file has no {type(e).__name__} of these options: export to safetensors")
    block = e.blocks[0]
    config = VideoViTConfig(
        **encoder_sizes(e),
        layer_scale=not isinstance(block.ls1, nn.Identity),
        final_norm=isinstance(e.norm, nn.LayerNorm),
    )
    theirs = VideoViTModel(config)
    theirs.load_state_dict({**e.state_dict(), "positions.table": e.positions.table.detach()})
    VideoViTConfig.register_for_auto_class()
    VideoViTModel.register_for_auto_class("AutoModel")
    theirs.save_pretrained(folder)
    _save_processor(model, folder)
    difference = compare(model, VideoViTModel.from_pretrained(folder))
    return f"VideoViTModel with its modelling file, features equal to {difference:.1e}"


def _save_processor(model: Objective, folder: Path) -> None:
    from transformers import VideoMAEImageProcessor

    size, (mean, std) = encoder_of(model).size, model.normalize.values
    VideoMAEImageProcessor(
        size={"shortest_edge": size}, crop_size={"height": size, "width": size}, image_mean=mean, image_std=std
    ).save_pretrained(folder)


def transformers_config(model: VideoMAE):
    """transformers' config of a VideoMAE; ValueError for options that its class does not have."""
    from transformers import VideoMAEConfig

    e, d = model.encoder, model.decoder
    block, back = e.blocks[0], d.blocks[0]
    if block.attn.scale is not None or not isinstance(block.ls1, nn.Identity):
        raise ValueError("transformers' VideoMAE has neither cosine attention nor layer scale: export to safetensors")
    return VideoMAEConfig(
        **encoder_sizes(e),
        layer_norm_eps=1e-6,
        qkv_bias=True,
        use_mean_pooling=False,
        decoder_hidden_size=d.embed.out_features,
        decoder_num_hidden_layers=len(d.blocks),
        decoder_num_attention_heads=back.attn.heads,
        decoder_intermediate_size=back.mlp.fc1.out_features,
        norm_pix_loss=model.normalize_target,
    )


@torch.no_grad()
def compare(model: Objective, theirs: nn.Module) -> float:
    """Largest difference of the encoder's features on random video; ValueError where it is not rounding."""
    e = model.encoder
    video = noise_for(e)
    difference = (e(video) - theirs.eval()(video.transpose(1, 2)).last_hidden_state).abs().max().item()
    return only_rounding(difference, "encoder")
