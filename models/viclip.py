"""ViCLIPVision: CLIP's image tower as a video tower, by joint attention over all frames.

Notable: one class token per video; CLIP's learnt positions in every frame, plus a learnt one per time slice that starts
at 0; patches can be masked, the class token cannot.

Letters in shapes: B batch, T frames, N = t * h * w tokens, K kept tokens, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.clip import CLIPBlock, fit_clip_table, init_blocks
from models.encoder import Encoder
from models.layers import Blocks, Grid, PatchEmbed, require_positive, token_grid
from models.positions import fit_rows


class TimeTable(nn.Module):
    """A learnt position per time slice, `[t, D]`; initially zero."""

    def __init__(self, slices: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(slices, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.table)

    def fit_table(self, table: Tensor) -> Tensor:
        """A saved table, resized to this number of slices."""
        return fit_rows(table, len(self.table))


def inflate(kernel: Tensor, depth: int, centre: bool = True) -> Tensor:
    """An image kernel `[D, C, p, p]` as one over `depth` frames, `[D, C, depth, p, p]`: on the middle frame only, or
    spread evenly (ViCLIP `clip_vision.py: inflate_weight`)."""
    if not centre:
        return kernel.unsqueeze(2).repeat(1, 1, depth, 1, 1) / depth
    inflated = kernel.new_zeros(*kernel.shape[:2], depth, *kernel.shape[2:])
    inflated[:, :, depth // 2] = kernel
    return inflated


class ViCLIPVision(Encoder):
    """ViCLIP's video tower: `ViCLIPVision(**CLIP_SIZES["base"])` is B/16 at 8 x 224 x 224.

    Args:
        width, depth, heads, mlp: channels, blocks, attention heads, hidden channels of the MLP.
        patch, tubelet: pixels and frames that one token covers.
        frames, size: frames of a clip, height and width of a frame in pixels.
        out: channels of the feature that is compared with texts.
        drop_path: stochastic depth of the last block; the rate rises linearly from 0 at the first.
    """

    blocks: "Blocks[CLIPBlock]"

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp: int = 3072,
        patch: int = 16,
        tubelet: int = 1,
        frames: int = 8,
        size: int = 224,
        out: int = 512,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        require_positive(width=width, depth=depth, heads=heads, mlp=mlp)
        self.width, self.patch, self.tubelet, self.out = width, patch, tubelet, out
        self.frames, self.size = frames, size
        self.grid: Grid = token_grid(frames, size, tubelet, patch)
        self.patch_embed = PatchEmbed(width, tubelet, patch, bias=False)
        self.cls_token = nn.Parameter(torch.empty(width))
        self.pos_embed = nn.Parameter(torch.empty(1 + self.grid[1] * self.grid[2], width))
        self.time = TimeTable(self.grid[0], width)
        self.norm_pre = nn.LayerNorm(width, 1e-5)
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = Blocks(CLIPBlock(width, heads, mlp, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, 1e-5)
        self.proj = nn.Linear(width, out, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise as OpenAI's `VisionTransformer` does."""
        for parameter in (self.cls_token, self.pos_embed, self.proj.weight):
            nn.init.normal_(parameter, std=self.width**-0.5)
        init_blocks(self.blocks, self.width)

    def fit_table(self, table: Tensor) -> Tensor:
        """A saved position table, resized to this size."""
        return fit_clip_table(table, self.grid)

    def forward(
        self, video: Tensor, keep: Tensor | None = None, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """The patches' tokens: see `Encoder.forward`. `feature_and_tokens` returns the feature too."""
        x, tapped = self._encode(video, keep, taps)
        return (x[:, 1:], [layer[:, 1:] for layer in tapped]) if taps else x[:, 1:]

    def summary(self, video: Tensor) -> Tensor:
        """The class token, `[B, D]`."""
        return self._encode(video, None, ())[0][:, 0]

    def feature_and_tokens(self, video: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The feature `[B, out]` of `video` `[B, 3, T, H, W]`, normalised, and its tokens `[B, K, D]`.

        A clip of one tubelet is an image, which any encoder takes. The feature is not of unit length.
        """
        x, _ = self._encode(video, keep, ())
        return self.proj(x[:, 0]), x[:, 1:]

    def feature(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        """The feature of `feature_and_tokens` at less cost: the last block computes only the class token."""
        x = self._embed(video, keep)
        *early, last = self.blocks
        for block in early:
            x = block(x)
        first = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return self.proj(self.norm(last(x, first))[:, 0])

    def _encode(self, video: Tensor, keep: Tensor | None, taps: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """All normed tokens `[B, 1 + K, D]`, the class token first, and the normed outputs of the tapped blocks."""
        return self.run_blocks(self._embed(video, keep), taps)

    def _embed(self, video: Tensor, keep: Tensor | None) -> Tensor:
        """The input of the blocks, `[B, 1 + K, D]`."""
        self.check(video, self.tubelet)
        x = self.patch_embed(video, keep)
        x = x + self._positions(video.shape[2] // self.tubelet, keep).to(x.dtype)
        cls_token = (self.cls_token + self.pos_embed[0]).to(x.dtype).expand(len(x), 1, -1)
        return self.norm_pre(torch.cat((cls_token, x), dim=1))

    def _positions(self, slices: int, keep: Tensor | None) -> Tensor:
        """Positions in space plus time, `[N, D]`, or `[B, K, D]` of the visible tokens. An image has the mean of all
        times, which trains all of them."""
        time = self.time.table if slices == len(self.time.table) else self.time.table.mean(0, keepdim=True)
        table = (self.pos_embed[1:] + time[:, None]).flatten(0, 1)
        return table if keep is None else table[keep]
