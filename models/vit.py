"""VideoViT: a plain vision transformer over tubelets, the encoder of VideoMAE V2 and the student of UMT.

Notable: only visible tubelets are embedded; fixed sinusoid positions over the flat token index; no class token;
biases on q and v but not on k; LayerNorm with eps 1e-6.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.encoder import Encoder
from models.layers import Block, Blocks, Grid, PatchEmbed, require_positive, token_grid
from models.positions import FixedPositions, LearntPositions

# Named sizes: VideoMAE V2 `models/modeling_finetune.py`; "giant" has patch 14 and an MLP ratio of 48/11.
SIZES: dict[str, dict[str, int]] = {
    "small": {"width": 384, "depth": 12, "heads": 6, "mlp": 1536, "patch": 16},
    "base": {"width": 768, "depth": 12, "heads": 12, "mlp": 3072, "patch": 16},
    "large": {"width": 1024, "depth": 24, "heads": 16, "mlp": 4096, "patch": 16},
    "huge": {"width": 1280, "depth": 32, "heads": 16, "mlp": 5120, "patch": 16},
    "giant": {"width": 1408, "depth": 40, "heads": 16, "mlp": 6144, "patch": 14},
}


class VideoViT(Encoder):
    """A ViT over tubelets: `VideoViT(**SIZES["base"])` is VideoMAE's ViT-B at 16 x 224 x 224.

    Args:
        width, depth, heads, mlp: channels, blocks, attention heads, hidden channels of the MLP.
        patch, tubelet: pixels and frames that one token covers.
        frames, size: frames of a clip, height and width of a frame in pixels.
        drop_path: stochastic depth of the last block; the rate rises linearly from 0 at the first.
        layer_scale: initial value of the branches' learnt scales; 0 means none.
        cosine: VideoMAE V2's optional cosine attention.
        norm: a final LayerNorm; mean-pooling classifiers have theirs after the pooling instead.
        made_for: the token grid that the pretrained weights were trained at, if it differs.
        learn_positions: a trained position table instead of the fixed one.
    """

    blocks: "Blocks[Block]"

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp: int = 3072,
        patch: int = 16,
        tubelet: int = 2,
        frames: int = 16,
        size: int = 224,
        drop_path: float = 0.0,
        layer_scale: float = 0.0,
        cosine: bool = False,
        norm: bool = True,
        made_for: Grid | None = None,
        learn_positions: bool = False,
    ) -> None:
        super().__init__()
        require_positive(width=width, depth=depth, heads=heads, mlp=mlp)
        self.width, self.patch, self.tubelet = width, patch, tubelet
        self.frames, self.size = frames, size
        self.grid = token_grid(frames, size, tubelet, patch)
        self.patch_embed = PatchEmbed(width, tubelet, patch)
        self.positions = (LearntPositions if learn_positions else FixedPositions)(self.grid, width, made_for)
        rates = torch.linspace(0, drop_path, depth, device="cpu").tolist()
        self.blocks = Blocks(Block(width, heads, mlp, rate, layer_scale, cosine) for rate in rates)
        self.norm = nn.LayerNorm(width, 1e-6) if norm else nn.Identity()

    def forward(
        self, video: Tensor, keep: Tensor | None = None, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """See `Encoder.forward` and `embed`."""
        x, tapped = self.run_blocks(self.embed(video, keep), taps)
        return (x, tapped) if taps else x

    def embed(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        """The input of the blocks, `[B, K, D]`. Raises ValueError if the clip has another size than the model.

        If a token is one frame deep, a clip of one frame is an image, which every such encoder takes. It gets the
        positions of the first frame: these rows of the sinusoid table equal an image's table.
        """
        self.check(video, 1 if self.tubelet == 1 else None)
        x = self.patch_embed(video, keep)
        positions = self.positions.of_image() if video.shape[2] < self.frames else self.positions()
        positions = positions if keep is None else positions[keep]
        return x + positions.to(x.dtype)
