"""Names of BERT's weights: transformers' (which UMT's second stage took over), against ours (Bert), `text.*`."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.convert.rules import Rules, with_suffixes


def _attention(mine: str, theirs: str) -> Rules:
    return with_suffixes(
        {
            f"{mine}.q": f"{theirs}.self.query",
            f"{mine}.kv": (f"{theirs}.self.key", f"{theirs}.self.value"),
            f"{mine}.proj": f"{theirs}.output.dense",
            f"{mine}.norm": f"{theirs}.output.LayerNorm",
        }
    )


def tower(mine: str, theirs: str) -> Rules:
    """A tower without its head, under a prefix of ours and one of theirs."""
    block, layer = f"{mine}blocks.{{i}}", f"{theirs}encoder.layer.{{i}}"
    return {
        f"{mine}token_embed.weight": f"{theirs}embeddings.word_embeddings.weight",
        f"{mine}pos_embed": f"{theirs}embeddings.position_embeddings.weight",
        f"{mine}type_embed.weight": f"{theirs}embeddings.token_type_embeddings.weight",
        **with_suffixes({f"{mine}norm": f"{theirs}embeddings.LayerNorm"}),
        **_attention(f"{block}.attn", f"{layer}.attention"),
        **_attention(f"{block}.cross", f"{layer}.crossattention"),
        **with_suffixes(
            {
                f"{block}.mlp.fc1": f"{layer}.intermediate.dense",
                f"{block}.mlp.fc2": f"{layer}.output.dense",
                f"{block}.mlp.norm": f"{layer}.output.LayerNorm",
            }
        ),
    }


def head(mine: str, theirs: str) -> Rules:
    """The head that guesses words; it is lent the word table, which their files repeat: see `repeated`."""
    return {
        f"{mine}head.bias": f"{theirs}cls.predictions.bias",
        **with_suffixes(
            {
                f"{mine}head.dense": f"{theirs}cls.predictions.transform.dense",
                f"{mine}head.norm": f"{theirs}cls.predictions.transform.LayerNorm",
            }
        ),
    }


# transformers `BertForPreTraining` and `BertForMaskedLM`, such as bert-base-uncased; and `BertModel`.
TRANSFORMERS: Rules = {**tower("text.", "bert."), **head("text.", "")}
TRANSFORMERS_MODEL: Rules = tower("text.", "")


def repeats(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What their files of a tower with a head hold twice: the word table and the head's bias, once more as a layer."""
    again = {}
    for name, bias in theirs.items():
        if name.endswith("cls.predictions.bias"):
            before = name.removesuffix("cls.predictions.bias")
            again[f"{before}cls.predictions.decoder.weight"] = theirs[_table(before, theirs)]
            again[f"{before}cls.predictions.decoder.bias"] = bias
    return again


def repeated(theirs: Mapping[str, Tensor]) -> set[str]:
    """Names of tensors that say nothing new: what `repeats` makes again, where it is equal, and numbers of places."""
    known = {name for name, again in repeats(theirs).items() if name in theirs and torch.equal(theirs[name], again)}
    for name, tensor in theirs.items():
        if name.endswith("embeddings.position_ids") and torch.equal(
            tensor.flatten(), torch.arange(tensor.numel(), dtype=tensor.dtype)
        ):
            known.add(name)
    return known


def _table(before: str, theirs: Mapping[str, Tensor]) -> str:
    tables = [f"{before}{tower}embeddings.word_embeddings.weight" for tower in ("bert.", "")]
    return next((name for name in tables if name in theirs), tables[0])


def on_disk_name(name: str) -> str:
    """Older files of BERT call a norm's weight and bias gamma and beta."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
