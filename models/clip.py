"""CLIPVision: CLIP's vision tower, applied to every frame of a video separately; the teacher of UMT.

Notable: a class token and learnt positions per frame; biases on q, k and v; QuickGELU; LayerNorm with eps 1e-5; all
tapped layers share the final norm and projection. The output tokens can be chosen by the attention of the last block's
class token: then only they are computed in its queries and MLP, the norm and the projection.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.fused_activation import activate_linear
from models.layers import Blocks, Grid, PatchEmbed, attend, branch_factors, require_positive, scale_branch, token_grid
from models.positions import resize_table

# Named sizes of OpenAI's release; `out` is the shared width of image and text features.
CLIP_SIZES: dict[str, dict[str, int]] = {
    "base": {"width": 768, "depth": 12, "heads": 12, "mlp": 3072, "patch": 16, "size": 224, "out": 512},
    "large": {"width": 1024, "depth": 24, "heads": 16, "mlp": 4096, "patch": 14, "size": 224, "out": 768},
}


class CLIPAttention(nn.Module):
    """Self-attention with one fused projection and all biases, as in torch's MultiheadAttention; with `causal`, a token
    attends to itself and earlier tokens."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is not a multiple of heads {heads}")
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.output(attend(q, k, v, causal=self.causal))

    def at_token(self, x: Tensor, index: Tensor) -> Tensor:
        """The output `[B, 1, D]` for one query per sample: token `index` `[B]` of `x` `[B, N, D]`."""
        q = self.queries(x.take_along_dim(index[:, None, None], dim=1))
        k, v = self.keys_values(x)
        if not self.causal:
            return self.output(attend(q, k, v))
        mask = torch.arange(x.shape[1], device=x.device) <= index[:, None]
        return self.output(F.scaled_dot_product_attention(q, k, v, mask[:, None, None]))

    def output(self, attended: Tensor) -> Tensor:
        """The outputs of all heads, `[B, heads, N, d]`, joined and projected, `[B, N, D]`."""
        return self.proj(attended.transpose(1, 2).flatten(2))

    def queries(self, x: Tensor) -> Tensor:
        """Queries `[B, heads, N, d]` of `x` `[B, N, D]`."""
        width = self.proj.in_features
        q = F.linear(x, self.qkv.weight[:width], self.qkv.bias[:width])
        return q.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of `x` `[B, N, D]`, each `[B, heads, N, d]`."""
        width = self.proj.in_features
        kv = F.linear(x, self.qkv.weight[width:], self.qkv.bias[width:])
        k, v = kv.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return k, v


class CLIPMLP(nn.Module):
    """Two linear layers with QuickGELU between them, `x * sigmoid(1.702 x)`.

    That equals `silu(1.702 x) / 1.702`, whose factors the matrix products apply: one pass over memory instead of three.
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


class CLIPLayers(nn.Module):
    """The layers of a pre-norm transformer block of CLIP; `drop_path` is the probability to drop a branch."""

    def __init__(self, width: int, heads: int, mlp: int, drop_path: float = 0.0, causal: bool = False) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, 1e-5)
        self.attn = CLIPAttention(width, heads, causal)
        self.norm2 = nn.LayerNorm(width, 1e-5)
        self.mlp = CLIPMLP(width, mlp)
        self.drop_path = drop_path


class CLIPBlock(CLIPLayers):
    """A pre-norm transformer block of CLIP."""

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """`[B, N, D]` to the same shape; with `index` `[B]`, only that token of each sample, `[B, 1, D]`: all that a
        feature needs of the last block."""
        rate = self.drop_path if self.training else 0.0
        return self.compute(x, index, branch_factors(x, rate), branch_factors(x, rate))

    def compute(
        self, x: Tensor, index: Tensor | None, attn_factors: Tensor | None, mlp_factors: Tensor | None
    ) -> Tensor:
        """`forward`, given the branches' factors; this is what is compiled."""
        h = self.norm1(x)
        if index is None:
            x = x + scale_branch(self.attn(h), attn_factors)
        else:
            x = x.take_along_dim(index[:, None, None], dim=1) + scale_branch(self.attn.at_token(h, index), attn_factors)
        return x + scale_branch(self.mlp(self.norm2(x)), mlp_factors)


def init_blocks(blocks: "Blocks[CLIPLayers]", width: int) -> None:
    """Initialises blocks as CLIP does (OpenAI `clip/model.py: CLIP.initialize_parameters`)."""
    inner = width**-0.5 * (2 * len(blocks)) ** -0.5
    for block in blocks:
        nn.init.normal_(block.attn.qkv.weight, std=width**-0.5)
        nn.init.normal_(block.attn.proj.weight, std=inner)
        nn.init.normal_(block.mlp.fc1.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.mlp.fc2.weight, std=inner)
        for linear in (block.attn.qkv, block.attn.proj):
            nn.init.zeros_(linear.bias)


def fit_clip_table(table: Tensor, grid: Grid) -> Tensor:
    """A position table `[1 + n, D]` resized to `grid`'s rows and columns, bicubic; the class token's row is kept."""
    side = math.isqrt(len(table) - 1)
    if side * side != len(table) - 1:
        raise ValueError(f"CLIP's position table has {len(table)} rows, not 1 for the class token and a square number")
    patches = resize_table(table[1:].float(), (1, side, side), (1, *grid[1:])).to(table.dtype)
    return torch.cat((table[:1], patches))


class CLIPOutput(NamedTuple):
    """The output of CLIPVision for a video.

    features: of each tapped layer, `[B, K, out]`, of the tokens `keep`.
    attention: of the last block's class token to each patch, averaged over heads, `[B, T, n]`; a row sums to less than
        1, since the class token attends to itself too. None: a `FrameTeacher` without a class token, or not asked.
    keep: the indices of those tokens, `[B, K]`.
    """

    features: list[Tensor]
    attention: Tensor | None
    keep: Tensor


class CLIPVision(nn.Module):
    """CLIP's image encoder, applied to the frames of a video.

    Args:
        width, depth, heads, mlp: channels, blocks, attention heads, hidden channels of the MLP.
        patch, size: pixels of a token and of a frame. The positions of weights of another size are resized.
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
        require_positive(width=width, depth=depth, heads=heads, mlp=mlp)
        self.width, self.patch, self.size, self.out = width, patch, size, out or width
        self.grid: Grid = token_grid(1, size, 1, patch)
        self.patch_embed = PatchEmbed(width, 1, patch, bias=False)
        self.cls_token = nn.Parameter(torch.empty(width))
        self.pos_embed = nn.Parameter(torch.empty(1 + self.grid[1] * self.grid[2], width))
        self.norm_pre = nn.LayerNorm(width, 1e-5)
        self.blocks = Blocks(CLIPBlock(width, heads, mlp) for _ in range(depth))
        self.norm = nn.LayerNorm(width, 1e-5)
        self.proj = nn.Linear(width, out, bias=False) if out else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as OpenAI's `VisionTransformer` does."""
        nn.init.normal_(self.cls_token, std=self.width**-0.5)
        nn.init.normal_(self.pos_embed, std=self.width**-0.5)
        if isinstance(self.proj, nn.Linear):
            nn.init.normal_(self.proj.weight, std=self.width**-0.5)

    def fit_table(self, table: Tensor) -> Tensor:
        """A saved position table, resized to this size."""
        return fit_clip_table(table, self.grid)

    def forward(
        self,
        video: Tensor,
        keep: Tensor | None = None,
        taps: Sequence[int] = (),
        choose: Callable[[Tensor], Tensor] | None = None,
        even: bool = True,
    ) -> CLIPOutput:
        """Features of `video` `[B, 3, T, H, W]`, normalised.

        Args:
            keep: indices `[B, K]` of the visible tokens, equally many in each frame; None: all.
            taps: indices of the blocks whose features are returned; empty: the last.
            choose: maps the attention `[B, T, n]` to the indices `[B, K]` of the tokens whose features are returned,
                among the `T * n` visible ones; None: all of them.
            even: whether `choose` takes equally many tokens of each frame; only then the others are not computed.
        """
        if video.shape[3:] != (self.size, self.size):
            raise ValueError(
                f"CLIP was made for {self.size} x {self.size} pixels and was given {tuple(video.shape[3:])}: "
                "resize the frames, or set its size"
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
        x = _patches(x, rows) + last.attn.output(attend(last.attn.queries(_patches(h, rows)), k, v))
        x = x + last.mlp(last.norm2(x))

        layers = [x if i == len(early) else _patches(tapped[i], rows) for i in taps]
        layers = [layer.reshape(b, -1, self.width) for layer in layers]
        if chosen is not None and not even:
            layers = [layer.take_along_dim(chosen[..., None], dim=1) for layer in layers]
        if chosen is None:
            chosen = torch.arange(t * n, device=x.device).expand(b, -1)
        index = chosen if keep is None else keep.gather(1, chosen)
        return CLIPOutput([self.proj(self.norm(layer)) for layer in layers], attention, index)

    def _embed(self, video: Tensor, keep: Tensor | None) -> Tensor:
        """A class token and patches per frame, `[B * T, 1 + n, D]`."""
        b, t = video.shape[:3:2]
        x = self.patch_embed(video, keep).view(b * t, -1, self.width)
        return self.norm_pre(add_positions(x, self.cls_token, self.pos_embed, keep))


def add_positions(patches: Tensor, cls_token: Tensor, pos_embed: Tensor, keep: Tensor | None) -> Tensor:
    """A class token and `patches` of frames `[F, k, D]` with their positions added: `[F, 1 + k, D]`.

    Args:
        pos_embed: of the class token and the `n` patches of a frame, `[1 + n, D]`.
        keep: indices of the patches in their clips, `[B, K]`, equally many in each frame; None: all are present.
    """
    positions = pos_embed[1:]
    if keep is not None:
        positions = positions[keep.reshape(len(patches), -1) % len(positions)]
    cls_tokens = (cls_token + pos_embed[0]).to(patches.dtype).expand(len(patches), 1, -1)
    return torch.cat((cls_tokens, patches + positions.to(patches.dtype)), dim=1)


def _patches(x: Tensor, rows: Tensor | None) -> Tensor:
    """The patches at `rows` `[F, K]`, or all, of `[F, 1 + n, D]`, without the class token."""
    return x[:, 1:] if rows is None else x.take_along_dim(rows[..., None] + 1, dim=1)


def _class_attention(q: Tensor, k: Tensor) -> Tensor:
    """Attention of the class token to each patch, averaged over heads: `[F, heads, 1 or 1 + n, d]` to `[F, n]`."""
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)  # [F, heads, 1, 1 + n]
    return scores.float().softmax(dim=-1)[:, :, 0, 1:].mean(dim=1)
