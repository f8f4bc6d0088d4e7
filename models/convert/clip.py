"""Names of CLIP's towers: OpenAI's (which open_clip shares) and transformers', against ours (CLIPVision, CLIPText).

One table holds the names of both layouts. Otherwise they differ twice: OpenAI keeps q, k and v in one parameter,
transformers in three layers; OpenAI's projection to the shared width is a transposed matrix inside the tower,
transformers' is a linear layer outside it.
"""

from collections.abc import Mapping

from models.convert.rules import Rules, Transposed, prefixed, with_suffixes

_OPENAI, _TRANSFORMERS = 0, 1  # columns of the tables

# Ours: OpenAI's, transformers'.
Table = Mapping[str, tuple[str, ...]]

_VISION: Table = {
    "patch_embed.proj.weight": ("conv1.weight", "embeddings.patch_embedding.weight"),
    "cls_token": ("class_embedding", "embeddings.class_embedding"),
    "pos_embed": ("positional_embedding", "embeddings.position_embedding.weight"),
}
_VISION_LAYERS: Table = {
    "norm_pre": ("ln_pre", "pre_layrnorm"),  # transformers spells it so
    "norm": ("ln_post", "post_layernorm"),
}
_TEXT: Table = {
    "token_embed.weight": ("token_embedding.weight", "embeddings.token_embedding.weight"),
    "pos_embed": ("positional_embedding", "embeddings.position_embedding.weight"),
}
_TEXT_LAYERS: Table = {"norm": ("ln_final", "final_layer_norm")}
_BLOCK_LAYERS: Table = {
    "norm1": ("ln_1", "layer_norm1"),
    "norm2": ("ln_2", "layer_norm2"),
    "attn.proj": ("attn.out_proj", "self_attn.out_proj"),
    "mlp.fc1": ("mlp.c_fc", "mlp.fc1"),
    "mlp.fc2": ("mlp.c_proj", "mlp.fc2"),
}
_BLOCK = "transformer.resblocks.{i}.", "encoder.layers.{i}."
_QKV: tuple[Rules, Rules] = (
    {"attn.qkv.weight": "attn.in_proj_weight", "attn.qkv.bias": "attn.in_proj_bias"},
    with_suffixes({"attn.qkv": tuple(f"self_attn.{part}_proj" for part in "qkv")}),
)


def _tower(parameters: Table, layers: Table, layout: int) -> Rules:
    """A tower without its projection in one layout, under no prefix."""
    block = {
        **with_suffixes({ours: theirs[layout] for ours, theirs in _BLOCK_LAYERS.items()}),
        **_QKV[layout],
    }
    return {
        **{ours: theirs[layout] for ours, theirs in parameters.items()},
        **with_suffixes({ours: theirs[layout] for ours, theirs in layers.items()}),
        **prefixed(block, "blocks.{i}.", _BLOCK[layout]),
    }


def openai_vision(theirs: str) -> Rules:
    """The vision tower under a prefix of theirs, against our bare names."""
    tower = _tower(_VISION, _VISION_LAYERS, _OPENAI)
    return prefixed({**tower, "proj.weight": Transposed("proj")}, "", theirs)


def openai_text(theirs: str) -> Rules:
    """The text tower under a prefix of theirs, against ours, `text.*`."""
    tower = _tower(_TEXT, _TEXT_LAYERS, _OPENAI)
    return prefixed({**tower, "proj.weight": Transposed("text_projection")}, "text.", theirs)


# OpenAI's release and open_clip: image and text tower in one file.
OPENAI: Rules = openai_vision("visual.")
OPENAI_TEXT: Rules = openai_text("")

# The vision tower alone, as the unmasked teacher's repository keeps it.
OPENAI_VISUAL: Rules = openai_vision("")


def _transformers_vision(theirs: str) -> Rules:
    tower = _tower(_VISION, _VISION_LAYERS, _TRANSFORMERS)
    return {**prefixed(tower, "", theirs), "proj.weight": "visual_projection.weight"}


# transformers `CLIPModel`, `CLIPVisionModelWithProjection` and `CLIPVisionModel` (without the projection).
TRANSFORMERS: Rules = _transformers_vision("vision_model.")

# transformers 5's `CLIPVisionModel` in memory: without the prefix.
TRANSFORMERS_MODEL: Rules = _transformers_vision("")

# transformers `CLIPModel` and `CLIPTextModelWithProjection`.
TRANSFORMERS_TEXT: Rules = {
    **prefixed(_tower(_TEXT, _TEXT_LAYERS, _TRANSFORMERS), "text.", "text_model."),
    "text.proj.weight": "text_projection.weight",
}
