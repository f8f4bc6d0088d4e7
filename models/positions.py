"""Position tables, fixed or learnt, and how they are resized to other grids.

Letters in shapes: B batch, N tokens, K kept tokens, D width.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import Grid


def sinusoid_table(tokens: int, width: int) -> Tensor:
    """The fixed position table `[N, D]` over the flat token index, computed in float64 and cast once to float32.

    Even columns sine, odd columns cosine (Attention Is All You Need, 3.5; VideoMAE `get_sinusoid_encoding_table`).
    """
    column = torch.arange(width, dtype=torch.float64)
    rate = torch.pow(10000.0, -2 * torch.div(column, 2, rounding_mode="floor") / width)
    angle = torch.arange(tokens, dtype=torch.float64)[:, None] * rate
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


def resize_table(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Resample a position table `[N, D]` to another grid: bicubic in space, then linear in time (UMT's fine-tuning)."""
    if old == new:
        return table
    x = table.reshape(*old, -1).permute(0, 3, 1, 2)  # [t, D, h, w]
    if old[1:] != new[1:]:
        x = F.interpolate(x, size=new[1:], mode="bicubic", align_corners=False)
    x = x.permute(2, 3, 1, 0)  # [h, w, D, t]
    if old[0] != new[0]:
        x = F.interpolate(x.flatten(0, 1), size=new[0], mode="linear", align_corners=False).unflatten(0, new[1:])
    return x.permute(3, 0, 1, 2).flatten(0, 2)


def fit_rows(table: Tensor, rows: int, zeros: bool = False) -> Tensor:
    """A table `[n, D]` with another number of rows: fewer are its first ones; more are interpolated linearly, or padded
    with zeros (ViCLIP `clip_vision.py: interpolate_pos_embed_vit`; its inference copy's `load_state_dict`)."""
    if rows <= len(table):
        return table[:rows]
    if zeros:
        return torch.cat((table, table.new_zeros(rows - len(table), table.shape[1])))
    longer = F.interpolate(table.t()[None].float(), size=rows, mode="linear", align_corners=False)
    return longer[0].t().to(table.dtype)


def saved_grid(tokens: int, grid: Grid, made_for: Grid) -> Grid:
    """The grid of a saved table of `tokens` rows: the model's `grid`, `made_for`, or one of square frames with the time
    slices of either or with 8, as in UMT's pretraining."""
    for known in (grid, made_for):
        if tokens == math.prod(known):
            return known
    for t in (8, grid[0]) if made_for == grid else (made_for[0], 8, grid[0]):
        side = math.isqrt(tokens // t)
        if t * side * side == tokens:
            return t, side, side
    raise ValueError(
        f"a position table of {tokens} rows fits no grid of square frames: set the encoder's made_for to its (t, h, w)"
    )


class PositionTable(nn.Module):
    """A position per token of `grid`, `[N, D]`; subclasses set `table`.

    `made_for`: the grid that the weights were trained at, if it differs.
    """

    table: Tensor

    def __init__(self, grid: Grid, made_for: Grid | None) -> None:
        super().__init__()
        self.grid = grid
        self.made_for: Grid = tuple(made_for or grid)

    def forward(self, index: Tensor | None = None) -> Tensor:
        """The rows at `index` `[B, K]`, or the whole table `[N, D]`."""
        return self.table if index is None else self.table[index]

    def of_image(self) -> Tensor:
        """The positions of an image, `[h * w, D]`: those of the first frame."""
        return self.table[: self.grid[1] * self.grid[2]]

    def fit_table(self, table: Tensor) -> Tensor:
        """A saved table `[M, D]`, resized to this grid."""
        return resize_table(table, saved_grid(len(table), self.grid, self.made_for), self.grid)


class FixedPositions(PositionTable):
    """A sinusoid position table: recomputed, never trained.

    If `made_for` differs from `grid`, the table of `made_for` is resized: a model fine-tuned at more frames or pixels
    starts from the positions it was trained with. A resized table is saved with the weights, as in UMT's fine-tuning;
    others are recomputed from the grid.
    """

    def __init__(self, grid: Grid, width: int, made_for: Grid | None = None) -> None:
        super().__init__(grid, made_for)
        self.register_buffer("table", torch.empty(math.prod(grid), width), persistent=self.made_for != grid)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if not self.table.is_meta:
            table = sinusoid_table(math.prod(self.made_for), self.table.shape[1])
            self.table.copy_(resize_table(table, self.made_for, self.grid))

    def of_image(self) -> Tensor:
        """The positions of an image, `[h * w, D]`: those of the first frame of the original table.

        They are recomputed only if the table is resized to fewer frames, where its first row mixes several frames.
        """
        if self.made_for[0] <= self.grid[0]:
            return super().of_image()
        rows = self.made_for[1] * self.made_for[2]
        table = sinusoid_table(rows, self.table.shape[1]).to(self.table)
        return resize_table(table, (1, *self.made_for[1:]), (1, *self.grid[1:]))


class LearntPositions(PositionTable):
    """A position table that is trained and saved."""

    def __init__(self, grid: Grid, width: int, made_for: Grid | None = None) -> None:
        super().__init__(grid, made_for)
        self.table = nn.Parameter(torch.empty(math.prod(grid), width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.table, std=0.02)
