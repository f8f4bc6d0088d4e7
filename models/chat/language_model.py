"""Causal language models of transformers: from a folder or a configuration, frozen, with LoRA by peft."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.fetch import local_path

# What VideoChat2's releases adapt: peft's default for Vicuna's Llama, all projections and the output for the others.
LORA_TARGETS: dict[str, tuple[str, ...]] = {
    "vicuna": ("q_proj", "v_proj"),
    "mistral": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head"),
}


def language_model(source: str | Path | dict[str, Any], dtype: torch.dtype = torch.float32) -> nn.Module:
    """A causal language model of transformers.

    Args:
        source: a folder of transformers, or one of the hub (see `models.fetch`), whose weights are loaded; or a
            configuration with a `model_type`, of which a model with random weights is made.
        dtype: of its weights.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: a configuration without a model type, or with an option that this type does not have.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if isinstance(source, dict):
        options = dict(source)
        kind = options.pop("model_type", None)
        if kind is None:
            raise ValueError("a language model's configuration names its model_type, such as llama or mistral")
        unknown = sorted(options.keys() - AutoConfig.for_model(kind).to_dict().keys())
        if unknown:  # transformers would keep it without a use
            raise ValueError(f"a configuration of {kind} has no {unknown[0]}: remove it, or correct its name")
        config = AutoConfig.for_model(kind, **options)
        pad = getattr(config, "pad_token_id", None)
        if "pad_token_id" not in options and pad is not None and pad >= config.vocab_size:
            config.pad_token_id = None  # the type's default, which a small vocabulary does not have
        return AutoModelForCausalLM.from_config(config, dtype=dtype)
    source = local_path(source)
    if not source.is_dir():
        raise FileNotFoundError(f"no language model at {source}: give a folder of transformers (config.json, weights)")
    # Without the flag, transformers asks on a terminal whether to run code that lies in the folder.
    return AutoModelForCausalLM.from_pretrained(source, dtype=dtype, trust_remote_code=False)


def add_lora(
    model: nn.Module,
    rank: int = 16,
    alpha: int = 32,
    dropout: float = 0.1,
    targets: Sequence[str] = LORA_TARGETS["mistral"],
) -> nn.Module:
    """A language model with low-rank adapters, by peft; only these are trained, scaled by alpha / rank.

    Args:
        targets: last parts of the names of the adapted layers.

    Raises:
        ValueError: the model has adapters already, or none of its layers has one of these names.
    """
    if any(".lora_" in name for name, _ in model.named_parameters()):
        raise ValueError(
            "the language model has LoRA already: wrapped twice, its weights would load nowhere. Add it once"
        )
    from peft import LoraConfig, get_peft_model

    lasts = {name.rpartition(".")[2] for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}
    absent = [target for target in targets if target not in lasts]
    if absent:
        raise ValueError(
            f"the language model has no layer {absent[0]}: choose LoRA's targets among {', '.join(sorted(lasts))}"
        )
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, target_modules=list(targets), task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def width_of(model: Any) -> int:
    """Channels of a language model's token embeddings."""
    return embeddings_of(model).weight.shape[1]


def embeddings_of(model: Any) -> nn.Embedding:
    """A language model's token embeddings."""
    return model.get_input_embeddings()


def context_of(model: Any) -> int | None:
    """The most tokens that a language model was made for; None: it does not say."""
    return getattr(model.config, "max_position_embeddings", None)


def label_loss(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy of labels `[B, L]`, each given the logits `[B, L, V]` of the place before it, in float32.

    Args:
        labels: -100 where nothing is learnt; 0 if that is everywhere.
        smoothing: of the targets; 0.1 for the captions of VideoChat2's first stage.
    """
    return target_loss(logits[:, :-1], labels[:, 1:], smoothing)


def target_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross entropy of targets `[B, K]` given their logits `[B, K, V]`, in float32; see `label_loss`."""
    scores, classes = logits.float().flatten(0, 1), targets.flatten()
    total = F.cross_entropy(scores, classes, ignore_index=-100, label_smoothing=smoothing, reduction="sum")
    return total / (classes != -100).sum().clamp(min=1)
