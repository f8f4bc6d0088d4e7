"""Which tokens are seen: masks are functions from uniform noise to indices; who draws the noise decides the rest.

B samples, N = t * h * w tokens, K kept tokens, M predicted tokens. Noise is `[B, width]` in [0, 1); only its order
or its quarter matters, so any ranking serves as well.
"""

import torch
from torch import Tensor

from models.layers import Grid


class Mask:
    """The contract: `width(grid)` numbers of noise a sample in, indices of tokens in raster order out.

    `attention` `[B, t, h * w]` is how much a teacher looks at each token, for masks that are guided by one.
    `even`: whether each time slice has as many tokens.
    """

    even = False

    def width(self, grid: Grid) -> int:
        raise NotImplementedError

    def __call__(self, noise: Tensor, grid: Grid, attention: Tensor | None = None) -> Tensor:
        raise NotImplementedError


def _visible(tokens: int, ratio: float) -> int:
    """Tokens left visible of `tokens`: the official count, `tokens - int(ratio * tokens)`."""
    visible = tokens - int(ratio * tokens)
    if not 0 < visible < tokens:
        raise ValueError(
            f"mask ratio {ratio} leaves {visible} of {tokens} tokens visible: at least one must be, and one hidden"
        )
    return visible


class Random(Mask):
    """Hide `ratio` of all tokens of a clip, whichever they are."""

    def __init__(self, ratio: float = 0.9) -> None:
        self.ratio = ratio

    def width(self, grid: Grid) -> int:
        return grid[0] * grid[1] * grid[2]

    def __call__(self, noise: Tensor, grid: Grid, attention: Tensor | None = None) -> Tensor:
        visible = _visible(noise.shape[1], self.ratio)
        return noise.argsort(dim=1)[:, :visible].sort(dim=1).values


class Tube(Mask):
    """Hide the same `ratio` of places in every time slice (VideoMAE, 3.2; V2 `masking_generator.py`)."""

    even = True

    def __init__(self, ratio: float = 0.9) -> None:
        self.ratio = ratio

    def width(self, grid: Grid) -> int:
        return grid[1] * grid[2]

    def __call__(self, noise: Tensor, grid: Grid, attention: Tensor | None = None) -> Tensor:
        t, h, w = grid
        visible = _visible(h * w, self.ratio)
        place = noise.argsort(dim=1)[:, :visible].sort(dim=1).values
        slices = torch.arange(t, device=noise.device) * (h * w)
        return (place[:, None] + slices[None, :, None]).flatten(1)  # [B, t * visible]


class RandomFrames(Mask):
    """Hide `ratio` of each time slice, other places in each (InternVideo1 `clip_module.py: mask_visual`)."""

    even = True

    def __init__(self, ratio: float = 0.9) -> None:
        self.ratio = ratio

    def width(self, grid: Grid) -> int:
        return grid[0] * grid[1] * grid[2]

    def __call__(self, noise: Tensor, grid: Grid, attention: Tensor | None = None) -> Tensor:
        t, h, w = grid
        visible = _visible(h * w, self.ratio)
        place = noise.unflatten(1, (t, h * w)).argsort(dim=2)[..., :visible].sort(dim=2).values
        slices = torch.arange(t, device=noise.device) * (h * w)
        return (place + slices[:, None]).flatten(1)  # [B, t * visible]


class RunningCell(Mask):
    """VideoMAE V2's decoder mask: in each 2 x 2 cell a window of predicted places moves on by one every time slice.

    The indices are of the tokens that are decoded; `ratio` of them are not. Of every 4 slices a place is decoded in
    exactly `4 * (1 - ratio)`. One number of noise a sample picks which of the 4 phases it gets.
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
    """Hide `ratio` of each time slice, and rather what a teacher overlooks (UMT, 3.2: "attention-guided").

    Visible tokens are drawn without replacement with chances in proportion to the attention. The largest of
    `attention / e`, for exponential `e`, are such a draw, and the one that `torch.multinomial` makes of the same `e`.
    A weight of 0, as half precision may have it, counts as the smallest number: it is drawn last.
    """

    even = True

    def __init__(self, ratio: float = 0.8) -> None:
        self.ratio = ratio

    def width(self, grid: Grid) -> int:
        return grid[0] * grid[1] * grid[2]

    def __call__(self, noise: Tensor, grid: Grid, attention: Tensor | None = None) -> Tensor:
        t, h, w = grid
        if attention is None:
            raise ValueError("masking by attention needs a teacher's, which this method has not: use Tube or Random")
        visible = _visible(h * w, self.ratio)
        exponential = -torch.log1p(-noise.unflatten(1, (t, h * w)))
        weight = attention.to(noise.dtype).clamp(min=torch.finfo(torch.float32).tiny)
        place = (weight.log() - exponential.log()).topk(visible, dim=2).indices.sort(dim=2).values
        slices = torch.arange(t, device=noise.device) * (h * w)
        return (place + slices[:, None]).flatten(1)  # [B, t * visible]


def complement(keep: Tensor, tokens: int) -> Tensor:
    """The indices of `tokens` that are not in `keep` `[B, K]`, in raster order: `[B, tokens - K]`."""
    seen = torch.zeros(keep.shape[0], tokens, dtype=torch.int8, device=keep.device).scatter_(1, keep, 1)
    return seen.argsort(dim=1, stable=True)[:, : tokens - keep.shape[1]]


def unseen_first(predict: Tensor, keep: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Order `predict` `[B, M]` so that tokens hidden from the encoder come first; and 1.0 for those, `[B, M]`."""
    seen = torch.zeros(keep.shape[0], tokens, dtype=torch.int8, device=keep.device).scatter_(1, keep, 1)
    seen = seen.gather(1, predict)
    order = seen.argsort(dim=1, stable=True)
    return predict.gather(1, order), 1.0 - seen.gather(1, order).float()


def tokens_in_loss(mask: Mask, decoder_mask: RunningCell | None, grid: Grid) -> int | None:
    """The most tokens of one sample that are decoded and hidden, by arithmetic, so that no count leaves the device.

    A place that a tube leaves visible is decoded in at least `4 * (1 - ratio)` of every 4 slices, and drops out there.
    None where no such bound is known, or all that is decoded is hidden.
    """
    if decoder_mask is None or not isinstance(mask, Tube):
        return None
    t, h, w = grid
    a_cell = 4 - int(4 * decoder_mask.ratio)
    decoded = t * h * w - int(t * h * w * decoder_mask.ratio)
    return decoded - _visible(h * w, mask.ratio) * (t // 4) * a_cell
