"""What UniFormerV2 adds to CLIP's tower: convolutions over time, patches that overlap in time, and extractors.

Letters in shapes: B videos, t time slices, n patches per slice, k of them visible, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.clip import CLIPMLP, CLIPAttention, CLIPLayers
from models.layers import Grid, Normalize, attend, branch_factors, normalized, scale_branch, take_patches


class FramePatches(nn.Module):
    """Patches of frames to tokens `[B, K, D]`; with `overlap`, a token covers three frames, with stride two.

    `normalize`: see `PatchEmbed`.
    """

    def __init__(self, width: int, patch: int, overlap: bool = False) -> None:
        super().__init__()
        self.patch, self.overlap = patch, overlap
        self.normalize: Normalize | None = None
        kernel, stride = (3 if overlap else 1, patch, patch), (2 if overlap else 1, patch, patch)
        self.proj = nn.Conv3d(3, width, kernel, stride, padding=(int(overlap), 0, 0), bias=False)

    def forward(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        if self.overlap:
            video = normalized(video, self.normalize)
            return self.proj(video.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)
        patches = normalized(take_patches(video, keep, 1, self.patch), self.normalize).flatten(2)
        return F.linear(patches.to(self.proj.weight.dtype), self.proj.weight.flatten(1))


class LocalMix(nn.Module):
    """A bottleneck that mixes each patch with its neighbours in time: batch norm, and a depthwise convolution between
    two projections. Its output is initially 0. `reduction`: of the channels, as a factor.

    (UniFormerV2's local relation aggregator.)
    """

    def __init__(self, width: int, reduction: float = 1.5) -> None:
        super().__init__()
        hidden = int(width // reduction)
        self.norm = nn.BatchNorm3d(width)
        self.down = nn.Conv3d(width, hidden, 1)
        self.mix = nn.Conv3d(hidden, hidden, (3, 1, 1), padding=(1, 0, 0), groups=hidden)
        self.up = nn.Conv3d(hidden, width, 1)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """The residual of patches `[B, t, n, D]`, of the same shape."""
        x = x.permute(0, 3, 1, 2).unsqueeze(-1)  # [B, D, t, n, 1]
        return self.up(self.mix(self.down(self.norm(x)))).squeeze(-1).permute(0, 2, 3, 1)


class LocalBlock(CLIPLayers):
    """CLIP's block over frames, with a `LocalMix` before its attention and, if `local` is 2, one before its MLP."""

    def __init__(
        self, width: int, heads: int, mlp: int, drop_path: float = 0.0, local: int = 1, reduction: float = 1.5
    ) -> None:
        super().__init__(width, heads, mlp, drop_path)
        self.local1 = LocalMix(width, reduction)
        self.local2 = LocalMix(width, reduction) if local == 2 else None

    def forward(self, x: Tensor, slices: int) -> Tensor:
        """Frames `[B * t, 1 + n, D]` of videos of `t = slices`."""
        rate = self.drop_path if self.training else 0.0
        local1, attn = branch_factors(x[::slices], rate, 4), branch_factors(x, rate)
        local2 = None if self.local2 is None else branch_factors(x[::slices], rate, 4)
        return self.compute(x, slices, local1, attn, local2, branch_factors(x, rate))

    def compute(
        self,
        x: Tensor,
        slices: int,
        local1_factors: Tensor | None,
        attn_factors: Tensor | None,
        local2_factors: Tensor | None,
        mlp_factors: Tensor | None,
    ) -> Tensor:
        """`forward`, given the branches' factors; this is what is compiled."""
        x = _mix(self.local1, x, slices, local1_factors)
        x = x + scale_branch(self.attn(self.norm1(x)), attn_factors)
        if self.local2 is not None:
            x = _mix(self.local2, x, slices, local2_factors)
        return x + scale_branch(self.mlp(self.norm2(x)), mlp_factors)


def _mix(local: LocalMix, x: Tensor, slices: int, factors: Tensor | None) -> Tensor:
    """Frames `[B * t, 1 + n, D]` with the residual of `local` on their patches."""
    cls_token, patches = x[:, :1], x[:, 1:].unflatten(0, (-1, slices))
    patches = patches + scale_branch(local(patches), factors)
    return torch.cat((cls_token, patches.flatten(0, 1)), dim=1)


class Extractor(nn.Module):
    """Cross-attention of one query to the tokens of all frames, whose patches first pass a depthwise 3D convolution.

    Args:
        dropout: in the MLP; drop_path: the probability to drop a branch.
    """

    def __init__(self, width: int, heads: int, mlp: int, dropout: float = 0.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.place = nn.Conv3d(width, width, 3, padding=1, groups=width)
        self.norm1 = nn.LayerNorm(width, 1e-5)
        self.norm_tokens = nn.LayerNorm(width, 1e-5)
        self.attn = CLIPAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, 1e-5)
        self.mlp = CLIPMLP(width, mlp, dropout)
        self.drop_path = drop_path
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Both branches output 0 initially: the query passes unchanged."""
        if self.place.bias is not None:
            nn.init.zeros_(self.place.bias)
        nn.init.xavier_uniform_(self.attn.qkv.weight)
        nn.init.xavier_uniform_(self.mlp.fc1.weight)
        for zero in (self.attn.qkv.bias, *self.attn.proj.parameters(), *self.mlp.fc2.parameters()):
            nn.init.zeros_(zero)

    def forward(self, query: Tensor, tokens: Tensor, grid: Grid, index: Tensor | None = None) -> Tensor:
        """The query `[B, 1, D]` after cross-attention to `tokens` `[B, t, 1 + k, D]`, class tokens first.

        Args:
            index: of the patches in `grid`, in raster order, `[B, t * k]`; None: all are present. The convolution takes
                masked patches as zeros.
        """
        rate = self.drop_path if self.training else 0.0
        return self.compute(query, tokens, grid, index, branch_factors(query, rate), branch_factors(query, rate))

    def compute(
        self,
        query: Tensor,
        tokens: Tensor,
        grid: Grid,
        index: Tensor | None,
        attn_factors: Tensor | None,
        mlp_factors: Tensor | None,
    ) -> Tensor:
        """`forward`, given the branches' factors; this is what is compiled."""
        k, v = self.attn.keys_values(self.sources(tokens, grid, index))
        attended = self.attn.output(attend(self.attn.queries(self.norm1(query)), k, v))
        query = query + scale_branch(attended, attn_factors)
        return query + scale_branch(self.mlp(self.norm2(query)), mlp_factors)

    def sources(self, tokens: Tensor, grid: Grid, index: Tensor | None) -> Tensor:
        """What keys and values are projected from: the tokens after convolution and norm, `[B, t * (1 + k), D]`."""
        patches = tokens[:, :, 1:].flatten(1, 2)  # [B, t * k, D]
        dense = patches
        if index is not None:
            zeros = patches.new_zeros(len(patches), grid[0] * grid[1] * grid[2], patches.shape[2])
            dense = zeros.scatter(1, index[..., None].expand_as(patches), patches)
        mixed = self.place(dense.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)
        patches = patches + (mixed if index is None else mixed.take_along_dim(index[..., None], dim=1))
        patches = patches.view(*tokens.shape[:2], -1, tokens.shape[3])
        return self.norm_tokens(torch.cat((tokens[:, :, :1], patches), dim=2).flatten(1, 2))
