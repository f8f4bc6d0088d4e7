"""A video and a text tower out, to transformers: the model with its own file, its tokenizer, and what is plain CLIP."""

import json
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from models.convert import clip as clip_names
from models.convert.rules import to_theirs
from models.text import CLIPText
from models.viclip import ViCLIPVision
from pretrain.export.shared import encoder_sizes, noise_for, only_rounding
from pretrain.objectives import ViCLIP, ViLP

Pair = ViCLIP | ViLP

# How a model card says to use it.
EXAMPLE = """from transformers import AutoModel, AutoTokenizer
model = AutoModel.from_pretrained("PATH", trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("PATH", trust_remote_code=True)
words = tokenizer(["a man plays the guitar"], padding="max_length", truncation=True, return_tensors="pt")
model(pixel_values, words.input_ids)  # [B, texts], cosines over the temperature, of frames [B, T, 3, H, W]"""
CLEANED = "\n# it was trained on captions in lower case without , . ' ! ? \" ( ) * # : ; ~ and with spaces for - and /"


def to_transformers(model: Pair, folder: Path) -> str:
    """A folder for `AutoModel.from_pretrained(folder, trust_remote_code=True)` and `AutoTokenizer`, checked by loading.

    Beside it stands what is plain CLIP: `clip/`, a `CLIPModel` that takes a picture for a video of one frame, where a
    token is one frame deep; else `text/`, the text tower as a `CLIPTextModelWithProjection`.
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


def vision_sizes(e: ViCLIPVision) -> dict[str, int]:
    """The video tower's sizes in the words of transformers' configs."""
    return {**encoder_sizes(e), "projection_dim": e.out}


def text_config(t: CLIPText):
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
    """CLIP's tokenizer as transformers has it, from open_clip's vocabulary."""
    from transformers import CLIPTokenizerFast

    from models.tokenizers import byte_pairs

    bpe = byte_pairs()
    words = {word: number for word, number in bpe.encoder.items() if number < 49406}
    words |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    vocabulary.write_text(json.dumps(words, ensure_ascii=False), encoding="utf-8")
    lines = [" ".join(pair) for pair in sorted(bpe.bpe_ranks, key=bpe.bpe_ranks.get)]
    merges.write_text("#version: 0.2\n" + "\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizerFast(str(vocabulary), str(merges), model_max_length=context, pad_token="!")  # id 0
    tokenizer.save_pretrained(folder)


def save_plain_clip(model: Pair, folder: Path) -> str:
    """`clip/` or `text/` of `to_transformers`; returns what it wrote."""
    from transformers import CLIPConfig, CLIPModel, CLIPTextModelWithProjection

    e, sizes = model.encoder, vision_sizes(model.encoder)
    text, _ = to_theirs(clip_names.TRANSFORMERS_TEXT, _text_state(model.text))
    if e.tubelet > 1:
        plain = CLIPTextModelWithProjection(text_config(model.text))
        plain.load_state_dict(_live_names(plain, text))
        plain.save_pretrained(folder / "text")
        return "text/ as CLIPTextModelWithProjection"
    vision = {name: sizes[name] for name in sizes if name not in ("num_frames", "tubelet_size")}
    config = CLIPConfig(
        text_config=text_config(model.text).to_dict(),
        vision_config={**vision, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5},
        projection_dim=e.out,
    )
    plain = CLIPModel(config)
    state = {**e.state_dict(), "patch_embed.proj.weight": e.patch_embed.proj.weight.detach().squeeze(2)}
    del state["time.table"]  # a picture stands at the mean time
    state["pos_embed"] = torch.cat((e.pos_embed[:1], e.pos_embed[1:] + e.time.table.mean(0))).detach()
    theirs, unknown = to_theirs(clip_names.TRANSFORMERS, state)
    if unknown:
        raise ValueError(f"CLIP has no place for {unknown[0]}")
    scale = torch.tensor(math.log(1 / model.temperature.item()))
    plain.load_state_dict(_live_names(plain, {**theirs, **text, "logit_scale": scale}))
    plain.save_pretrained(folder / "clip")
    return "clip/ as CLIPModel for pictures"


def _text_state(text: CLIPText) -> dict[str, Tensor]:
    return {f"text.{name}": tensor for name, tensor in text.state_dict().items() if name != "mask_embed"}


def _live_names(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names on disk to those in memory, which differ by a prefix between versions of transformers."""
    live = set(module.state_dict())
    bare = {name.removeprefix("text_model.").removeprefix("vision_model."): name for name in live}
    found = {}
    for name, tensor in state.items():
        known = name if name in live else bare.get(name.removeprefix("text_model."), name)
        found[known] = tensor
    return found


@torch.no_grad()
def compare(model: Pair, theirs: nn.Module) -> float:
    """Largest difference of unit features on random video and texts; ValueError where it is not rounding."""
    e, theirs = model.encoder, theirs.eval()
    video = noise_for(e)
    ids = model.words.tokenizer(["a person plays the guitar", "snow"])
    pairs = [
        (e.feature_and_tokens(video)[0], theirs.get_video_features(video.transpose(1, 2))),
        (model.text(ids)[0], theirs.get_text_features(ids)),
    ]
    difference = max(
        (nn.functional.normalize(a, dim=-1) - nn.functional.normalize(b, dim=-1)).abs().max().item() for a, b in pairs
    )
    return only_rounding(difference, "model", 1e-5)
