"""The parts that every transformer here is made of: attention, MLP, block, patches, position tables.

Letters in shapes: B batch, C channels, T frames, H W pixels, N tokens, K kept tokens, D width, d width of a head.
Tokens are ordered time first, then row, then column.
"""

import functools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerScale
from torch import Tensor, nn

from models.lean import activate_linear

Grid = tuple[int, int, int]  # tokens in time, rows and columns


class Linear(nn.Linear):
    """A linear layer that starts Xavier-uniform with zero bias, as the masked-autoencoder family does."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


@functools.cache
def flash_kernel():
    """flash-attn's dense kernel where it is installed, else None: an optional extra, looked up once."""
    try:
        from flash_attn import flash_attn_func
    except ImportError:
        return None
    return flash_attn_func


_flash_wanted = True


def use_flash(on: bool) -> None:
    """Whether `attend` may take flash-attn's kernel from now on, in all models of this process; at first it may."""
    global _flash_wanted
    _flash_wanted = on


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, causal: bool = False) -> Tensor:
    """Softmax attention of `[B, heads, N, d]`: flash-attn's kernel, where it is wanted and installed, in half precision
    on a GPU; else torch's own. (Its kernels for rows of different lengths have nothing to do here: masks keep as many
    tokens of each clip as of any other, and texts are a few dozen tokens.)"""
    half = q.dtype in (torch.float16, torch.bfloat16)
    if _flash_wanted and q.is_cuda and half and flash_kernel() is not None:
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        return flash_kernel()(q, k, v, softmax_scale=scale, causal=causal).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, scale=scale, is_causal=causal)


class Attention(nn.Module):
    """Self-attention with one fused projection; q and v have a bias, k has none (BEiT's form, which VideoMAE kept).

    `cosine=True` is VideoMAE V2's optional variant: q and k of unit length, a learnt temperature a head, capped at 100.
    """

    def __init__(self, width: int, heads: int, cosine: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.empty(width))
        self.v_bias = nn.Parameter(torch.empty(width))
        self.proj = Linear(width, width)
        self.scale = nn.Parameter(torch.empty(heads, 1, 1)) if cosine else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.q_bias)
        nn.init.zeros_(self.v_bias)
        if self.scale is not None:
            nn.init.constant_(self.scale, math.log(10))

    def forward(self, x: Tensor, part: slice | None = None) -> Tensor:
        """`[B, N, D]` to the same; with `part`, what comes out for those tokens alone, which look at all."""
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        if part is None:
            qkv = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1))  # [B, N, 3, heads, d]
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
        else:
            width = len(self.q_bias)
            q = F.linear(x[:, part], self.qkv.weight[:width], self.q_bias).unflatten(-1, (self.heads, -1))
            kv = F.linear(x, self.qkv.weight[width:], bias[width:]).unflatten(-1, (2, self.heads, -1))
            q, (k, v) = q.transpose(1, 2), kv.permute(2, 0, 3, 1, 4)
        scale = None
        if self.scale is not None:
            q = F.normalize(q, dim=-1) * self.scale.clamp(max=math.log(100)).exp()
            k, scale = F.normalize(k, dim=-1), 1.0
        return self.proj(attend(q, k, v, scale).transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return activate_linear(self.fc1(x), self.fc2.weight, self.fc2.bias)


class Block(nn.Module):
    """A pre-norm transformer block; `layer_scale` 0 means none, `drop_path` is the chance to drop a branch."""

    def __init__(
        self,
        width: int,
        heads: int,
        mlp: int,
        drop_path: float = 0.0,
        layer_scale: float = 0.0,
        cosine: bool = False,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = Attention(width, heads, cosine)
        self.ls1 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, mlp)
        self.ls2 = LayerScale(width, layer_scale) if layer_scale else nn.Identity()
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, part: slice | None = None) -> Tensor:
        """`[B, N, D]` to the same; with `part`, those tokens alone, where nobody reads the others."""
        mixed = self.attn(self.norm1(x), part)
        x = (x if part is None else x[:, part]) + self.drop_path(self.ls1(mixed))
        return x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))


def token_grid(frames: int, size: int, tubelet: int, patch: int) -> Grid:
    """The grid of tokens of a clip; a ValueError names the number that does not divide."""
    if frames % tubelet:
        raise ValueError(f"{frames} frames are not a multiple of the tubelet {tubelet}")
    if size % patch:
        raise ValueError(f"image size {size} is not a multiple of the patch {patch}")
    return frames // tubelet, size // patch, size // patch


def take_patches(video: Tensor, index: Tensor | None, tubelet: int, patch: int) -> Tensor:
    """Cut `[B, C, T, H, W]` in tubelets and take those of `index` `[B, K]` (None: all): `[B, K, C, tubelet, p, p]`.

    Only what is taken is copied, so that a tenth of the tokens costs a tenth of the traffic.
    """
    cut = video.unflatten(4, (-1, patch)).unflatten(3, (-1, patch)).unflatten(2, (-1, tubelet))
    b, _, _, _, h, _, w, _ = cut.shape  # [B, C, t, tubelet, h, p, w, p]
    if index is None:
        return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(1, 3)
    batch = torch.arange(b, device=video.device)[:, None]
    column, row, time = index % w, index // w % h, index // (w * h)
    return cut[batch, :, time, :, row, :, column]


class PatchEmbed(nn.Module):
    """Tubelets of pixels to tokens: a Conv3d whose stride is its kernel, applied to the kept tubelets alone."""

    def __init__(self, width: int, tubelet: int, patch: int, channels: int = 3, bias: bool = True) -> None:
        super().__init__()
        self.tubelet, self.patch = tubelet, patch
        self.proj = nn.Conv3d(channels, width, (tubelet, patch, patch), (tubelet, patch, patch), bias=bias)

    def forward(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        patches = take_patches(video, keep, self.tubelet, self.patch).flatten(2)  # [B, K, C*tubelet*p*p]
        weight = self.proj.weight
        return F.linear(patches.to(weight.dtype), weight.flatten(1), self.proj.bias)


def sinusoid_table(tokens: int, width: int) -> Tensor:
    """The fixed position table `[N, D]` over the flat token index, made in float64 and cast once to float32.

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
    """A table `[n, D]` with another number of rows: cut where shorter; where longer interpolated linearly, or gone on
    with zeros (ViCLIP `clip_vision.py: interpolate_pos_embed_vit`; its inference copy's `load_state_dict`)."""
    if rows <= len(table):
        return table[:rows]
    if zeros:
        return torch.cat((table, table.new_zeros(rows - len(table), table.shape[1])))
    longer = F.interpolate(table.t()[None].float(), size=rows, mode="linear", align_corners=False)
    return longer[0].t().to(table.dtype)


def saved_grid(tokens: int, grid: Grid, made_for: Grid) -> Grid:
    """The grid of a saved table of `tokens` rows: the model's own, what it was `made_for`, or square at one of their
    lengths or at the 8 time slices that the unmasked teacher is pretrained with."""
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


class Normalize(nn.Module):
    """Pixels to what an encoder was trained on: uint8 `[B, 3, T, H, W]` to zero mean and unit deviation a channel.

    A video that is already floating point is taken to be normalised and passes through.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.values = tuple(mean), tuple(std)
        self.register_buffer("mean", torch.empty(3), persistent=False)
        self.register_buffer("std", torch.empty(3), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        if not self.mean.is_meta:
            self.mean.copy_(torch.tensor(self.values[0]))
            self.std.copy_(torch.tensor(self.values[1]))

    def forward(self, video: Tensor) -> Tensor:
        if video.is_floating_point():
            return video
        scale = 1 / (255 * self.std)
        return torch.addcmul((-self.mean / self.std).view(3, 1, 1, 1), video, scale.view(3, 1, 1, 1))


class FixedPositions(nn.Module):
    """A sinusoid position table: recomputed, never trained.

    `made_for` is the grid that the weights were trained at: where it differs from `grid`, the trained table is resized,
    so that a model fine-tuned at more frames or pixels starts from positions that it knows. Such a table is saved with
    the weights, as UMT's fine-tuning does; one that can be recomputed from the grid is not.
    """

    def __init__(self, grid: Grid, width: int, made_for: Grid | None = None) -> None:
        super().__init__()
        self.grid, self.made_for = grid, tuple(made_for or grid)
        self.register_buffer("table", torch.empty(math.prod(grid), width), persistent=self.made_for != grid)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        if not self.table.is_meta:
            table = sinusoid_table(math.prod(self.made_for), self.table.shape[1])
            self.table.copy_(resize_table(table, self.made_for, self.grid))

    def forward(self, index: Tensor | None = None) -> Tensor:
        """The rows of `index` `[B, K]`, or the whole table `[N, D]`."""
        return self.table if index is None else self.table[index]

    def fit_table(self, table: Tensor) -> Tensor:
        """A saved table `[M, D]`, brought to this grid."""
        return resize_table(table, saved_grid(len(table), self.grid, self.made_for), self.grid)


class LearntPositions(nn.Module):
    """A position table that is trained and saved."""

    def __init__(self, grid: Grid, width: int, made_for: Grid | None = None) -> None:
        super().__init__()
        self.grid, self.made_for = grid, tuple(made_for or grid)
        self.table = nn.Parameter(torch.empty(math.prod(grid), width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.table, std=0.02)

    def forward(self, index: Tensor | None = None) -> Tensor:
        """The rows of `index` `[B, K]`, or the whole table `[N, D]`."""
        return self.table if index is None else self.table[index]

    def fit_table(self, table: Tensor) -> Tensor:
        """A saved table `[M, D]`, brought to this grid."""
        return resize_table(table, saved_grid(len(table), self.grid, self.made_for), self.grid)
