"""Names of CLIP's towers: OpenAI's (which open_clip shares) and transformers', against ours (CLIPVision, CLIPText)."""

from models.convert.rules import Rules, Transposed, with_suffixes


def _openai_blocks(mine: str, theirs: str) -> Rules:
    block = f"{theirs}transformer.resblocks.{{i}}"
    return {
        **with_suffixes(
            {
                f"{mine}blocks.{{i}}.norm1": f"{block}.ln_1",
                f"{mine}blocks.{{i}}.norm2": f"{block}.ln_2",
                f"{mine}blocks.{{i}}.attn.proj": f"{block}.attn.out_proj",
                f"{mine}blocks.{{i}}.mlp.fc1": f"{block}.mlp.c_fc",
                f"{mine}blocks.{{i}}.mlp.fc2": f"{block}.mlp.c_proj",
            }
        ),
        f"{mine}blocks.{{i}}.attn.qkv.weight": f"{block}.attn.in_proj_weight",
        f"{mine}blocks.{{i}}.attn.qkv.bias": f"{block}.attn.in_proj_bias",
    }


def openai_vision(theirs: str) -> Rules:
    """The vision tower under a prefix of theirs, against our bare names."""
    return {
        "patch_embed.proj.weight": f"{theirs}conv1.weight",
        "cls_token": f"{theirs}class_embedding",
        "pos_embed": f"{theirs}positional_embedding",
        "proj.weight": Transposed(f"{theirs}proj"),
        **with_suffixes({"norm_pre": f"{theirs}ln_pre", "norm": f"{theirs}ln_post"}),
        **_openai_blocks("", theirs),
    }


def openai_text(theirs: str) -> Rules:
    """The text tower under a prefix of theirs, against ours, `text.*`."""
    return {
        "text.token_embed.weight": f"{theirs}token_embedding.weight",
        "text.pos_embed": f"{theirs}positional_embedding",
        "text.proj.weight": Transposed(f"{theirs}text_projection"),
        **with_suffixes({"text.norm": f"{theirs}ln_final"}),
        **_openai_blocks("text.", theirs),
    }


# OpenAI's release and open_clip: image and text tower in one file.
OPENAI: Rules = openai_vision("visual.")
OPENAI_TEXT: Rules = openai_text("")

# The vision tower alone, as the unmasked teacher's repository keeps it.
OPENAI_VISUAL: Rules = openai_vision("")


def _transformers_blocks(mine: str, theirs: str) -> Rules:
    layer = f"{theirs}encoder.layers.{{i}}"
    return with_suffixes(
        {
            f"{mine}blocks.{{i}}.norm1": f"{layer}.layer_norm1",
            f"{mine}blocks.{{i}}.norm2": f"{layer}.layer_norm2",
            f"{mine}blocks.{{i}}.attn.qkv": tuple(f"{layer}.self_attn.{part}_proj" for part in "qkv"),
            f"{mine}blocks.{{i}}.attn.proj": f"{layer}.self_attn.out_proj",
            f"{mine}blocks.{{i}}.mlp.fc1": f"{layer}.mlp.fc1",
            f"{mine}blocks.{{i}}.mlp.fc2": f"{layer}.mlp.fc2",
        }
    )


def _transformers_vision(theirs: str) -> Rules:
    return {
        "patch_embed.proj.weight": f"{theirs}embeddings.patch_embedding.weight",
        "cls_token": f"{theirs}embeddings.class_embedding",
        "pos_embed": f"{theirs}embeddings.position_embedding.weight",
        "proj.weight": "visual_projection.weight",
        **with_suffixes(
            {
                "norm_pre": f"{theirs}pre_layrnorm",  # so spelt
                "norm": f"{theirs}post_layernorm",
            }
        ),
        **_transformers_blocks("", theirs),
    }


# transformers `CLIPModel`, `CLIPVisionModelWithProjection` and `CLIPVisionModel` (without the projection).
TRANSFORMERS: Rules = _transformers_vision("vision_model.")

# transformers 5's `CLIPVisionModel` in memory: without the prefix.
TRANSFORMERS_MODEL: Rules = _transformers_vision("")

# transformers `CLIPModel` and `CLIPTextModelWithProjection`.
TRANSFORMERS_TEXT: Rules = {
    "text.token_embed.weight": "text_model.embeddings.token_embedding.weight",
    "text.pos_embed": "text_model.embeddings.position_embedding.weight",
    "text.proj.weight": "text_projection.weight",
    **with_suffixes({"text.norm": "text_model.final_layer_norm"}),
    **_transformers_blocks("text.", "text_model."),
}
