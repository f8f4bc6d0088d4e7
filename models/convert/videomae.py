"""Names of VideoMAE weights: the official V2 repository's and transformers', against ours.

Ours: `encoder.*` (VideoViT), `decoder.*` (PixelDecoder), `fc_norm.*` and `head.*` (VideoClassifier).
"""

from models.convert.rules import Batched, Rules, with_suffixes


def official_blocks(ours: str, theirs: str) -> Rules:
    """The blocks of a `VideoViT`, with prefixes that end before the number."""
    modules = ("norm1", "norm2", "attn.proj", "mlp.fc1", "mlp.fc2")
    plain = {f"{ours}.{{i}}.{name}": f"{theirs}.{{i}}.{name}" for name in modules}
    single = ("attn.qkv.weight", "attn.q_bias", "attn.v_bias", "attn.scale")
    scales = {
        f"{ours}.{{i}}.ls1.gamma": f"{theirs}.{{i}}.gamma_1",
        f"{ours}.{{i}}.ls2.gamma": f"{theirs}.{{i}}.gamma_2",
    }
    return {**with_suffixes(plain), **{f"{ours}.{{i}}.{name}": f"{theirs}.{{i}}.{name}" for name in single}, **scales}


def official_encoder(theirs: str) -> Rules:
    """The encoder that VideoMAE V2 and UMT share; it has a position table only if that is learnt or resized."""
    return {
        "encoder.positions.table": Batched(f"{theirs}pos_embed"),
        **with_suffixes(
            {"encoder.patch_embed.proj": f"{theirs}patch_embed.proj", "encoder.norm": f"{theirs}norm"},
        ),
        **official_blocks("encoder.blocks", f"{theirs}blocks"),
    }


_DECODER = {
    "decoder.embed.weight": "encoder_to_decoder.weight",
    "decoder.mask_token": "mask_token",
    **with_suffixes({"decoder.norm": "decoder.norm", "decoder.head": "decoder.head"}),
}

# VideoMAE V2 `models/modeling_pretrain.py`: encoder and decoder.
OFFICIAL_PRETRAIN: Rules = {
    **official_encoder("encoder."),
    **_DECODER,
    **official_blocks("decoder.blocks", "decoder.blocks"),
}

# VideoMAE V2 `models/modeling_finetune.py`: the encoder without a prefix, `fc_norm` and `head`.
OFFICIAL_FINETUNE: Rules = {
    **official_encoder(""),
    **with_suffixes({"fc_norm": "fc_norm", "head": "head"}),
}


def _transformers_blocks(ours: str, theirs: str) -> Rules:
    attention = f"{theirs}.{{i}}.attention"
    return {
        **with_suffixes(
            {
                f"{ours}.{{i}}.norm1": f"{theirs}.{{i}}.layernorm_before",
                f"{ours}.{{i}}.norm2": f"{theirs}.{{i}}.layernorm_after",
                f"{ours}.{{i}}.attn.proj": f"{attention}.output.dense",
                f"{ours}.{{i}}.mlp.fc1": f"{theirs}.{{i}}.intermediate.dense",
                f"{ours}.{{i}}.mlp.fc2": f"{theirs}.{{i}}.output.dense",
            }
        ),
        f"{ours}.{{i}}.attn.qkv.weight": tuple(
            f"{attention}.attention.{part}.weight" for part in ("query", "key", "value")
        ),
        # The names on disk, which transformers 4 and 5 read; in memory, version 5 has query.bias and value.bias.
        f"{ours}.{{i}}.attn.q_bias": f"{attention}.attention.q_bias",
        f"{ours}.{{i}}.attn.v_bias": f"{attention}.attention.v_bias",
    }


def _transformers_encoder(theirs: str) -> Rules:
    return {
        **with_suffixes(
            {
                "encoder.patch_embed.proj": f"{theirs}embeddings.patch_embeddings.projection",
                "encoder.norm": f"{theirs}layernorm",
            }
        ),
        **_transformers_blocks("encoder.blocks", f"{theirs}encoder.layer"),
    }


# transformers `VideoMAEForPreTraining` and `VideoMAEForVideoClassification`.
TRANSFORMERS: Rules = {
    **_transformers_encoder("videomae."),
    **_DECODER,
    **_transformers_blocks("decoder.blocks", "decoder.decoder_layers"),
    **with_suffixes({"fc_norm": "fc_norm", "head": "classifier"}),
}

# transformers `VideoMAEModel`: the encoder without the prefix.
TRANSFORMERS_MODEL: Rules = _transformers_encoder("")


def on_disk_name(name: str) -> str:
    """One spelling of names that have two: transformers 5 has query.bias in memory and q_bias on disk; our encoder
    alone has ls1.gamma and positions.table, the official one gamma_1 and pos_embed."""
    if name == "positions.table":
        return "pos_embed"
    for memory, disk in (
        (".attention.query.bias", ".attention.q_bias"),
        (".attention.value.bias", ".attention.v_bias"),
        (".ls1.gamma", ".gamma_1"),
        (".ls2.gamma", ".gamma_2"),
    ):
        name = name.replace(memory, disk)
    return name


def our_scale_name(name: str) -> str:
    """Our name of an official layer scale, for official encoders without their decoder."""
    return name.replace(".gamma_1", ".ls1.gamma").replace(".gamma_2", ".ls2.gamma")
