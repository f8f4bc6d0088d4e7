"""The language model of a chat model: where it comes from, its LoRA, and checkpoints that leave out what is frozen."""

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from models.chat.language_model import LORA_TARGETS, add_lora, language_model
from models.fetch import local_path

STANDS_ON = "stands_on"  # in checkpoints: a hash of the frozen weights, which they do not hold
_SAMPLED = 4096  # values at each end of a tensor that count in the hash


@dataclass
class LanguageLoRA:
    """Low-rank adapters of a language model, by peft.

    Args:
        rank: of each; they are scaled by alpha / rank.
        dropout: on their input, in training.
        targets: last parts of the names of the adapted layers.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.1
    targets: list[str] = field(default_factory=lambda: list(LORA_TARGETS["mistral"]))


@dataclass
class Language:
    """A causal language model of transformers with its tokenizer.

    Args:
        config: `model_type` and sizes; a folder's must be the same.
        weights: a folder of transformers.
        random: instead of weights, a seed for random weights, equal in every process and every run.
        tokenizer: a folder of transformers with a fast tokenizer; by default `weights`.
        pad: the pad token, if the tokenizer has none.
        param_dtype: type in which the model is stored; LoRA stays in float32.
        lora: train low-rank adapters; None: none.
    """

    config: dict[str, Any]
    weights: str | None = None
    random: int | None = None
    tokenizer: str | None = None
    pad: str | None = None
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    lora: LanguageLoRA | None = None

    def build(self) -> nn.Module:
        """The model with its weights; on the meta device, where a recipe is inspected, of the configuration alone.

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: neither weights nor a seed, or both; or the folder holds a model of other sizes.
        """
        if (self.weights is None) == (self.random is None):
            raise ValueError(
                "a language model needs either weights, a folder of transformers, or random, a seed: set one of "
                "model.language.weights and .random"
            )
        dtype = getattr(torch, self.param_dtype)
        if self.weights is None or torch.empty(()).is_meta:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.random or 0)
                llm = language_model(self.config, dtype)
        else:
            llm = language_model(self.weights, dtype)
            self._check(llm)
        _untie(llm)
        if self.lora is None:
            return llm
        return add_lora(llm, self.lora.rank, self.lora.alpha, self.lora.dropout, self.lora.targets)

    def _check(self, llm: Any) -> None:
        for name, value in self.config.items():
            found = getattr(llm.config, name, None)
            if found != value and not isinstance(value, dict):
                raise ValueError(
                    f"the language model in {self.weights} has {name} {found}, and the recipe says {value}: set "
                    f"model.language.config.{name}, or take the recipe's model"
                )

    def load_tokenizer(self) -> Any:
        """The tokenizer, read at the first use. FileNotFoundError if its folder is not there."""
        folder = self.tokenizer or self.weights
        if folder is None:
            raise ValueError("a language model of random weights needs a tokenizer: set model.language.tokenizer")
        return _tokenizer(folder, self.pad)


@functools.cache
def _tokenizer(folder: str, pad: str | None) -> Any:
    from transformers import AutoTokenizer

    place = local_path(folder)
    if not place.is_dir():
        raise FileNotFoundError(f"no tokenizer at {folder}: give a folder of transformers (tokenizer.json)")
    tokenizer: Any = AutoTokenizer.from_pretrained(place, use_fast=True, trust_remote_code=False)
    if pad is not None:
        if tokenizer.convert_tokens_to_ids(pad) in (None, tokenizer.unk_token_id) and pad != tokenizer.unk_token:
            raise ValueError(f"the tokenizer in {folder} has no token {pad}: set model.language.pad to one")
        tokenizer.pad_token = pad
    return tokenizer


def _untie(llm: Any) -> None:
    """Give the output layer weights of its own: sharding and safetensors need one name for a parameter."""
    head, embeddings = llm.get_output_embeddings(), llm.get_input_embeddings()
    if head is not None and head.weight is embeddings.weight:
        head.weight = nn.Parameter(embeddings.weight.detach().clone())
    llm.config.tie_word_embeddings = False


def leave_out_frozen(llm: nn.Module) -> None:
    """From now on, states of `llm` are without its frozen parameters, and have their hash instead; loading a state
    leaves the frozen parameters as they are, and is a ValueError if it stands on others.

    The hash is a buffer: strategies that shard parameters, of which no process then has the whole, keep it.
    """
    llm.register_buffer(STANDS_ON, base_hash(llm))
    llm.register_state_dict_post_hook(_drop_frozen)
    llm.register_load_state_dict_pre_hook(_check_base)
    llm.register_load_state_dict_post_hook(_after_load)


def _frozen(llm: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in llm.named_parameters() if not parameter.requires_grad}


def _drop_frozen(llm: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
    for name in _frozen(llm):
        state.pop(prefix + name, None)


def _check_base(llm: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    saved, own = state.pop(prefix + STANDS_ON, None), llm.get_buffer(STANDS_ON)
    if saved is None or own.is_meta or not saved.any() or not own.any():
        return
    if not torch.equal(saved.cpu(), own.cpu()):
        raise ValueError(
            "the checkpoint was trained on another language model: set model.language.weights to the one "
            "that its recipe names"
        )


def _after_load(llm: nn.Module, incompatible: Any) -> None:
    """Frozen parameters, and the hash, may be missing; if some were loaded, the hash is made again."""
    frozen = _frozen(llm)
    left = [n for n in incompatible.missing_keys if n.partition("llm.")[2] not in (*frozen, STANDS_ON)]
    incompatible.missing_keys[:] = left
    if not any(_is_sharded(parameter) for parameter in frozen.values()):
        llm.get_buffer(STANDS_ON).copy_(base_hash(llm))


def _is_sharded(parameter: Tensor) -> bool:
    """By FSDP2 or by DeepSpeed's stage 3."""
    return isinstance(parameter, DTensor) or hasattr(parameter, "ds_id")


def base_hash(llm: nn.Module) -> Tensor:
    """A hash of the frozen parameters, uint8 `[16]`, whether LoRA is around them or not; 0: there is none, or they are
    on the meta device."""
    digest, frozen = hashlib.sha256(), _frozen(llm)
    named: Mapping[str, Tensor] = {_plain(name): p for name, p in frozen.items()}
    if not named or any(p.is_meta for p in named.values()):
        return torch.zeros(16, dtype=torch.uint8)
    for name, parameter in sorted(named.items()):
        flat = parameter.detach().flatten()
        ends = torch.cat((flat[:_SAMPLED], flat[-_SAMPLED:])).float().cpu()
        digest.update(f"{name} {tuple(parameter.shape)} ".encode())
        digest.update(ends.view(torch.uint8).numpy().data)
    return torch.tensor(list(digest.digest()[:16]), dtype=torch.uint8)


def _plain(name: str) -> str:
    return name.removeprefix("base_model.model.").replace(".base_layer.", ".")
