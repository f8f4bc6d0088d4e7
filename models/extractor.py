"""What UniFormerV2 adds to CLIP's tower: convolutions over time, patches that overlap in time, and readers of frames.

Letters in shapes: B videos, t time slices, n patches a slice, k of them seen, D width.
"""

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from models.clip import CLIPMLP, CLIPAttention, CLIPBlock
from models.layers import Grid, attend, take_patches


class FramePatches(nn.Module):
    """Patches of frames to tokens `[B, K, D]`; with `overlap`, of three frames, two apart."""

    def __init__(self, width: int, patch: int, overlap: bool = False) -> None:
        super().__init__()
        self.patch, self.overlap = patch, overlap
        kernel, stride = (3 if overlap else 1, patch, patch), (2 if overlap else 1, patch, patch)
        self.proj = nn.Conv3d(3, width, kernel, stride, padding=(int(overlap), 0, 0), bias=False)

    def forward(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        if self.overlap:
            return self.proj(video.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2)
        patches = take_patches(video, keep, 1, self.patch).flatten(2)
        return F.linear(patches.to(self.proj.weight.dtype), self.proj.weight.flatten(1))


class LocalMix(nn.Module):
    """Each place mixed with its neighbours in time: batch norm, fewer channels, a depthwise convolution, and back.

    Starts at 0. `reduction`: by how much the channels are fewer. (UniFormerV2's local relation aggregator.)
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
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Patches `[B, t, n, D]` to what is added to them."""
        x = x.permute(0, 3, 1, 2).unsqueeze(-1)  # [B, D, t, n, 1]
        return self.up(self.mix(self.down(self.norm(x)))).squeeze(-1).permute(0, 2, 3, 1)


class LocalBlock(CLIPBlock):
    """CLIP's block over frames, with a `LocalMix` before its attention and, where `local` is 2, one before its MLP."""

    def __init__(
        self, width: int, heads: int, mlp: int, drop_path: float = 0.0, local: int = 1, reduction: float = 1.5
    ) -> None:
        super().__init__(width, heads, mlp, drop_path)
        self.local1 = LocalMix(width, reduction)
        self.local2 = LocalMix(width, reduction) if local == 2 else None

    def forward(self, x: Tensor, slices: int) -> Tensor:
        """Frames `[B * t, 1 + n, D]` of videos of `t = slices`."""
        x = self._mix(self.local1, x, slices)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        if self.local2 is not None:
            x = self._mix(self.local2, x, slices)
        return x + self.drop_path(self.mlp(self.norm2(x)))

    def _mix(self, local: LocalMix, x: Tensor, slices: int) -> Tensor:
        start, patches = x[:, :1], x[:, 1:].unflatten(0, (-1, slices))
        patches = patches + self.drop_path(local(patches))
        return torch.cat((start, patches.flatten(0, 1)), dim=1)


class Extractor(nn.Module):
    """A query that reads the tokens of all frames, whose patches have first met their neighbours in space and time.

    Args:
        dropout: in the MLP; drop_path: the chance to drop a branch.
    """

    def __init__(self, width: int, heads: int, mlp: int, dropout: float = 0.0, drop_path: float = 0.0) -> None:
        super().__init__()
        self.place = nn.Conv3d(width, width, 3, padding=1, groups=width)
        self.norm1 = nn.LayerNorm(width, 1e-5)
        self.norm_tokens = nn.LayerNorm(width, 1e-5)
        self.attn = CLIPAttention(width, heads)
        self.norm2 = nn.LayerNorm(width, 1e-5)
        self.mlp = CLIPMLP(width, mlp, dropout)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Both branches start at 0, so that a query passes as it is."""
        nn.init.zeros_(self.place.bias)
        nn.init.xavier_uniform_(self.attn.qkv.weight)
        nn.init.xavier_uniform_(self.mlp.fc1.weight)
        for silent in (self.attn.qkv.bias, *self.attn.proj.parameters(), *self.mlp.fc2.parameters()):
            nn.init.zeros_(silent)

    def forward(self, query: Tensor, tokens: Tensor, grid: Grid, where: Tensor | None = None) -> Tensor:
        """The query `[B, 1, D]` after reading `tokens` `[B, t, 1 + k, D]`, class tokens first.

        Args:
            where: places `[B, t * k]` of the patches in `grid`, raster order; None: all are there. Where a patch is
                missing, its neighbours meet zeros.
        """
        patches = tokens[:, :, 1:].flatten(1, 2)  # [B, t * k, D]
        dense = patches
        if where is not None:
            everywhere = patches.new_zeros(len(patches), grid[0] * grid[1] * grid[2], patches.shape[2])
            dense = everywhere.scatter(1, where[..., None].expand_as(patches), patches)
        met = self.place(dense.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2)
        patches = patches + (met if where is None else met.take_along_dim(where[..., None], dim=1))
        keys = torch.cat((tokens[:, :, :1], patches.view(*tokens.shape[:2], -1, tokens.shape[3])), dim=2).flatten(1, 2)
        k, v = self.attn.keys_values(self.norm_tokens(keys))
        read = self.attn.merge(attend(self.attn.queries(self.norm1(query)), k, v))
        query = query + self.drop_path(read)
        return query + self.drop_path(self.mlp(self.norm2(query)))
