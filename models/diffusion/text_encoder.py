"""CLIP's text encoder as Stable Diffusion uses it: the last hidden states of all 77 places, padding among them."""

from pathlib import Path

import torch
from torch import Tensor, nn


class TextEncoder(nn.Module):
    """transformers' `CLIPTextModel`; the defaults are CLIP ViT-L/14's, of Stable Diffusion 1.4.

    Args:
        width, depth, heads, mlp: channels, layers, attention heads, hidden channels. (Stable Diffusion 2's: 1024, 23,
            16, 4096, with `activation` gelu.)
        activation: as transformers names it.
        vocabulary, context: number of token ids and of places.
    """

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp: int = 3072,
        activation: str = "quick_gelu",
        vocabulary: int = 49408,
        context: int = 77,
    ) -> None:
        super().__init__()
        from transformers import CLIPTextConfig, CLIPTextModel

        self.width, self.context = width, context
        self.sizes = {
            "hidden_size": width,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "intermediate_size": mlp,
            "hidden_act": activation,
            "vocab_size": vocabulary,
            "max_position_embeddings": context,
        }
        self.model = CLIPTextModel(CLIPTextConfig(**self.sizes))

    def forward(self, ids: Tensor) -> Tensor:
        """States `[B, L, D]` of token ids `[B, L]`; no place is masked, as in Stable Diffusion."""
        return self.model(ids).last_hidden_state

    def read(self, folder: str | Path) -> None:
        """Load a folder of transformers (`text_encoder/` of Stable Diffusion).

        Raises:
            FileNotFoundError: there is no such folder.
            ValueError: it holds a text encoder of other sizes.
        """
        from transformers import CLIPTextModel

        if not (Path(folder) / "config.json").is_file():
            raise FileNotFoundError(f"no text encoder at {folder}: it should be `text_encoder` of Stable Diffusion")
        found = CLIPTextModel.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
        for name, value in self.sizes.items():
            theirs = getattr(found.config, name)
            if theirs != value:
                raise ValueError(
                    f"{folder} is a text encoder with {name} {theirs}, and the recipe's has {value}: take the one that "
                    "the network was trained with, or set the recipe's"
                )
        self.model.load_state_dict(found.state_dict())
