"""Names of BERT's weights: transformers' (which UMT's second stage uses too), against ours (Bert), `text.*`."""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.convert.rules import Rules, with_suffixes


def _attention(ours: str, theirs: str) -> Rules:
    return with_suffixes(
        {
            f"{ours}.q": f"{theirs}.self.query",
            f"{ours}.kv": (f"{theirs}.self.key", f"{theirs}.self.value"),
            f"{ours}.proj": f"{theirs}.output.dense",
            f"{ours}.norm": f"{theirs}.output.LayerNorm",
        }
    )


def tower(ours: str, theirs: str) -> Rules:
    """A tower without its head, with a prefix of our names and one of theirs."""
    block, layer = f"{ours}blocks.{{i}}", f"{theirs}encoder.layer.{{i}}"
    return {
        f"{ours}token_embed.weight": f"{theirs}embeddings.word_embeddings.weight",
        f"{ours}pos_embed": f"{theirs}embeddings.position_embeddings.weight",
        f"{ours}type_embed.weight": f"{theirs}embeddings.token_type_embeddings.weight",
        **with_suffixes({f"{ours}norm": f"{theirs}embeddings.LayerNorm"}),
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


def head(ours: str, theirs: str) -> Rules:
    """The head for masked tokens, tied to the token embeddings; their files contain both: see `tied_copies`."""
    return {
        f"{ours}head.bias": f"{theirs}cls.predictions.bias",
        **with_suffixes(
            {
                f"{ours}head.dense": f"{theirs}cls.predictions.transform.dense",
                f"{ours}head.norm": f"{theirs}cls.predictions.transform.LayerNorm",
            }
        ),
    }


# transformers `BertForPreTraining` and `BertForMaskedLM`, such as bert-base-uncased; and `BertModel`.
TRANSFORMERS: Rules = {**tower("text.", "bert."), **head("text.", "")}
TRANSFORMERS_MODEL: Rules = tower("text.", "")


def tied_copies(theirs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that their files contain again as the head's linear layer: token embeddings and bias."""
    copies = {}
    for name, bias in theirs.items():
        if name.endswith("cls.predictions.bias"):
            prefix = name.removesuffix("cls.predictions.bias")
            copies[f"{prefix}cls.predictions.decoder.weight"] = theirs[_token_embeddings(prefix, theirs)]
            copies[f"{prefix}cls.predictions.decoder.bias"] = bias
    return copies


def redundant_names(theirs: Mapping[str, Tensor]) -> set[str]:
    """Names of tensors that need not be loaded: `tied_copies`, if they are equal, and ascending position ids."""
    names = {name for name, copy in tied_copies(theirs).items() if name in theirs and torch.equal(theirs[name], copy)}
    for name, tensor in theirs.items():
        if name.endswith("embeddings.position_ids") and torch.equal(
            tensor.flatten(), torch.arange(tensor.numel(), dtype=tensor.dtype)
        ):
            names.add(name)
    return names


def _token_embeddings(prefix: str, theirs: Mapping[str, Tensor]) -> str:
    names = [f"{prefix}{tower}embeddings.word_embeddings.weight" for tower in ("bert.", "")]
    return next((name for name in names if name in theirs), names[0])


def on_disk_name(name: str) -> str:
    """Renames a norm's gamma and beta of older BERT files to weight and bias."""
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")
