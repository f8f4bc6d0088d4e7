"""Parts that all transformers here share: attention, MLP, block, patch embedding.

Letters in shapes: B batch, C channels, T frames, H W pixels, N tokens, K kept tokens, D width, d width of a head.
Tokens are ordered time first, then row, then column.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Generic, TypeVar, overload

import torch
import torch.nn.functional as F
from timm.layers import LayerScale
from torch import Tensor, nn

from models.fused_activation import activate_linear

Grid = tuple[int, int, int]  # tokens in time, rows and columns

if TYPE_CHECKING:
    Item = TypeVar("Item", bound=nn.Module, covariant=True)

    class Blocks(nn.ModuleList, Generic[Item]):
        """`nn.ModuleList` with the type of its items, which torch's does not declare."""

        def __init__(self, modules: Iterable[Item]) -> None: ...
        def __iter__(self) -> Iterator[Item]: ...
        @overload
        def __getitem__(self, idx: int) -> Item: ...
        @overload
        def __getitem__(self, idx: slice) -> "Blocks[Item]": ...
else:
    Blocks = nn.ModuleList

# Of RGB pixels from 0 to 1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Linear(nn.Linear):
    """A linear layer with Xavier-uniform initialisation and zero bias, as in masked autoencoders."""

    def reset_parameters(self) -> None:
        nn.init.xavier_uniform_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


@functools.cache
def flash_kernel() -> Callable[..., Tensor] | None:
    """flash-attn's dense kernel if this optional package is installed, else None; imported once."""
    try:
        from flash_attn import flash_attn_func
    except ImportError:
        return None
    return flash_attn_func


_flash_enabled = True


def use_flash(on: bool) -> None:
    """Allow or forbid `attend` to use flash-attn's kernel, in all models of this process; allowed by default.

    Called before a model is compiled, it also finds out whether the package is there: a graph cannot.
    """
    global _flash_enabled
    _flash_enabled = on and (not torch.cuda.is_available() or flash_kernel() is not None)


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None, causal: bool = False) -> Tensor:
    """Softmax attention of `[B, heads, N, d]`: flash-attn's kernel in half precision on a GPU, if it is enabled and
    installed; else torch's own. (flash-attn's kernels for variable lengths are not needed: a mask keeps equally many
    tokens of every clip, and texts have a few dozen tokens.)"""
    half = q.dtype in (torch.float16, torch.bfloat16)
    if _flash_enabled and q.is_cuda and half:
        kernel = flash_kernel()
        if kernel is not None:
            q, k, v = (x.transpose(1, 2) for x in (q, k, v))
            return kernel(q, k, v, softmax_scale=scale, causal=causal).transpose(1, 2)
    return F.scaled_dot_product_attention(q, k, v, scale=scale, is_causal=causal)


class Attention(nn.Module):
    """Self-attention with one fused projection; q and v have a bias, k has none (as in BEiT and VideoMAE).

    `cosine=True` is VideoMAE V2's optional variant: q and k of unit length, a learnt scale per head, at most 100.
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
        """`[B, N, D]` to the same shape; with `part`, only those tokens are queries and returned, all are keys."""
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


def branch_factors(x: Tensor, rate: float, dims: int = 3) -> Tensor | None:
    """Stochastic depth of a branch: 0 where a sample of `x` `[B, ...]` drops it, with probability `rate`, and 1 / (1 -
    rate) elsewhere, float32 `[B, 1, ...]` of `dims` dimensions; None: nothing is dropped.

    Blocks draw these outside what is compiled: blocks of different rates share a graph, and random numbers are those of
    an uncompiled model. (timm's `DropPath` has its rate as a constant in the graph.)
    """
    if rate == 0.0:
        return None
    shape = len(x), *[1] * (dims - 1)
    return x.new_empty(shape, dtype=torch.float32).bernoulli_(1 - rate).div_(1 - rate)


def scale_branch(branch: Tensor, factors: Tensor | None) -> Tensor:
    """A branch times its `branch_factors`."""
    return branch if factors is None else branch * factors.to(branch.dtype)


class Block(nn.Module):
    """A pre-norm transformer block; `layer_scale` 0 means none, `drop_path` is the probability to drop a branch."""

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
        self.drop_path = drop_path

    def forward(self, x: Tensor, part: slice | None = None) -> Tensor:
        """`[B, N, D]` to the same shape; with `part`, only those tokens are computed and returned."""
        rate = self.drop_path if self.training else 0.0
        return self.compute(x, part, branch_factors(x, rate), branch_factors(x, rate))

    def compute(self, x: Tensor, part: slice | None, attn_factors: Tensor | None, mlp_factors: Tensor | None) -> Tensor:
        """`forward`, given the branches' factors; this is what is compiled."""
        attended = self.attn(self.norm1(x), part)
        x = (x if part is None else x[:, part]) + scale_branch(self.ls1(attended), attn_factors)
        return x + scale_branch(self.ls2(self.mlp(self.norm2(x))), mlp_factors)


def require_positive(**sizes: int) -> None:
    """ValueError with the name of a size that is below 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} is {size}: it must be at least 1")


def token_grid(frames: int, size: int, tubelet: int, patch: int) -> Grid:
    """The token grid of a clip. Raises ValueError if tubelet or patch do not divide its size, or a size is below 1."""
    require_positive(frames=frames, size=size, tubelet=tubelet, patch=patch)
    if frames % tubelet:
        raise ValueError(f"{frames} frames are not a multiple of the tubelet {tubelet}")
    if size % patch:
        raise ValueError(f"image size {size} is not a multiple of the patch {patch}")
    return frames // tubelet, size // patch, size // patch


def take_patches(video: Tensor, index: Tensor | None, tubelet: int, patch: int) -> Tensor:
    """Cut `[B, C, T, H, W]` into tubelets and take those at `index` `[B, K]` (None: all): `[B, K, C, tubelet, p, p]`.

    Only the tubelets taken are copied: a tenth of the tokens costs a tenth of the memory traffic.
    """
    cut = video.unflatten(4, (-1, patch)).unflatten(3, (-1, patch)).unflatten(2, (-1, tubelet))
    b, _, _, _, h, _, w, _ = cut.shape  # [B, C, t, tubelet, h, p, w, p]
    if index is None:
        return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(1, 3)
    batch = torch.arange(b, device=video.device)[:, None]
    column, row, time = index % w, index // w % h, index // (w * h)
    return cut[batch, :, time, :, row, :, column]


def normalized(pixels: Tensor, normalize: "Normalize | None") -> Tensor:
    """Pixels that are normalised already, or uint8 pixels by `normalize`. A ValueError if there is none."""
    if pixels.is_floating_point():
        return pixels
    if normalize is None:
        raise ValueError("the encoder was given uint8 pixels without their statistics: normalise them first")
    return normalize(pixels)


class PatchEmbed(nn.Module):
    """Tubelets of pixels to tokens: a Conv3d whose stride is its kernel, applied to the kept tubelets only.

    `normalize`: of a uint8 video, by whoever trains the encoder; it is applied to the kept tubelets only.
    """

    def __init__(self, width: int, tubelet: int, patch: int, channels: int = 3, bias: bool = True) -> None:
        super().__init__()
        self.tubelet, self.patch = tubelet, patch
        self.normalize: Normalize | None = None
        self.proj = nn.Conv3d(channels, width, (tubelet, patch, patch), (tubelet, patch, patch), bias=bias)

    def forward(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        patches = normalized(take_patches(video, keep, self.tubelet, self.patch), self.normalize)
        patches, weight = patches.flatten(2), self.proj.weight  # [B, K, C*tubelet*p*p]
        return F.linear(patches.to(weight.dtype), weight.flatten(1), self.proj.bias)


class Normalize(nn.Module):
    """uint8 pixels `[B, 3, T, H, W]`, or patches `[B, K, 3, tubelet, p, p]`, to zero mean and unit standard deviation
    per channel.

    A floating-point video counts as normalised and passes unchanged.
    """

    mean: Tensor
    std: Tensor

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
