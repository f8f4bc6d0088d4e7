"""A trained objective out to transformers: its own VideoMAE where that is the method, else a modelling file of ours."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.convert import videomae as names
from models.convert.rules import to_theirs
from models.vit import VideoViT
from pretrain import export_classifier, export_pair
from pretrain.export_parts import encoder_of, encoder_state, none_left
from pretrain.objectives import Classify, Objective, VideoMAE


def to_transformers(model: Objective, folder: Path, decoder: bool, settings: dict[str, Any]) -> str:
    """A folder for `from_pretrained`, checked by loading it and comparing outputs: transformers' VideoMAE where that is
    the method, else the encoder with a modelling file of its own."""
    from transformers import VideoMAEForPreTraining, VideoMAEModel

    if isinstance(model, export_pair.Pair):
        _save_processor(model, folder)
        return export_pair.to_transformers(model, folder)
    if isinstance(model, Classify):
        note = export_classifier.to_transformers(model.model, folder, _encoder_sizes(encoder_of(model)), model.names)
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
    state, unknown = to_theirs(rules, encoder_state(model, decoder))
    none_left(unknown)
    live = {names.on_disk_name(name): name for name in theirs.state_dict()}
    none_left([name for name in live if name not in state and "position_embeddings" not in name])
    theirs.load_state_dict({live[name]: tensor for name, tensor in state.items()}, strict=False)
    return theirs.to(next(model.parameters()).device)


def to_modeling_file(model: Objective, folder: Path) -> str:
    """The encoder for `AutoModel.from_pretrained(folder, trust_remote_code=True)`, with the file that defines it."""
    from models.convert.modeling_videovit import VideoViTConfig, VideoViTModel

    e = model.encoder
    if not isinstance(e, VideoViT) or e.blocks[0].attn.scale is not None:
        raise ValueError(f"the modelling file has no {type(e).__name__} of these options: export to safetensors")
    block = e.blocks[0]
    config = VideoViTConfig(
        **_encoder_sizes(e),
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


def _encoder_sizes(e: VideoViT) -> dict[str, int]:
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


def transformers_config(model: VideoMAE):
    """transformers' config of a VideoMAE; ValueError for options that its class does not have."""
    from transformers import VideoMAEConfig

    e, d = model.encoder, model.decoder
    block, back = e.blocks[0], d.blocks[0]
    if block.attn.scale is not None or not isinstance(block.ls1, nn.Identity):
        raise ValueError("transformers' VideoMAE has neither cosine attention nor layer scale: export to safetensors")
    return VideoMAEConfig(
        **_encoder_sizes(e),
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
    video = torch.randn(1, 3, e.frames, e.size, e.size, generator=torch.Generator().manual_seed(0))
    difference = (e(video) - theirs.eval()(video.transpose(1, 2)).last_hidden_state).abs().max().item()
    if not difference < 1e-4:
        raise ValueError(f"the exported encoder differs from the trained one by {difference}")
    return difference
