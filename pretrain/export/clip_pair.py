"""Exports a video and a text tower to transformers: with a modelling file and a tokenizer, and the CLIP part of it."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from models.convert import clip as clip_names
from models.convert.rules import to_theirs
from models.text import CLIPText
from models.viclip import ViCLIPVision
from pretrain.export.shared import EncoderSizes, encoder_sizes, random_video, require_close
from pretrain.objectives import ViCLIP, ViLP

if TYPE_CHECKING:
    from transformers import CLIPTextConfig

    from models.convert.modeling_viclip import TubeletViCLIPModel

ClipPair = ViCLIP | ViLP

_EXAMPLE = """from transformers import AutoModel, AutoTokenizer
model = AutoModel.from_pretrained("PATH", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("PATH", trust_remote_code=True)
texts = tokenizer(["a man plays the guitar"], padding="max_length", truncation=True, return_tensors="pt")
model(pixel_values, texts.input_ids)  # [B, texts], cosines over the temperature, of frames [B, T, 3, H, W]"""
_CLEANED = "\n# it was trained on captions in lower case without , . ' ! ? \" ( ) * # : ; ~ and with spaces for - and /"


def example(model: ClipPair) -> str:
    """Code that loads the folder of `to_transformers`, for its model card."""
    return _EXAMPLE + (_CLEANED if model.words.clean else "")


def to_transformers(model: ClipPair, folder: Path) -> str:
    """Write a folder for `AutoModel.from_pretrained(folder, trust_remote_code=True)` and `AutoTokenizer`, and check it.

    A subfolder holds the part that is plain CLIP: if a token covers one frame, `clip/` with a `CLIPModel` that encodes
    an image as a video of one frame; else `text/` with the text tower as a `CLIPTextModelWithProjection`.
    """
    from models.convert.modeling_viclip import TubeletViCLIPConfig, TubeletViCLIPModel

    config = TubeletViCLIPConfig(**vision_sizes(model.encoder), text_config=text_config(model.text).to_dict())
    theirs = TubeletViCLIPModel(config)
    text, _ = to_theirs(clip_names.TRANSFORMERS_TEXT, _text_state(model.text))
    state = {f"vision.{name}": tensor for name, tensor in model.encoder.state_dict().items()}
    state |= {f"text.{name}": tensor for name, tensor in _live_names(theirs.text, text).items()}
    theirs.load_state_dict({**state, "temperature": model.temperature.detach()})
    TubeletViCLIPConfig.register_for_auto_class()
    TubeletViCLIPModel.register_for_auto_class("AutoModel")
    theirs.save_pretrained(folder)
    save_tokenizer(folder, model.text.context)
    kind = save_plain_clip(model, folder)
    difference = compare(model, TubeletViCLIPModel.from_pretrained(folder))
    return f"TubeletViCLIPModel with its modelling file and tokenizer, {kind}; features equal to {difference:.1e}"


class VisionSizes(EncoderSizes):
    """Sizes of a video tower by the names of transformers' configs."""

    projection_dim: int


def vision_sizes(e: ViCLIPVision) -> VisionSizes:
    """The sizes of a video tower for a config of transformers."""
    return {**encoder_sizes(e), "projection_dim": e.out}


def text_config(t: CLIPText) -> "CLIPTextConfig":
    """transformers' config of a text tower."""
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=t.token_embed.num_embeddings,
        hidden_size=t.width,
        intermediate_size=t.blocks[0].mlp.fc1.out_features,
        projection_dim=t.out,
        num_hidden_layers=len(t.blocks),
        num_attention_heads=t.blocks[0].attn.heads,
        max_position_embeddings=t.context,
        pad_token_id=0,
    )


def save_tokenizer(folder: Path, context: int) -> None:
    """Save CLIP's tokenizer in transformers' form, with open_clip's vocabulary."""
    from transformers import CLIPTokenizerFast  # pyrefly: ignore[missing-module-attribute] an alias made at run time

    from models.tokenizers import byte_pairs

    bpe = byte_pairs()
    tokens = {token: number for token, number in bpe.encoder.items() if number < 49406}
    tokens |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    lines = [" ".join(pair) for pair in sorted(bpe.bpe_ranks, key=lambda pair: bpe.bpe_ranks[pair])]
    merges.write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizerFast(str(vocabulary), str(merges), model_max_length=context, pad_token="!")  # id 0
    tokenizer.save_pretrained(folder)


def save_plain_clip(model: ClipPair, folder: Path) -> str:
    """Write the subfolder `clip/` or `text/` of `to_transformers`; returns its description."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextModelWithProjection

    e, sizes = model.encoder, vision_sizes(model.encoder)
    text, _ = to_theirs(clip_names.TRANSFORMERS_TEXT, _text_state(model.text))
    if e.tubelet > 1:
        plain = CLIPTextModelWithProjection(text_config(model.text))
        plain.load_state_dict(_live_names(plain, text))
        plain.save_pretrained(folder / "text")
        return "text/ as CLIPTextModelWithProjection"
    vision = {name: size for name, size in sizes.items() if name not in ("num_frames", "tubelet_size")}
    config = CLIPConfig(
        text_config=text_config(model.text).to_dict(),
        vision_config={**vision, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
        projection_dim=e.out,
    )
    plain = CLIPModel(config)
    state = {**e.state_dict(), "patch_embed.proj.weight": e.patch_embed.proj.weight.detach().squeeze(2)}
    del state["time.table"]  # an image has the mean of the time embeddings
    state["pos_embed"] = torch.cat((e.pos_embed[:1], e.pos_embed[1:] + e.time.table.mean(0))).detach()
    theirs, unknown = to_theirs(clip_names.TRANSFORMERS, state)
    if unknown:
        raise ValueError(f"CLIP has no counterpart of {unknown[0]}")
    scale = torch.tensor(math.log(1 / model.temperature.item()))
    plain.load_state_dict(_live_names(plain, {**theirs, **text, "logit_scale": scale}))
    plain.save_pretrained(folder / "clip")
    return "clip/ as CLIPModel for images"


def _text_state(text: CLIPText) -> dict[str, Tensor]:
    return {f"text.{name}": tensor for name, tensor in text.state_dict().items() if name != "mask_embed"}


def _live_names(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the module's own names, whose prefixes differ between versions of transformers."""
    live = set(module.state_dict())
    bare = {name.removeprefix("text_model.").removeprefix("vision_model."): name for name in live}
    return {
        name if name in live else bare.get(name.removeprefix("text_model."), name): tensor
        for name, tensor in state.items()
    }


@torch.no_grad()
def compare(model: ClipPair, theirs: "TubeletViCLIPModel") -> float:
    """Largest difference of normalised features on random video and texts; ValueError if it is more than rounding."""
    e, theirs = model.encoder, theirs.eval()
    video = random_video(e)
    ids = model.words.tokenizer(["a person plays the guitar", "snow"])
    pairs = [
        (e.feature_and_tokens(video)[0], theirs.get_video_features(video.transpose(1, 2))),
        (model.text(ids)[0], theirs.get_text_features(ids)),
    ]
    difference = max(
        (nn.functional.normalize(a, dim=-1) - nn.functional.normalize(b, dim=-1)).abs().max().item() for a, b in pairs
    )
    return require_close(difference, "model", 1e-5)
