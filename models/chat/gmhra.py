"""VideoChat's video encoder: an image transformer over the frames, and a video token that attends to all of them.

Notable: each of the last blocks is followed by a Global MHRA module, in which the video token is the only query; the
token is passed from module to module and stands last in the output. The modules initially output 0.

Letters in shapes: B videos, T frames, n patches of a frame, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoder import Encoder
from models.extractor import Extractor
from models.layers import Block, Blocks, Grid, PatchEmbed, token_grid
from models.positions import resize_table

# VideoChat `models/eva_vit.py`: EVA-CLIP's ViT-g without its last block.
GMHRA_SIZES: dict[str, dict[str, int]] = {
    "giant": {"width": 1408, "depth": 39, "heads": 16, "mlp": 6144, "reader_mlp": 6144, "patch": 14},
}


class DropoutMLP(nn.Module):
    """Two linear layers with an exact GELU and dropout between them."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.dropout(F.gelu(self.fc1(x))))


class GlobalMHRA(Extractor):
    """UniFormerV2's extractor with two differences: the keys are normed before the convolution, not after it, and the
    MLP has an exact GELU."""

    def __init__(self, width: int, heads: int, mlp: int, dropout: float = 0.5) -> None:
        super().__init__(width, heads, mlp)
        self.mlp = DropoutMLP(width, mlp, dropout)  # pyrefly: ignore[bad-assignment]
        self.reset_parameters()

    def sources(self, tokens: Tensor, grid: Grid, index: Tensor | None) -> Tensor:
        """See `Extractor.sources`; `index` is None: all patches are present."""
        if index is not None:
            raise ValueError("Global MHRA takes whole frames only: train VideoChat's encoder without a mask")
        normed = self.norm_tokens(tokens)
        patches = normed[:, :, 1:]
        mixed = self.place(patches.flatten(1, 2).transpose(1, 2).unflatten(2, grid))  # [B, D, T, rows, columns]
        patches = patches + mixed.flatten(2).transpose(1, 2).unflatten(1, patches.shape[1:3])
        return torch.cat((normed[:, :, :1], patches), dim=2).flatten(1, 2)


class VideoChatViT(Encoder):
    """Frames through a ViT with a class token each; a video token through Global MHRA modules after the last blocks.

    Its output has `T * (1 + n) + 1` tokens: those of each frame, the class token first, then the video token. There is
    no final norm: VideoChat's stands outside the encoder.

    Args:
        width, depth, heads, mlp: channels, blocks, attention heads, hidden channels of the blocks' MLP.
        readers: number of Global MHRA modules; they follow the last blocks.
        reader_mlp: hidden channels of their MLP.
        patch, size: pixels of a token and of a frame.
        frames: of a clip; clips of any other number of frames are taken too.
        dropout: in the MLP of the modules.
        frozen: train the modules and the video token only, as in both stages of VideoChat.

    Raises:
        ValueError: more modules than blocks, or a patch that does not divide the size.

    Source: VideoChat `models/eva_vit.py`, with its local MHRA off as in all released configurations.
    """

    blocks: "Blocks[Block]"

    def __init__(
        self,
        width: int = 1408,
        depth: int = 39,
        heads: int = 16,
        mlp: int = 6144,
        readers: int = 8,
        reader_mlp: int = 6144,
        patch: int = 14,
        size: int = 224,
        frames: int = 8,
        dropout: float = 0.5,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < readers <= depth:
            raise ValueError(
                f"{readers} Global MHRA modules do not follow {depth} blocks: set readers to at most depth"
            )
        self.width, self.patch, self.tubelet, self.frames, self.size = width, patch, 1, frames, size
        self.grid: Grid = token_grid(frames, size, 1, patch)
        self.patch_embed = PatchEmbed(width, 1, patch)
        self.cls_token = nn.Parameter(torch.zeros(width))
        self.pos_embed = nn.Parameter(torch.zeros(1 + self.grid[1] * self.grid[2], width))
        self.blocks = Blocks(Block(width, heads, mlp) for _ in range(depth))
        self.norm = nn.Identity()
        self.video_token = nn.Parameter(torch.zeros(width))
        self.readers = Blocks(GlobalMHRA(width, heads, reader_mlp, dropout) for _ in range(readers))
        self.reset_parameters()
        if frozen:
            self.requires_grad_(False)
            self.readers.requires_grad_(True)
            self.video_token.requires_grad_(True)

    def reset_parameters(self) -> None:
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.zeros_(self.video_token)

    def fit_table(self, table: Tensor) -> Tensor:
        """A saved position table `[1 + m, D]`, the class token's first, resized to this size."""
        side = int((len(table) - 1) ** 0.5)
        patches = resize_table(table[1:], (1, side, side), (1, *self.grid[1:]))
        return torch.cat((table[:1], patches))

    def forward(
        self, video: Tensor, keep: Tensor | None = None, taps: Sequence[int] = ()
    ) -> Tensor | tuple[Tensor, list[Tensor]]:
        """All tokens, `[B, T * (1 + n) + 1, D]`; the tapped outputs are without the video token.

        ValueError: a mask, or frames of another size.
        """
        if keep is not None:
            raise ValueError("VideoChat's encoder takes whole frames only: train it without a mask")
        if video.shape[3:] != (self.size, self.size):
            raise ValueError(
                f"the encoder was made for frames of {self.size} x {self.size} pixels and was given "
                f"{tuple(video.shape[3:])}: set the encoder's size, or the data's"
            )
        b, frames = video.shape[0], video.shape[2]
        x = self.patch_embed(video).unflatten(1, (frames, -1)).flatten(0, 1)  # [B * T, n, D]
        x = torch.cat((self.cls_token.to(x.dtype).expand(len(x), 1, -1), x), dim=1) + self.pos_embed.to(x.dtype)
        token, grid = self.video_token.to(x.dtype).expand(b, 1, -1), (frames, *self.grid[1:])
        tapped, first = {}, len(self.blocks) - len(self.readers)
        for i, block in enumerate(self.blocks):
            x = block(x)
            tokens = x.unflatten(0, (b, frames))  # [B, T, 1 + n, D]
            if i >= first:
                token = self.readers[i - first](token, tokens, grid)
            if i in taps:
                tapped[i] = tokens.flatten(1, 2)
        output = torch.cat((x.reshape(b, -1, self.width), token), dim=1)
        return (output, [tapped[i] for i in taps]) if taps else output

    def summary(self, video: Tensor) -> Tensor:
        """The video token, `[B, D]`."""
        return self(video)[:, -1]
