"""Names of InternVideo's weights: of the official multimodal model, its caption decoder and UniFormerV2, against ours.

Ours: `encoder.*` (UniFormerV2), `text.*` (CLIPText), `caption.*` (CaptionDecoder), `logit_scale`, and `head.*`
(UniFormerV2Classifier, whose norm is the encoder's). Official files also contain constants: zero biases of norms and
the frequencies of rotary positions. They are written on export and need not be loaded.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.convert import clip
from models.convert.rules import Rules, Single, Transposed, prefixed, with_suffixes


def _tower(theirs: str) -> Rules:
    """The video tower under a prefix of theirs, without its final norm and projection, against our bare names."""
    extractor, local = f"{theirs}transformer.dec.{{i}}", f"{theirs}transformer.resblocks.{{i}}.lmhra"
    clip_tower = clip.openai_vision(theirs)
    left_out = ("norm.weight", "norm.bias", "proj.weight")
    parts = {"norm": 0, "down": 1, "mix": 2, "up": 3}
    return {
        **{ours: name for ours, name in clip_tower.items() if ours not in left_out},
        **with_suffixes(
            {
                "extractors.{i}.place": f"{theirs}transformer.dpe.{{i}}",
                "extractors.{i}.norm1": f"{extractor}.ln_1",
                "extractors.{i}.norm2": f"{extractor}.ln_2",
                "extractors.{i}.norm_tokens": f"{extractor}.ln_3",
                "extractors.{i}.attn.proj": f"{extractor}.attn.out_proj",
                "extractors.{i}.mlp.fc1": f"{extractor}.mlp.c_fc",
                "extractors.{i}.mlp.fc2": f"{extractor}.mlp.c_proj",
            }
        ),
        "extractors.{i}.attn.qkv.weight": f"{extractor}.attn.in_proj_weight",
        "extractors.{i}.attn.qkv.bias": f"{extractor}.attn.in_proj_bias",
        "query": Single(f"{theirs}transformer.temporal_cls_token"),
        "balance": f"{theirs}transformer.balance",
        **with_suffixes(
            {
                f"blocks.{{i}}.local{which}.{ours}": f"{local}{which}.pos_embed.{number}"
                for which in (1, 2)
                for ours, number in parts.items()
            }
        ),
        **{
            f"blocks.{{i}}.local{which}.norm.{kind}": f"{local}{which}.pos_embed.0.{kind}"
            for which in (1, 2)
            for kind in ("running_mean", "running_var", "num_batches_tracked")
        },
    }


def _multimodal(theirs: str) -> Rules:
    """Both towers, the projections and the temperature, under a prefix of theirs."""
    return {
        **prefixed(_tower(f"{theirs}visual."), "encoder."),
        **with_suffixes({"encoder.norm": f"{theirs}visual_ln_post"}),
        "encoder.proj.weight": Transposed(f"{theirs}visual_proj"),
        **clip.openai_text(theirs),
        "text.mask_embed": Single(f"{theirs}text_mask_embedding"),
        "logit_scale": f"{theirs}logit_scale",
    }


def _caption(theirs: str) -> Rules:
    layer = f"{theirs}multimodal_layers.{{i}}"
    return {
        "caption.pool.queries": f"{theirs}visual_queries",
        "caption.pool.norm.weight": f"{theirs}visual_attn_pooler.norm.gamma",
        "caption.pool.norm_video.weight": f"{theirs}visual_attn_pooler.context_norm.gamma",
        "caption.pool.q.weight": f"{theirs}visual_attn_pooler.to_q.weight",
        "caption.pool.kv.weight": f"{theirs}visual_attn_pooler.to_kv.weight",
        "caption.pool.proj.weight": f"{theirs}visual_attn_pooler.to_out.weight",
        "caption.blocks.{i}.text.norm.weight": f"{layer}.0.fn.norm.gamma",
        "caption.blocks.{i}.text.fused.weight": f"{layer}.0.fn.fused_attn_ff_proj.weight",
        "caption.blocks.{i}.text.attn_out.weight": f"{layer}.0.fn.attn_out.weight",
        "caption.blocks.{i}.text.mlp_out.weight": f"{layer}.0.fn.ff_out.1.weight",
        "caption.blocks.{i}.video.norm.weight": f"{layer}.1.fn.norm.gamma",
        "caption.blocks.{i}.video.q.weight": f"{layer}.1.fn.to_q.weight",
        "caption.blocks.{i}.video.kv.weight": f"{layer}.1.fn.to_kv.weight",
        "caption.blocks.{i}.video.proj.weight": f"{layer}.1.fn.to_out.weight",
        "caption.blocks.{i}.video.fc1.weight": f"{layer}.1.fn.ff.0.weight",
        "caption.blocks.{i}.video.fc2.weight": f"{layer}.1.fn.ff.2.weight",
        **with_suffixes(
            {
                "caption.pool.norm_out": f"{theirs}visual_pooler_norm",
                "caption.norm": f"{theirs}text_norm",
                "caption.head_norm": f"{theirs}predictor.0",
                "caption.dense": f"{theirs}predictor.1",
                "caption.dense_norm": f"{theirs}predictor.3",
                "caption.head": f"{theirs}predictor.4",
            }
        ),
    }


# InternVideo1 `InternVideo/clip_utils/model.py` in CoTrain's Lightning checkpoints: `clip.` and `caption_decoder.`.
OFFICIAL: Rules = {**_multimodal("clip."), **_caption("caption_decoder.")}

# The same model alone, and the caption decoder alone.
OFFICIAL_BARE: Rules = _multimodal("")
CAPTION: Rules = _caption("")

# UniFormerV2 `slowfast/models/uniformerv2_model.py`.
UNIFORMERV2: Rules = {
    **prefixed(_tower(""), "encoder."),
    **with_suffixes({"encoder.norm": "transformer.proj.0", "head": "transformer.proj.2"}),
}

_GAMMA, _BETA, _FUSED, _FREQUENCIES = ".gamma", ".beta", ".fused_attn_ff_proj.weight", ".rotary_emb.inv_freq"


def constants(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The constants that official files contain, computed from the weights of a caption decoder."""
    made = {}
    for name, tensor in theirs.items():
        if name.endswith(_GAMMA):
            made[name.removesuffix(_GAMMA) + _BETA] = torch.zeros_like(tensor)
        if name.endswith(_FUSED):
            width = tensor.shape[1]
            half = (tensor.shape[0] - 9 * width) // 4  # rows: queries, one key and value, a gated MLP of 2 x 4
            frequencies = 1.0 / 10000 ** (torch.arange(0, 2 * half, 2).float() / (2 * half))
            made[name.removesuffix(_FUSED) + _FREQUENCIES] = frequencies
    return made


def constant_names(theirs: Mapping[str, Tensor], used: set[str]) -> set[str]:
    """Names of a checkpoint's constants: those of the `used` weights whose values equal the computed ones."""
    made = constants({name: theirs[name] for name in used})
    return {n for n, t in made.items() if n in theirs and torch.allclose(theirs[n].to(t), t, atol=1e-6)}
