"""The contract of an encoder: what objectives call and recipes name."""

from collections.abc import Sequence

from torch import Tensor, nn

from models.layers import Grid


class Encoder(nn.Module):
    """Video to tokens. Subclasses set `width`, `grid`, `tubelet` and `patch`, and hold their `blocks`."""

    width: int
    grid: Grid
    tubelet: int
    patch: int
    blocks: nn.ModuleList

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
