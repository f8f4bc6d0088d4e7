"""UniFormerV2: CLIP's image tower over the frames of a video; one learnt query attends to all frames of deep layers.

Notable: self-attention is within a frame; extractors (cross-attention of the query) are initially the identity, so the
untrained model is CLIP averaged over frames; optional depthwise convolutions over time in every block; the query and
the frames' class tokens are mixed per channel. InternVideo's multimodal encoder has no convolutions over time.

Letters in shapes: B videos, t time slices, n patches per slice, k of them visible, D width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.classifier import Classifier
from models.clip import CLIPBlock, add_positions, fit_clip_table, init_blocks
from models.encoder import Encoder
from models.extractor import Extractor, FramePatches, LocalBlock
from models.layers import Blocks, Grid, require_positive, token_grid


class Encoded(NamedTuple):
    """The output of UniFormerV2 for a video.

    vector: of the whole video, before its norm, `[B, D]`.
    tokens: of the last block, each slice's class token first, `[B, t * (1 + k), D]`, not normed.
    tapped: the same of the tapped blocks.
    """

    vector: Tensor
    tokens: Tensor
    tapped: list[Tensor]


class UniFormerV2(Encoder):
    """CLIP's tower over frames and a query over time: `UniFormerV2(**CLIP_SIZES["base"], reads=(8, 9, 10, 11))`.

    Args:
        width, depth, heads, mlp: channels, blocks, attention heads, hidden channels of the MLP.
        patch, size: pixels of a token and of a frame. The positions of weights of another size are resized.
        frames: of a clip; a clip of one frame is an image, which every encoder takes.
        out: channels of the feature that is compared with texts; None for a classifier: no projection.
        reads: the blocks that an extractor follows, in ascending order (the official `return_list`).
        local: convolutions over time per block: 0 (Kinetics, InternVideo), 1 or 2 (Something-Something).
        reduction: of their channels, as a factor.
        downsample: a token covers three frames, with stride two; there are half as many time slices as frames.
        balance: mix the query with the mean of the frames' class tokens; False: the query only, as in the frozen
            variant.
        frozen: do not train the blocks and the layers before them.
        drop_path: stochastic depth of the last block; the rate rises linearly from 0 at the first.
        reader_drop_path: the same of the extractors.
        dropout: in the extractors' MLPs.

    Source: InternVideo1 `Pretrain/UniFormerV2/slowfast/models/uniformerv2_model.py`, `clip_vit_only_global.py`.
    """

    blocks: "Blocks[CLIPBlock | LocalBlock]"

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
        require_positive(width=width, depth=depth, heads=heads, mlp=mlp)
        if local not in (0, 1, 2):
            raise ValueError(f"a block has 0, 1 or 2 convolutions over time, not {local}: set `local`")
        if not reads or list(reads) != sorted(set(reads)) or not 0 <= reads[0] <= reads[-1] < depth:
            raise ValueError(f"`reads` are indices of blocks in ascending order, below {depth}, not {list(reads)}")
        self.width, self.patch, self.tubelet, self.out = width, patch, 2 if downsample else 1, out
        self.frames, self.size, self.reads, self.local = frames, size, tuple(reads), local
        _, rows, columns = token_grid(1, size, 1, patch)
        self.grid: Grid = (-(-frames // self.tubelet), rows, columns)
        self.patch_embed = FramePatches(width, patch, downsample)
        self.cls_token = nn.Parameter(torch.empty(width))
        self.pos_embed = nn.Parameter(torch.empty(1 + rows * columns, width))
        self.norm_pre = nn.LayerNorm(width, 1e-5)
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = Blocks(
            LocalBlock(width, heads, mlp, rate, local, reduction) if local else CLIPBlock(width, heads, mlp, rate)
            for rate in rates
        )
        self.query = nn.Parameter(torch.empty(width))
        rates = torch.linspace(0, reader_drop_path, len(self.reads), device="cpu").tolist()
        self.extractors = Blocks(Extractor(width, heads, 4 * width, dropout, rate) for rate in rates)
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
        """Initialise as OpenAI's `VisionTransformer` does; query and balance are 0."""
        nn.init.normal_(self.cls_token, std=self.width**-0.5)
        nn.init.normal_(self.pos_embed, std=self.width**-0.5)
        nn.init.zeros_(self.query)
        if self.balance is not None:
            nn.init.zeros_(self.balance)
        if isinstance(self.proj, nn.Linear):
            nn.init.normal_(self.proj.weight, std=self.width**-0.5)
        init_blocks(self.blocks, self.width)

    def fit_table(self, table: Tensor) -> Tensor:
        """A saved position table, resized to this size."""
        return fit_clip_table(table, self.grid)

    def forward(
        self, video: Tensor, keep: Tensor | None = None, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """The patches' tokens: see `Encoder.forward`. They are not normed: only the video vector is.

        `keep` has equally many tokens in each time slice (`RandomFrames`, `Tube`).
        """
        encoded = self.encode(video, keep, taps)
        slices = self._slices(video)
        patches = [x.unflatten(1, (slices, -1))[:, :, 1:].flatten(1, 2) for x in (encoded.tokens, *encoded.tapped)]
        return (patches[0], patches[1:]) if taps else patches[0]

    def feature_and_tokens(self, video: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The feature `[B, out]` of `video` `[B, 3, T, H, W]`, normalised, and all tokens with the class tokens,
        `[B, t * (1 + k), D]`. The feature is not of unit length."""
        encoded = self.encode(video, keep)
        return self.proj(self.norm(encoded.vector)), encoded.tokens

    def feature(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        """The feature of `feature_and_tokens`, `[B, out]`, at the same cost: the query attends to all tokens."""
        return self.feature_and_tokens(video, keep)[0]

    def summary(self, video: Tensor) -> Tensor:
        """The normed video vector, `[B, D]`."""
        return self.norm(self.encode(video).vector)

    def encode(self, video: Tensor, keep: Tensor | None = None, taps: Sequence[int] = ()) -> Encoded:
        """See `Encoded`. Raises ValueError if the clip has another size than the model, or if tokens are masked that
        convolutions over time need."""
        b, slices = len(video), self._slices(video)
        if keep is not None and (self.local or self.tubelet > 1 or keep.shape[1] % slices):
            raise ValueError(
                "UniFormerV2 takes a mask only without convolutions over time (local 0, no downsample), and with "
                "equally many tokens per frame: use RandomFrames or Tube, or no mask"
            )
        x = self._embed(video, keep, slices)
        query, tapped, extractors = self.query.expand(b, 1, -1), {}, dict(zip(self.reads, self.extractors, strict=True))
        tokens = x.unflatten(0, (b, slices))
        for i, block in enumerate(self.blocks):
            x = block(x, slices) if self.local else block(x)  # [B * t, 1 + k, D]
            tokens = x.unflatten(0, (b, slices))
            if i in extractors:
                query = extractors[i](query, tokens, (slices, *self.grid[1:]), keep)
            if i in taps:
                tapped[i] = tokens.flatten(1, 2)
        vector = query[:, 0]
        if self.balance is not None:
            weight = self.balance.sigmoid()
            vector = (1 - weight) * vector + weight * tokens[:, :, 0].mean(dim=1)
        return Encoded(vector, tokens.flatten(1, 2), [tapped[i] for i in taps])

    def _slices(self, video: Tensor) -> int:
        self.check(video, 1)
        return -(-video.shape[2] // self.tubelet)

    def _embed(self, video: Tensor, keep: Tensor | None, slices: int) -> Tensor:
        """A class token and patches per slice, `[B * t, 1 + k, D]`."""
        x = self.patch_embed(video, keep).reshape(len(video) * slices, -1, self.width)
        return self.norm_pre(add_positions(x, self.cls_token, self.pos_embed, keep))


class UniFormerV2Classifier(Classifier):
    """Class scores of a UniFormerV2: its normed video vector and a linear head.

    Args:
        encoder: with `out=None`.
        classes: number of classes.
        dropout: before the head.
    """

    encoder: UniFormerV2  # pyrefly: ignore[bad-override-mutable-attribute] set once, in the constructor

    def __init__(self, encoder: UniFormerV2, classes: int, dropout: float = 0.5) -> None:
        super().__init__()
        if encoder.out is not None:
            raise ValueError("a classifier does not use the projection to text features: set UniFormerV2's out: null")
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
