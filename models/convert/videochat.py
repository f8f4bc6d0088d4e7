"""Names of VideoChat's and VideoChat2's weights, against ours (`VideoChat`, `Alignment`, `QFormer`, `VideoChatViT`).

Ours: `encoder.*`, `norm.*`, `qformer.*`, `queries`, `extra_queries`, `projector.*`, `llm.*`; the first stage also
`frame_embed`, `temperature`, `video_proj.*`, `text_proj.*`, `match_head.*`. Files of later stages hold only what was
trained; `allowed_gaps.require_loaded` refuses others' gaps.
"""

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from models.chat.qformer import QFormer
from models.convert import bert
from models.convert.read import read_tensors
from models.convert.rules import Batched, FrameTable, Rules, Single, to_theirs, with_suffixes
from models.convert.rules import to_ours as rename
from models.convert.videomae import official_blocks, official_encoder

Family = Literal["llama", "mistral", "phi"]
FAMILIES: tuple[Family, ...] = ("llama", "mistral", "phi")
Renamed = tuple[str, dict[str, Tensor], dict[str, tuple[str, ...]]]


def qformer(theirs: str) -> Rules:
    """The Q-Former, with its head for captions; the prefix of theirs ends before `bert`."""
    layer, ours = f"{theirs}bert.encoder.layer.{{i}}", "qformer.layers.{i}"
    parts: dict[str, str] = {"qformer.embeddings.layernorm": f"{theirs}bert.embeddings.LayerNorm"}
    for kind in ("attention", "crossattention"):
        for part in ("query", "key", "value"):
            parts[f"{ours}.{kind}.attention.{part}"] = f"{layer}.{kind}.self.{part}"
        for part in ("dense", "LayerNorm"):
            parts[f"{ours}.{kind}.output.{part}"] = f"{layer}.{kind}.output.{part}"
    for kind in ("", "_query"):
        parts[f"{ours}.intermediate{kind}.dense"] = f"{layer}.intermediate{kind}.dense"
        for part in ("dense", "LayerNorm"):
            parts[f"{ours}.output{kind}.{part}"] = f"{layer}.output{kind}.{part}"
    tables = ("word_embeddings.weight", "position_embeddings.weight")
    return {
        **with_suffixes(parts),
        **{f"qformer.embeddings.{table}": f"{theirs}bert.embeddings.{table}" for table in tables},
        **bert.head("qformer.", theirs),
    }


def videochat_encoder(theirs: str) -> Rules:
    """VideoChat's encoder; the prefix of theirs ends before `blocks`."""
    reader = f"{theirs}gmhra.{{i}}"
    modules = {
        "place": "dpe",
        "norm1": "ln_1",
        "norm2": "ln_2",
        "norm_tokens": "ln_3",
        "attn.proj": "attn.out_proj",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
    }
    return {
        "encoder.cls_token": Single(f"{theirs}cls_token"),
        "encoder.pos_embed": Batched(f"{theirs}pos_embed"),
        "encoder.video_token": Single(f"{theirs}gmhra_cls_token"),
        **with_suffixes({"encoder.patch_embed.proj": f"{theirs}patch_embed.proj"}),
        **official_blocks("encoder.blocks", f"{theirs}blocks"),
        **with_suffixes({f"encoder.readers.{{i}}.{ours}": f"{reader}.{name}" for ours, name in modules.items()}),
        "encoder.readers.{i}.attn.qkv.weight": f"{reader}.attn.in_proj_weight",
        "encoder.readers.{i}.attn.qkv.bias": f"{reader}.attn.in_proj_bias",
    }


_QUERIES: Rules = {"queries": Batched("query_tokens"), "extra_queries": Batched("extra_query_tokens")}

# VideoChat2 `models/`: all stages, without the language model and its projector.
VIDEOCHAT2: Rules = {
    **official_encoder("vision_encoder.encoder."),
    **with_suffixes(
        {
            "norm": "vision_layernorm",
            "video_proj": "vision_proj",
            "text_proj": "text_proj",
            "match_head": "itm_head",
        }
    ),
    **qformer("qformer."),
    **_QUERIES,
    "temperature": "temp",
    "frame_embed": FrameTable("vision_temp_embed"),
}
# VideoChat `models/videochat.py`.
VIDEOCHAT: Rules = {
    **videochat_encoder("visual_encoder."),
    **with_suffixes({"norm": "ln_vision"}),
    **qformer("Qformer."),
    **_QUERIES,
}


def to_ours(theirs: Mapping[str, Tensor]) -> Renamed | None:
    """The layout's name, the tensors by our names, and the foreign names of each; None: of another family."""
    marker = "bert.encoder.layer.0.intermediate_query.dense.weight"
    if "gmhra_cls_token" in theirs:
        return "official VideoChat, encoder alone", *rename(videochat_encoder(""), theirs)
    if marker in theirs:
        return "official VideoChat2, Q-Former alone", *rename(qformer(""), theirs)
    for name, prefix, rules in (
        ("official VideoChat2", "qformer.", VIDEOCHAT2),
        ("official VideoChat", "Qformer.", VIDEOCHAT),
    ):
        if prefix + marker in theirs or (name == "official VideoChat" and "visual_encoder.gmhra_cls_token" in theirs):
            family = next(
                (f for f in FAMILIES if any(n.startswith((f"{f}_model.", f"{f}_proj.")) for n in theirs)), None
            )
            renamed, origin = rename({**rules, **_projector(family)}, theirs)
            for key in theirs if family else ():
                if key.startswith(f"{family}_model."):
                    ours = "llm." + key.removeprefix(f"{family}_model.")
                    renamed[ours], origin[ours] = theirs[key], (key,)
            return name, renamed, origin
    return None


def to_official(
    state: Mapping[str, Tensor], family: Family | None = None, first: bool = False
) -> tuple[dict[str, Tensor], list[str]]:
    """Our state dict in the official layout, and those of our names that it does not have.

    Args:
        family: of the language model, in whose names its weights are; None: there is none (the first stage).
        first: VideoChat's layout instead of VideoChat2's.
    """
    theirs, unknown = to_theirs({**(VIDEOCHAT if first else VIDEOCHAT2), **_projector(family)}, state)
    for name in list(unknown) if family else ():
        if name.startswith("llm."):
            theirs[f"{family}_model." + name.removeprefix("llm.").replace(".base_layer.", ".")] = state[name]
            unknown.remove(name)
    return {**theirs, **bert.tied_copies(theirs)}, unknown


def _projector(family: str | None) -> Rules:
    return with_suffixes({"projector": f"{family}_proj"}) if family else {}


def fit_language_model(
    ours: dict[str, Tensor], origin: dict[str, tuple[str, ...]], target: Mapping[str, Tensor], where: str
) -> tuple[dict[str, Tensor], dict[str, tuple[str, ...]]]:
    """The weights of a language model by the names that they have in the model, which is adapted by LoRA or not.

    peft puts a prefix before all names, and newer versions `.base_layer` into those of adapted layers.

    Raises:
        ValueError: the weights are of a model that was adapted twice.
    """
    if not any(name.startswith("llm.") for name in ours):
        return ours, origin
    if any(2 * _ADAPTED in name for name in ours):
        raise ValueError(
            f"{where} is of a language model that was wrapped by LoRA twice ({2 * _ADAPTED} in its names): save it "
            "again from a model that is wrapped once"
        )
    names = {_plain(name): name for name in target if name.startswith("llm.")}
    place = {name: name if name in target else names.get(_plain(name), name) for name in ours}
    return {place[name]: ours[name] for name in ours}, {place[name]: origin[name] for name in ours}


_ADAPTED = "base_model.model."


def _plain(name: str) -> str:
    return name.replace(f"llm.{_ADAPTED}", "llm.").replace(".base_layer.", ".")


def without_last_blocks(ours: dict[str, Tensor], depth: int) -> dict[str, Tensor]:
    """The weights without a decoder, and without the encoder's blocks from `depth` on: VideoChat2 leaves the last one
    of UMT's encoder out."""

    def is_left(name: str) -> bool:
        part, kind, number = (*name.split("."), "", "")[:3]
        return part != "decoder" and not ((part, kind) == ("encoder", "blocks") and int(number) >= depth)

    return {name: tensor for name, tensor in ours.items() if is_left(name)}


def load_bert(model: QFormer, path: str) -> None:
    """Load BERT's weights into a Q-Former's text branch and self-attention, as VideoChat2's first stage starts.

    Tokens that BERT does not have, such as [DEC], keep their random embeddings.

    Raises:
        FileNotFoundError, ValueError: no checkpoint, or not one of a BERT of the Q-Former's sizes.
    """
    theirs = {}
    for name, tensor in read_tensors(path).items():
        name = name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
        theirs[name if name.startswith("cls.") else "bert." + name.removeprefix("bert.")] = tensor
    ours = {name.removeprefix("qformer."): tensor for name, tensor in rename(qformer(""), theirs)[0].items()}
    target, table = model.state_dict(), "embeddings.word_embeddings.weight"
    for name in [table, "head.bias"]:
        if name in ours and name in target and len(ours[name]) < len(target[name]):
            ours[name] = torch.cat((ours[name], target[name][len(ours[name]) :]))
    needed = [name for name in target if not any(part in name for part in ("crossattention", "_query", "head."))]
    wrong = [name for name in needed if name not in ours or ours[name].shape != target[name].shape]
    if wrong:
        raise ValueError(f"{path} is no BERT of the Q-Former's sizes: {wrong[0]} is missing or has another shape")
    fits = {name: t for name, t in ours.items() if name in target and t.shape == target[name].shape}
    model.load_state_dict(fits, strict=False)


def constant_names(theirs: Mapping[str, Tensor]) -> set[str]:
    """Names of tensors that follow from a language model's configuration: old files of Llama hold them."""
    return {name for name in theirs if name.endswith(".rotary_emb.inv_freq")}
