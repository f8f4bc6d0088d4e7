"""Masks of video tokens: functions from uniform noise to the indices of visible or decoded tokens.

B samples, N = t * h * w tokens, K visible tokens, M predicted tokens. Noise is `[B, width]` in [0, 1). The noise alone
decides: a mask has no random state.
"""

import torch
from torch import Tensor

from models.layers import Grid


class Mask:
    """The contract: takes `width(grid)` numbers of noise per sample, returns indices of tokens in raster order.

    `attention` `[B, t, h * w]` is a teacher's attention to each token, for masks that it guides.
    `even`: whether all time slices have equally many tokens.
    """

    even = False

    def width(self, grid: Grid) -> int:
        raise NotImplementedError

    def __call__(self, noise: Tensor, grid: Grid, attention: Tensor | None = None) -> Tensor:
        raise NotImplementedError


def _visible_count(tokens: int, ratio: float) -> int:
    """The number of visible tokens, by the official formula: `tokens - int(ratio * tokens)`."""
    visible = tokens - int(ratio * tokens)
    if not 0 < visible < tokens:
        raise ValueError(
            f"mask ratio {ratio} leaves {visible} of {tokens} tokens visible: at least one must be visible, one masked"
        )
    return visible


class Random(Mask):
    """Mask `ratio` of all tokens of a clip, uniformly."""

    def __init__(self, ratio: float = 0.9) -> None:
        self.ratio = ratio

    def width(self, grid: Grid) -> int:
        return grid[0] * grid[1] * grid[2]

    def __call__(self, noise: Tensor, grid: Grid, attention: Tensor | None = None) -> Tensor:
        visible = _visible_count(noise.shape[1], self.ratio)
        return noise.argsort(dim=1)[:, :visible].sort(dim=1).values


class Tube(Mask):
    """Mask `ratio` of the places, the same ones in every time slice (VideoMAE, 3.2; V2 `masking_generator.py`)."""

    even = True

    def __init__(self, ratio: float = 0.9) -> None:
        self.ratio = ratio

    def width(self, grid: Grid) -> int:
        return grid[1] * grid[2]

    def __call__(self, noise: Tensor, grid: Grid, attention: Tensor | None = None) -> Tensor:
        t, h, w = grid
        visible = _visible_count(h * w, self.ratio)
        place = noise.argsort(dim=1)[:, :visible].sort(dim=1).values
        slices = torch.arange(t, device=noise.device) * (h * w)
        return (place[:, None] + slices[None, :, None]).flatten(1)  # [B, t * visible]


class RandomFrames(Mask):
    """Mask `ratio` of each time slice, independently per slice (InternVideo1 `clip_module.py: mask_visual`)."""

    even = True

    def __init__(self, ratio: float = 0.9) -> None:
        self.ratio = ratio

    def width(self, grid: Grid) -> int:
        return grid[0] * grid[1] * grid[2]

    def __call__(self, noise: Tensor, grid: Grid, attention: Tensor | None = None) -> Tensor:
        t, h, w = grid
        visible = _visible_count(h * w, self.ratio)
        place = noise.unflatten(1, (t, h * w)).argsort(dim=2)[..., :visible].sort(dim=2).values
        slices = torch.arange(t, device=noise.device) * (h * w)
        return (place + slices[:, None]).flatten(1)  # [B, t * visible]


class RunningCell(Mask):
    """VideoMAE V2's decoder mask: in each 2 x 2 cell, the window of decoded places moves by one every time slice.

    It returns the indices of the decoded tokens; `ratio` of all tokens are not decoded. Of every 4 slices, a place is
    decoded in exactly `4 * (1 - ratio)`. One number of noise per sample selects one of the 4 phases.
    """

    def __init__(self, ratio: float = 0.5) -> None:
        if ratio * 4 not in (1, 2, 3):
            raise ValueError(f"running-cell ratio {ratio}: a cell has 4 places, so it must be 0.25, 0.5 or 0.75")
        self.ratio = ratio

    def width(self, grid: Grid) -> int:
        return 1

    def maps(self, grid: Grid, device: torch.device | None = None) -> Tensor:
        """The four phases, `[4, N]`: True where a token is NOT decoded."""
        t, h, w = grid
        if h % 2 or w % 2:
            raise ValueError(
                f"the running cell needs an even grid and has {h} x {w} tokens a slice: "
                "choose an image size that is an even multiple of the patch"
            )
        at = lambda n, *shape: torch.arange(n, device=device).view(*shape)  # noqa: E731
        place = 2 * (at(h, h, 1) % 2) + at(w, 1, w) % 2
        phase = (place + at(t, t, 1, 1) + at(4, 4, 1, 1, 1) + 1) % 4
        return (phase < int(4 * self.ratio)).flatten(1)

    def __call__(self, noise: Tensor, grid: Grid, attention: Tensor | None = None) -> Tensor:
        maps = self.maps(grid, noise.device)
        decoded = maps.shape[1] - int(maps.shape[1] * self.ratio)  # every phase has as many: the cell tiles the slice
        index = maps.int().argsort(dim=1, stable=True)[:, :decoded]
        return index[(noise[:, 0] * 4).long().clamp(max=3)]


class Attention(Mask):
    """Mask `ratio` of each time slice, mostly tokens with little of the teacher's attention (UMT, 3.2).

    Visible tokens are drawn without replacement, with probabilities proportional to the attention: the largest values
    of `attention / e`, for exponential `e`. `torch.multinomial` draws the same tokens from the same `e`. A weight of 0,
    which half precision may produce, counts as the smallest number and is drawn last.
    """

    even = True

    def __init__(self, ratio: float = 0.8) -> None:
        self.ratio = ratio

    def width(self, grid: Grid) -> int:
        return grid[0] * grid[1] * grid[2]

    def __call__(self, noise: Tensor, grid: Grid, attention: Tensor | None = None) -> Tensor:
        t, h, w = grid
        if attention is None:
            raise ValueError(
                "masking by attention needs a teacher with a class token, which this method has not: use Tube or Random"
            )
        visible = _visible_count(h * w, self.ratio)
        exponential = -torch.log1p(-noise.unflatten(1, (t, h * w)))
        weight = attention.to(noise.dtype).clamp(min=torch.finfo(torch.float32).tiny)
        place = (weight.log() - exponential.log()).topk(visible, dim=2).indices.sort(dim=2).values
        slices = torch.arange(t, device=noise.device) * (h * w)
        return (place + slices[:, None]).flatten(1)  # [B, t * visible]


def complement(keep: Tensor, tokens: int) -> Tensor:
    """The indices of `tokens` that are not in `keep` `[B, K]`, in raster order: `[B, tokens - K]`."""
    visible = torch.zeros(keep.shape[0], tokens, dtype=torch.int8, device=keep.device).scatter_(1, keep, 1)
    return visible.argsort(dim=1, stable=True)[:, : tokens - keep.shape[1]]


def masked_first(predict: Tensor, keep: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """`predict` `[B, M]` with the tokens that the encoder does not see first; and 1.0 for those, `[B, M]`."""
    visible = torch.zeros(keep.shape[0], tokens, dtype=torch.int8, device=keep.device).scatter_(1, keep, 1)
    visible = visible.gather(1, predict)
    order = visible.argsort(dim=1, stable=True)
    return predict.gather(1, order), 1.0 - visible.gather(1, order).float()


def max_loss_tokens(mask: Mask, decoder_mask: RunningCell | None, grid: Grid) -> int | None:
    """An upper bound on the tokens of one sample that are decoded and masked; computed without a device-to-host copy.

    A visible place of a tube mask is decoded in at least `4 * (1 - ratio)` of every 4 slices, which do not count.
    None: no such bound is known, or all decoded tokens are masked.
    """
    if decoder_mask is None or not isinstance(mask, Tube):
        return None
    t, h, w = grid
    per_cell = 4 - int(4 * decoder_mask.ratio)
    decoded = t * h * w - int(t * h * w * decoder_mask.ratio)
    return decoded - _visible_count(h * w, mask.ratio) * (t // 4) * per_cell
