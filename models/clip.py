"""CLIPVision: the vision tower of CLIP, run on every frame of a video by itself; the teacher of UMT.

Notable: a class token and learnt positions a frame; biases on q, k and v; QuickGELU; LayerNorm with eps 1e-5; a final
norm and projection that all tapped layers share. What is read after the last block can be chosen while it runs, from
where its class token looks: only the chosen tokens then pass through its queries, MLP, norm and projection.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from models.layers import Grid, PatchEmbed, attend, resize_table, token_grid
from models.lean import activate_linear

# Named sizes of OpenAI's release; `out` is the width that image and text share.
CLIP_SIZES: dict[str, dict[str, int]] = {
    "base": {"width": 768, "depth": 12, "heads": 12, "mlp": 3072, "patch": 16, "size": 224, "out": 512},
    "large": {"width": 1024, "depth": 24, "heads": 16, "mlp": 4096, "patch": 14, "size": 224, "out": 768},
}


class CLIPAttention(nn.Module):
    """Self-attention with one fused projection and biases throughout, as torch's MultiheadAttention has it; `causal`
    lets a token see itself and those before it."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.merge(attend(q, k, v, causal=self.causal))

    def at(self, x: Tensor, index: Tensor) -> Tensor:
        """What comes out at token `index` `[B]` of each of `x` `[B, N, D]`: `[B, 1, D]`."""
        q = self.queries(x.take_along_dim(index[:, None, None], dim=1))
        k, v = self.keys_values(x)
        if not self.causal:
            return self.merge(attend(q, k, v))
        before = torch.arange(x.shape[1], device=x.device) <= index[:, None]
        return self.merge(F.scaled_dot_product_attention(q, k, v, before[:, None, None]))

    def merge(self, mixed: Tensor) -> Tensor:
        """What all heads found, `[B, heads, N, d]`, as one, `[B, N, D]`."""
        return self.proj(mixed.transpose(1, 2).flatten(2))

    def queries(self, x: Tensor) -> Tensor:
        """`[B, heads, N, d]` of `x` `[B, N, D]`."""
        width = self.proj.in_features
        q = F.linear(x, self.qkv.weight[:width], self.qkv.bias[:width])
        return q.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Two of `[B, heads, N, d]`, of `x` `[B, N, D]`."""
        width = self.proj.in_features
        kv = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:])
        return kv.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind()


class CLIPMLP(nn.Module):
    """Two linear layers with QuickGELU between them, `x * sigmoid(1.702 x)`.

    That is `silu(1.702 x) / 1.702`, and the matrix products take both factors along: one pass over memory, not three.
    `dropout`: of the hidden channels.
    """

    def __init__(self, width: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        a = 1.702
        rows = x.flatten(0, -2)
        hidden = torch.addmm(a * self.fc1.bias, rows, self.fc1.weight.t(), alpha=a)
        if isinstance(self.dropout, nn.Identity):
            return activate_linear(hidden, self.fc2.weight, self.fc2.bias, "silu", 1 / a).view(*x.shape[:-1], -1)
        hidden = self.dropout(F.silu(hidden))
        return torch.addmm(self.fc2.bias, hidden, self.fc2.weight.t(), alpha=1 / a).view(*x.shape[:-1], -1)


class CLIPBlock(nn.Module):
    """A pre-norm transformer block of CLIP; `drop_path` is the chance to drop a branch."""

    def __init__(self, width: int, heads: int, mlp: int, drop_path: float = 0.0, causal: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, 1e-5)
        self.attn = CLIPAttention(width, heads, causal)
        self.norm2 = nn.LayerNorm(width, 1e-5)
        self.mlp = CLIPMLP(width, mlp)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, at: Tensor | None = None) -> Tensor:
        """`[B, N, D]` to the same; with `at` `[B]`, that token of each alone, `[B, 1, D]`: all that a feature needs of
        the last block."""
        h = self.norm1(x)
        if at is None:
            x = x + self.drop_path(self.attn(h))
        else:
            x = x.take_along_dim(at[:, None, None], dim=1) + self.drop_path(self.attn.at(h, at))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def start_blocks(blocks: nn.ModuleList, width: int) -> None:
    """Weights of new blocks as CLIP starts them (OpenAI `clip/model.py: CLIP.initialize_parameters`)."""
    inner = width**-0.5 * (2 * len(blocks)) ** -0.5
    for block in blocks:
        nn.init.normal_(block.attn.qkv.weight, std=width**-0.5)
        nn.init.normal_(block.attn.proj.weight, std=inner)
        nn.init.normal_(block.mlp.fc1.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.fc2.weight, std=inner)
        for linear in (block.attn.qkv, block.attn.proj):
            nn.init.zeros_(linear.bias)


def fit_clip_table(table: Tensor, grid: Grid) -> Tensor:
    """A position table `[1 + n, D]` brought to `grid`'s rows and columns: bicubic, the class token's row as it is."""
    side = math.isqrt(len(table) - 1)
    if side * side != len(table) - 1:
        raise ValueError(f"CLIP's position table has {len(table)} rows, which is no class token and a square")
    patches = resize_table(table[1:].float(), (1, side, side), (1, *grid[1:])).to(table.dtype)
    return torch.cat((table[:1], patches))


class Seen(NamedTuple):
    """What CLIPVision makes of a video.

    features: of each tapped layer, `[B, K, out]`, at the tokens of `keep`.
    attention: of the last block's class token to each patch, the mean of its heads, `[B, T, n]`; a row sums to less
        than 1, since the class token looks at itself too.
    keep: where the features stand, `[B, K]`.
    """

    features: list[Tensor]
    attention: Tensor
    keep: Tensor


class CLIPVision(nn.Module):
    """CLIP's image encoder over the frames of a video.

    Args:
        width, depth, heads, mlp: channels, blocks, attention heads, hidden channels of the MLP.
        patch, size: pixels of a token and of a frame. Weights of another size have their positions resized.
        out: channels after the projection; None for no projection.
    """

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp: int = 3072,
        patch: int = 16,
        size: int = 224,
        out: int | None = 512,
    ) -> None:
        super().__init__()
        self.width, self.patch, self.size, self.out = width, patch, size, out or width
        self.grid: Grid = token_grid(1, size, 1, patch)
        self.patch_embed = PatchEmbed(width, 1, patch, bias=False)
        self.cls_token = nn.Parameter(torch.empty(width))
        self.pos_embed = nn.Parameter(torch.empty(1 + self.grid[1] * self.grid[2], width))
        self.norm_pre = nn.LayerNorm(width, 1e-5)
        self.blocks = nn.ModuleList(CLIPBlock(width, heads, mlp) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-5)
        self.proj = nn.Linear(width, out, bias=False) if out else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as OpenAI's `VisionTransformer` does."""
        nn.init.normal_(self.cls_token, std=self.width**-0.5)
        nn.init.normal_(self.pos_embed, std=self.width**-0.5)
        if isinstance(self.proj, nn.Linear):
            nn.init.normal_(self.proj.weight, std=self.width**-0.5)

    def fit_table(self, table: Tensor) -> Tensor:
        """A saved position table, brought to this size."""
        return fit_clip_table(table, self.grid)

    def forward(
        self,
        video: Tensor,
        keep: Tensor | None = None,
        taps: Sequence[int] = (),
        choose: Callable[[Tensor], Tensor] | None = None,
        even: bool = True,
    ) -> Seen:
        """Features of `video` `[B, 3, T, H, W]`, normalised.

        Args:
            keep: the tokens `[B, K]` that the tower sees, as many in each frame; None: all.
            taps: numbers of the blocks whose features are wanted; none: the last.
            choose: from the attention `[B, T, n]` to the tokens `[B, K]` whose features are wanted, of the `T * n` that
                the tower sees; None: all of them.
            even: whether `choose` takes as many from each frame, which alone saves the work on the others.
        """
        if video.shape[3:] != (self.size, self.size):
            raise ValueError(
                f"CLIP was made for {self.size} x {self.size} pixels and was given {tuple(video.shape[3:])}: "
                "resize them, or set its size"
            )
        x = self._embed(video, keep)
        (b, t), n = video.shape[:3:2], x.shape[1] - 1
        *early, last = self.blocks
        taps = taps or (len(early),)
        tapped = {}
        for i, block in enumerate(early):
            x = block(x)
            if i in taps:
                tapped[i] = x

        h = last.norm1(x)
        k, v = last.attn.keys_values(h)
        attention = _class_attention(last.attn.queries(h[:, :1]), k).view(b, t, n)
        chosen = None if choose is None else choose(attention)
        rows = chosen.view(b * t, -1) % n if chosen is not None and even else None  # [B * T, K / T] within a frame
        x = _patches(x, rows) + last.attn.merge(attend(last.attn.queries(_patches(h, rows)), k, v))
        x = x + last.mlp(last.norm2(x))

        layers = [x if i == len(early) else _patches(tapped[i], rows) for i in taps]
        layers = [layer.reshape(b, -1, self.width) for layer in layers]
        if chosen is not None and not even:
            layers = [layer.take_along_dim(chosen[..., None], dim=1) for layer in layers]
        if chosen is None:
            chosen = torch.arange(t * n, device=x.device).expand(b, -1)
        where = chosen if keep is None else keep.gather(1, chosen)
        return Seen([self.proj(self.norm(layer)) for layer in layers], attention, where)

    def _embed(self, video: Tensor, keep: Tensor | None) -> Tensor:
        """A class token and patches a frame, `[B * T, 1 + n, D]`."""
        b, t = video.shape[:3:2]
        x = self.patch_embed(video, keep).view(b * t, -1, self.width)
        return self.norm_pre(with_places(x, self.cls_token, self.pos_embed, keep))


def with_places(patches: Tensor, cls_token: Tensor, pos_embed: Tensor, keep: Tensor | None) -> Tensor:
    """A class token and `patches` of frames `[F, k, D]`, each at its place: `[F, 1 + k, D]`.

    Args:
        pos_embed: of the class token and the `n` places of a frame, `[1 + n, D]`.
        keep: where the patches stand in their clips, `[B, K]`, as many in each frame; None: all are there.
    """
    places = pos_embed[1:]
    if keep is not None:
        places = places[keep.reshape(len(patches), -1) % len(places)]
    start = (cls_token + pos_embed[0]).to(patches.dtype).expand(len(patches), 1, -1)
    return torch.cat((start, patches + places.to(patches.dtype)), dim=1)


def _patches(x: Tensor, rows: Tensor | None) -> Tensor:
    """The patches of `rows` `[F, K]`, or all, of `[F, 1 + n, D]`: without the class token."""
    return x[:, 1:] if rows is None else x.take_along_dim(rows[..., None] + 1, dim=1)


def _class_attention(q: Tensor, k: Tensor) -> Tensor:
    """How much the class token looks at each patch, the mean of the heads: `[F, heads, 1 or 1 + n, d]` to `[F, n]`."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # [F, heads, 1, 1 + n]
    return scores.float().softmax(dim=-1)[:, :, 0, 1:].mean(dim=1)
