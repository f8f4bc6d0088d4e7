"""The contract of an encoder, which objectives call and recipes name."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from models.layers import Blocks, Grid


class Encoder(nn.Module):
    """Video to tokens. Subclasses set `width`, `grid`, `tubelet`, `patch`, `frames` and `size`, and hold their `blocks`
    and final `norm`."""

    width: int
    grid: Grid
    tubelet: int
    patch: int
    frames: int
    size: int
    patch_embed: Any  # of pixels to tokens; its `normalize` is for uint8 videos
    blocks: "Blocks[Any]"
    norm: nn.Module

    def forward(
        self, video: Tensor, keep: Tensor | None = None, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Encode `video` `[B, C, T, H, W]` to tokens `[B, K, D]`; it is normalised, or uint8 if `patch_embed.normalize`
        is set.

        Args:
            keep: indices `[B, K]` of the visible tokens; None: all `N = t * h * w`.
            taps: indices of blocks whose outputs are returned too.

        Returns:
            The tokens; with `taps`, the tokens and the tapped outputs in the order of `taps`. The final norm is applied
            to all of them.
        """
        raise NotImplementedError

    def summary(self, video: Tensor) -> Tensor:
        """One vector per video, `[B, D]`: the mean of the tokens, if the encoder has no token for the whole video."""
        return self(video).mean(dim=1)

    def check(self, video: Tensor, image_frames: int | None) -> None:
        """ValueError if `video` `[B, C, T, H, W]` has another size than the encoder, or neither its frames nor
        `image_frames`, the frames of an image."""
        if video.shape[3:] != (self.size, self.size) or video.shape[2] not in (self.frames, image_frames):
            raise ValueError(
                f"the encoder was made for {self.frames} frames of {self.size} x {self.size} pixels and was given "
                f"{tuple(video.shape[2:])}: set the encoder's frames and size, or the data's"
            )

    def run_blocks(self, x: Tensor, taps: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """`x` `[B, K, D]` through all blocks and the final norm, and the normed outputs of the tapped blocks."""
        tapped = {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in taps:
                tapped[i] = self.norm(x)
        last = len(self.blocks) - 1
        x = tapped[last] if last in tapped else self.norm(x)
        return x, [tapped[i] for i in taps]
