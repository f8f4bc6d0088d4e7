"""Names of CLIP's vision tower: OpenAI's (which open_clip shares) and transformers', against ours (CLIPVision)."""

from models.convert.rules import Rules, Transposed, with_suffixes


def _openai(theirs: str) -> Rules:
    block = f"{theirs}transformer.resblocks.{{i}}"
    return {
        "patch_embed.proj.weight": f"{theirs}conv1.weight",
        "cls_token": f"{theirs}class_embedding",
        "pos_embed": f"{theirs}positional_embedding",
        "proj.weight": Transposed(f"{theirs}proj"),
        **with_suffixes(
            {
                "norm_pre": f"{theirs}ln_pre",
                "norm": f"{theirs}ln_post",
                "blocks.{i}.norm1": f"{block}.ln_1",
                "blocks.{i}.norm2": f"{block}.ln_2",
                "blocks.{i}.attn.proj": f"{block}.attn.out_proj",
                "blocks.{i}.mlp.fc1": f"{block}.mlp.c_fc",
                "blocks.{i}.mlp.fc2": f"{block}.mlp.c_proj",
            }
        ),
        "blocks.{i}.attn.qkv.weight": f"{block}.attn.in_proj_weight",
        "blocks.{i}.attn.qkv.bias": f"{block}.attn.in_proj_bias",
    }


# OpenAI's release and open_clip: image and text tower together.
OPENAI: Rules = _openai("visual.")

# The vision tower alone, as the unmasked teacher's repository keeps it.
OPENAI_VISUAL: Rules = _openai("")


def _transformers(theirs: str) -> Rules:
    layer = f"{theirs}encoder.layers.{{i}}"
    return {
        "patch_embed.proj.weight": f"{theirs}embeddings.patch_embedding.weight",
        "cls_token": f"{theirs}embeddings.class_embedding",
        "pos_embed": f"{theirs}embeddings.position_embedding.weight",
        "proj.weight": "visual_projection.weight",
        **with_suffixes(
            {
                "norm_pre": f"{theirs}pre_layrnorm",  # so spelt
                "norm": f"{theirs}post_layernorm",
                "blocks.{i}.norm1": f"{layer}.layer_norm1",
                "blocks.{i}.norm2": f"{layer}.layer_norm2",
                "blocks.{i}.attn.qkv": tuple(f"{layer}.self_attn.{part}_proj" for part in "qkv"),
                "blocks.{i}.attn.proj": f"{layer}.self_attn.out_proj",
                "blocks.{i}.mlp.fc1": f"{layer}.mlp.fc1",
                "blocks.{i}.mlp.fc2": f"{layer}.mlp.fc2",
            }
        ),
    }


# transformers `CLIPModel`, `CLIPVisionModelWithProjection` and `CLIPVisionModel` (without the projection).
TRANSFORMERS: Rules = _transformers("vision_model.")

# transformers 5's `CLIPVisionModel` in memory: without the prefix.
TRANSFORMERS_MODEL: Rules = _transformers("")
