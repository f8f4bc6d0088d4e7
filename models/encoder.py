"""The contract of an encoder: what objectives call and recipes name."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.layers import Grid


class Encoder(nn.Module):
    """Video to tokens. Subclasses set `width`, `grid`, `tubelet`, `patch`, `frames` and `size`, and hold their `blocks`
    and final `norm`."""

    width: int
    grid: Grid
    tubelet: int
    patch: int
    frames: int
    size: int
    blocks: nn.ModuleList
    norm: nn.Module

    def forward(
        self, video: Tensor, keep: Tensor | None = None, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """Encode `video` `[B, C, T, H, W]` (normalised) to tokens `[B, K, D]`.

        Args:
            keep: indices `[B, K]` of the tokens that the encoder sees; None: all `N = t * h * w`.
            taps: numbers of blocks whose outputs are wanted too.

        Returns:
            The tokens; with `taps`, the tokens and the tapped outputs in the order of `taps`, each through the final
            norm, which the last block's output and the tokens share.
        """
        raise NotImplementedError

    def summary(self, video: Tensor) -> Tensor:
        """One vector a video, `[B, D]`: the mean of the tokens, where the encoder has none that stands for all."""
        return self(video).mean(dim=1)

    def check(self, video: Tensor, picture: int | None) -> None:
        """ValueError where `video` `[B, C, T, H, W]` is not of the size that the encoder was made for, or is neither of
        its frames nor a picture of so many."""
        if video.shape[3:] != (self.size, self.size) or video.shape[2] not in (self.frames, picture):
            raise ValueError(
                f"the encoder was made for {self.frames} frames of {self.size} x {self.size} pixels and was given "
                f"{tuple(video.shape[2:])}: set the encoder's frames and size, or the data's"
            )

    def run_blocks(self, x: Tensor, taps: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """`x` `[B, K, D]` through all blocks and the final norm, and what the tapped blocks give, through it too."""
        tapped = {}
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in taps:
                tapped[i] = self.norm(x)
        last = len(self.blocks) - 1
        x = tapped[last] if last in tapped else self.norm(x)
        return x, [tapped[i] for i in taps]
