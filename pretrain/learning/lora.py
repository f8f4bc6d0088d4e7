"""LoRA: trains low-rank additions to linear layers that a pattern names, by the peft library (arXiv 2106.09685)."""

import re
from dataclasses import dataclass

from torch import nn

ATTENTION = r".*attn.*\.to_(q|k|v|out)"  # of the denoisers


@dataclass
class LoRA:
    """Low-rank additions to the layers of a network.

    Args:
        rank: of each addition.
        alpha: the additions are scaled by alpha / rank.
        dropout: on their input, in training.
        layers: a regular expression that the whole names of the adapted layers match.
    """

    rank: int = 16
    alpha: int = 16
    dropout: float = 0.0
    layers: str = ATTENTION

    def add_to(self, model: nn.Module) -> None:
        """Insert the additions, which start at zero; everything else in `model` is frozen.

        Raises:
            ImportError: peft is not installed.
            ValueError: no linear layer's name matches.
        """
        try:
            from peft import LoraConfig, inject_adapter_in_model
        except ImportError as error:
            raise ImportError("LoRA needs peft: pip install -e '.[diffusion]'") from error
        names = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
        if not any(re.fullmatch(self.layers, name) for name in names):
            raise ValueError(
                f"LoRA: no linear layer matches {self.layers!r}; the first ones are {', '.join(names[:4])}"
            )
        config = LoraConfig(
            r=self.rank, lora_alpha=self.alpha, lora_dropout=self.dropout, target_modules=self.layers, bias="none"
        )
        inject_adapter_in_model(config, model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("lora_" in name)


def train_only(model: nn.Module, patterns: list[str]) -> None:
    """Freeze every parameter whose name contains no match of a pattern.

    Raises:
        ValueError: a pattern matches nothing.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(re.search(pattern, name) for name in names):
            raise ValueError(f"trained: no parameter matches {pattern!r}; the first ones are {', '.join(names[:4])}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(re.search(pattern, name) for pattern in patterns))
