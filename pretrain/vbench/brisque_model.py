"""BRISQUE, an image quality model of the package brisque, in the place of MUSIQ, under its own name.

Letters in shapes: n frames, H and W pixels.
"""

import torch
from torch import Tensor, nn


class BRISQUE(nn.Module):
    """100 less BRISQUE's distortion, so that more is better, as of MUSIQ; the package brisque 0.2.0 has the weights."""

    name = "100 less BRISQUE (brisque 0.2.0)"

    def __init__(self) -> None:
        super().__init__()
        try:
            from brisque import BRISQUE as Package  # pyrefly: ignore[missing-import]
        except ImportError as error:
            raise ModuleNotFoundError(f"no package brisque here: pip install brisque==0.2.0 ({error})") from None
        self.model = Package(url=False)

    def forward(self, frames: Tensor) -> Tensor:
        """Scores `[n]` of `frames` `[n, 3, H, W]` in 0 to 1."""
        images = (frames.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return torch.tensor([100 - float(self.model.score(image)) for image in images])
