"""UniFormerV2: CLIP's image tower over the frames of a video, whose deep layers one learnt query reads across time.

Notable: attention inside frames alone, so that a fresh one is CLIP averaged over frames (the query's branches start at
0); optional depthwise convolutions over time in every block; the query's answer and the frames' class tokens are mixed
channel by channel. InternVideo's multimodal encoder is the one without convolutions over time.

Letters in shapes: B videos, t time slices, n patches a slice, k of them seen, D width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.classifier import Classifier
from models.clip import CLIPBlock, fit_clip_table, start_blocks, with_places
from models.encoder import Encoder
from models.extractor import Extractor, FramePatches, LocalBlock
from models.layers import Grid, token_grid


class Encoded(NamedTuple):
    """What UniFormerV2 makes of a video.

    vector: of the whole video, before its norm, `[B, D]`.
    tokens: of the last block, each slice's class token first, `[B, t * (1 + k), D]`; no norm.
    tapped: the same of other blocks.
    """

    vector: Tensor
    tokens: Tensor
    tapped: list[Tensor]


class UniFormerV2(Encoder):
    """CLIP's tower over frames and a query over time: `UniFormerV2(**CLIP_SIZES["base"], reads=(8, 9, 10, 11))`.

    Args:
        width, depth, heads, mlp: channels, blocks, attention heads, hidden channels of the MLP.
        patch, size: pixels of a token and of a frame. Positions of weights of another size are resized.
        frames: of a clip; a clip of one frame is a picture, which every encoder takes.
        out: channels of the feature that is compared with text; None for a classifier: no projection.
        reads: the blocks after which the query reads, in ascending order (the official `return_list`).
        local: convolutions over time in a block: 0 (Kinetics, InternVideo), 1 or 2 (Something-Something).
        reduction: how many times fewer channels those have.
        downsample: tokens overlap in time, three frames deep and two apart; the time slices are half the frames.
        balance: mix the query's answer with the mean of the frames' class tokens; False: the answer alone, as in the
            frozen variant.
        frozen: train neither the blocks nor what comes before them.
        drop_path: stochastic depth of the last block; the others rise to it linearly from 0.
        reader_drop_path: the same of the readers.
        dropout: in the readers' MLPs.

    Source: InternVideo1 `Pretrain/UniFormerV2/slowfast/models/uniformerv2_model.py`, `clip_vit_only_global.py`.
    """

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp: int = 3072,
        patch: int = 16,
        frames: int = 8,
        size: int = 224,
        out: int | None = 512,
        reads: Sequence[int] = (8, 9, 10, 11),
        local: int = 0,
        reduction: float = 1.5,
        downsample: bool = False,
        balance: bool = True,
        frozen: bool = False,
        drop_path: float = 0.0,
        reader_drop_path: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if local not in (0, 1, 2):
            raise ValueError(f"a block has 0, 1 or 2 convolutions over time, not {local}: set `local`")
        if not reads or list(reads) != sorted(set(reads)) or not 0 <= reads[0] <= reads[-1] < depth:
            raise ValueError(f"`reads` are numbers of blocks in ascending order, below {depth}, not {list(reads)}")
        self.width, self.patch, self.tubelet, self.out = width, patch, 2 if downsample else 1, out
        self.frames, self.size, self.reads, self.local = frames, size, tuple(reads), local
        _, rows, columns = token_grid(1, size, 1, patch)
        self.grid: Grid = (-(-frames // self.tubelet), rows, columns)
        self.patch_embed = FramePatches(width, patch, downsample)
        self.cls_token = nn.Parameter(torch.empty(width))
        self.pos_embed = nn.Parameter(torch.empty(1 + rows * columns, width))
        self.norm_pre = nn.LayerNorm(width, 1e-5)
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(
            LocalBlock(width, heads, mlp, rate, local, reduction) if local else CLIPBlock(width, heads, mlp, rate)
            for rate in rates
        )
        self.query = nn.Parameter(torch.empty(width))
        rates = torch.linspace(0, reader_drop_path, len(self.reads), device="cpu").tolist()
        self.extractors = nn.ModuleList(Extractor(width, heads, 4 * width, dropout, rate) for rate in rates)
        self.balance = nn.Parameter(torch.empty(width)) if balance else None
        self.norm = nn.LayerNorm(width, 1e-5)
        self.proj = nn.Linear(width, out, bias=False) if out else nn.Identity()
        self.reset_parameters()
        if frozen:
            for part in (self.patch_embed, self.norm_pre, self.blocks):
                part.requires_grad_(False)
            self.cls_token.requires_grad_(False)
            self.pos_embed.requires_grad_(False)

    def reset_parameters(self) -> None:
        """Start as OpenAI's `VisionTransformer` does, with a query and a balance of 0."""
        nn.init.normal_(self.cls_token, std=self.width**-0.5)
        nn.init.normal_(self.pos_embed, std=self.width**-0.5)
        nn.init.zeros_(self.query)
        if self.balance is not None:
            nn.init.zeros_(self.balance)
        if isinstance(self.proj, nn.Linear):
            nn.init.normal_(self.proj.weight, std=self.width**-0.5)
        start_blocks(self.blocks, self.width)

    def fit_table(self, table: Tensor) -> Tensor:
        """A saved position table, brought to this size."""
        return fit_clip_table(table, self.grid)

    def forward(
        self, video: Tensor, keep: Tensor | None = None, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """The patches' tokens: see `Encoder.forward`; they pass no norm, which is the video vector's alone.

        `keep` has as many tokens in each time slice (`RandomFrames`, `Tube`).
        """
        made = self.encode(video, keep, taps)
        slices = self._slices(video)
        patches = [x.unflatten(1, (slices, -1))[:, :, 1:].flatten(1, 2) for x in (made.tokens, *made.tapped)]
        return (patches[0], patches[1:]) if taps else patches[0]

    def look(self, video: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The feature `[B, out]` of `video` `[B, 3, T, H, W]`, normalised, not of length 1, and all of its tokens,
        those of classes too, `[B, t * (1 + k), D]`."""
        made = self.encode(video, keep)
        return self.proj(self.norm(made.vector)), made.tokens

    def feature(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        """The feature of `look`, `[B, out]`; the query reads all tokens, so it costs the same."""
        return self.look(video, keep)[0]

    def summary(self, video: Tensor) -> Tensor:
        """The video vector through its norm, `[B, D]`."""
        return self.norm(self.encode(video).vector)

    def encode(self, video: Tensor, keep: Tensor | None = None, taps: Sequence[int] = ()) -> Encoded:
        """See `Encoded`. Raises ValueError where the clip is not of the size that the model was made for, or where
        tokens are dropped that convolutions over time need."""
        b, slices = len(video), self._slices(video)
        if keep is not None and (self.local or self.tubelet > 1 or keep.shape[1] % slices):
            raise ValueError(
                "UniFormerV2 drops tokens where nothing reaches over time inside its blocks (local 0, no downsample), "
                "and as many of each frame: use RandomFrames or Tube, or no mask"
            )
        x = self._embed(video, keep, slices)
        query, tapped, readers = self.query.expand(b, 1, -1), {}, dict(zip(self.reads, self.extractors, strict=True))
        for i, block in enumerate(self.blocks):
            x = block(x, slices) if self.local else block(x)  # [B * t, 1 + k, D]
            tokens = x.unflatten(0, (b, slices))
            if i in readers:
                query = readers[i](query, tokens, (slices, *self.grid[1:]), keep)
            if i in taps:
                tapped[i] = tokens.flatten(1, 2)
        vector = query[:, 0]
        if self.balance is not None:
            share = self.balance.sigmoid()
            vector = (1 - share) * vector + share * tokens[:, :, 0].mean(dim=1)
        return Encoded(vector, tokens.flatten(1, 2), [tapped[i] for i in taps])

    def _slices(self, video: Tensor) -> int:
        self.check(video, 1)
        return -(-video.shape[2] // self.tubelet)

    def _embed(self, video: Tensor, keep: Tensor | None, slices: int) -> Tensor:
        """A class token and patches a slice, `[B * t, 1 + k, D]`."""
        x = self.patch_embed(video, keep).reshape(len(video) * slices, -1, self.width)
        return self.norm_pre(with_places(x, self.cls_token, self.pos_embed, keep))


class UniFormerV2Classifier(Classifier):
    """Class scores of a UniFormerV2: its video vector through its own norm, and a linear head.

    Args:
        encoder: with `out=None`.
        classes: number of classes.
        dropout: before the head.
    """

    def __init__(self, encoder: UniFormerV2, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        if encoder.out is not None:
            raise ValueError("a classifier has no use for the projection to texts: give UniFormerV2 out: null")
        self.encoder = encoder
        self.classes, self.width = classes, encoder.width
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(encoder.width, classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def features(self, video: Tensor) -> Tensor:
        return self.encoder.feature(video)

    def score(self, features: Tensor) -> Tensor:
        return self.head(self.dropout(features))
