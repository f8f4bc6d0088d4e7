"""ViCLIPVision: CLIP's image tower made a video's, by joint attention over all frames.

Notable: one class token a video; CLIP's learnt places in every frame, plus a learnt row a time slice that starts at 0,
so that a fresh one sees frames as CLIP does; patches may be dropped, the class token never.

Letters in shapes: B batch, T frames, N = t * h * w tokens, K kept tokens, D width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.clip import CLIPBlock, fit_clip_table, start_blocks
from models.encoder import Encoder
from models.layers import Grid, PatchEmbed, fit_rows, token_grid


class TimeTable(nn.Module):
    """A learnt row a time slice, `[t, D]`; zero at the start."""

    def __init__(self, slices: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(slices, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.table)

    def fit_table(self, table: Tensor) -> Tensor:
        """A saved table, brought to this number of slices."""
        return fit_rows(table, len(self.table))


def inflate(kernel: Tensor, depth: int, centre: bool = True) -> Tensor:
    """A kernel over pictures `[D, C, p, p]` for `depth` frames, `[D, C, depth, p, p]`: all of it on the middle frame,
    or spread evenly (ViCLIP `clip_vision.py: inflate_weight`)."""
    if not centre:
        return kernel.unsqueeze(2).repeat(1, 1, depth, 1, 1) / depth
    deep = kernel.new_zeros(*kernel.shape[:2], depth, *kernel.shape[2:])
    deep[:, :, depth // 2] = kernel
    return deep


class ViCLIPVision(Encoder):
    """ViCLIP's video tower: `ViCLIPVision(**CLIP_SIZES["base"])` is B/16 at 8 x 224 x 224.

    Args:
        width, depth, heads, mlp: channels, blocks, attention heads, hidden channels of the MLP.
        patch, tubelet: pixels and frames that one token covers.
        frames, size: frames of a clip, height and width of a frame in pixels.
        out: channels of the feature that is compared with text.
        drop_path: stochastic depth of the last block; the others rise to it linearly from 0.
    """

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
        self.width, self.patch, self.tubelet, self.out = width, patch, tubelet, out
        self.frames, self.size = frames, size
        self.grid: Grid = token_grid(frames, size, tubelet, patch)
        self.patch_embed = PatchEmbed(width, tubelet, patch, bias=False)
        self.cls_token = nn.Parameter(torch.empty(width))
        self.pos_embed = nn.Parameter(torch.empty(1 + self.grid[1] * self.grid[2], width))
        self.time = TimeTable(self.grid[0], width)
        self.norm_pre = nn.LayerNorm(width, 1e-5)
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(CLIPBlock(width, heads, mlp, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, 1e-5)
        self.proj = nn.Linear(width, out, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as OpenAI's `VisionTransformer` does."""
        for parameter in (self.cls_token, self.pos_embed, self.proj.weight):
            nn.init.normal_(parameter, std=self.width**-0.5)
        start_blocks(self.blocks, self.width)

    def fit_table(self, table: Tensor) -> Tensor:
        """A saved position table, brought to this size."""
        return fit_clip_table(table, self.grid)

    def forward(
        self, video: Tensor, keep: Tensor | None = None, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """The patches' tokens: see `Encoder.forward`. `look` gives the feature too."""
        x, tapped = self._encode(video, keep, taps)
        return (x[:, 1:], [layer[:, 1:] for layer in tapped]) if taps else x[:, 1:]

    def summary(self, video: Tensor) -> Tensor:
        """The class token, `[B, D]`."""
        return self._encode(video, None, ())[0][:, 0]

    def look(self, video: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The feature `[B, out]` of `video` `[B, 3, T, H, W]`, normalised, and its tokens `[B, K, D]`.

        A clip of one tubelet is a picture: any encoder takes it. The feature is not of length 1.
        """
        x, _ = self._encode(video, keep, ())
        return self.proj(x[:, 0]), x[:, 1:]

    def feature(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        """As the feature of `look`, for less: the last block gives the class token alone."""
        x = self._embed(video, keep)
        *early, last = self.blocks
        for block in early:
            x = block(x)
        start = torch.zeros(len(x), dtype=torch.long, device=x.device)
        return self.proj(self.norm(last(x, start))[:, 0])

    def _encode(self, video: Tensor, keep: Tensor | None, taps: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """All tokens `[B, 1 + K, D]` through the final norm, the class token first; and the tapped blocks' outputs."""
        return self.run_blocks(self._embed(video, keep), taps)

    def _embed(self, video: Tensor, keep: Tensor | None) -> Tensor:
        """The tokens that the blocks take, `[B, 1 + K, D]`."""
        self.check(video, self.tubelet)
        x = self.patch_embed(video, keep)
        x = x + self._positions(video.shape[2] // self.tubelet, keep).to(x.dtype)
        start = (self.cls_token + self.pos_embed[0]).to(x.dtype).expand(len(x), 1, -1)
        return self.norm_pre(torch.cat((start, x), dim=1))

    def _positions(self, slices: int, keep: Tensor | None) -> Tensor:
        """Places and times added up, `[N, D]` or, of the kept tokens, `[B, K, D]`. A picture stands at the mean time,
        and so trains all of them."""
        time = self.time.table if slices == len(self.time.table) else self.time.table.mean(0, keepdim=True)
        table = (self.pos_embed[1:] + time[:, None]).flatten(0, 1)
        return table if keep is None else table[keep]
