"""MUSIQ: an image quality transformer over patches of three scales; the model of imaging quality.

Notable: convolutions with standardised weights embed each patch; one learnt position per cell of a 10 x 10 grid, shared
by all scales, and one per scale; the class token's linear head is the score. Written from the paper (2108.05997); the
names are those of pyiqa's weights, which it converted from Google's. Google's padding tokens, which are masked out of
every attention, are not made at all.

Letters in shapes: n frames, N patches of all scales, D channels.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.metrics.vbench.musiq_patches import multiscale_patches, pad_same


class StandardConv(nn.Conv2d):
    """A convolution without bias whose kernels have mean 0 and deviation 1, with TensorFlow's SAME padding."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int = 1) -> None:
        super().__init__(channels, out, kernel, stride, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        deviation, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        kernel = (self.weight - mean) / (deviation + 1e-5)
        return F.conv2d(pad_same(input, self.kernel_size[0], self.stride[0]), kernel, stride=self.stride)


class Bottleneck(nn.Module):
    """A residual block of three convolutions with group norms."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        norm = lambda width: nn.GroupNorm(32, width, eps=1e-4)  # noqa: E731
        self.conv1, self.gn1 = StandardConv(channels, channels, 1), norm(channels)
        self.conv2, self.gn2 = StandardConv(channels, channels, 3), norm(channels)
        self.conv3, self.gn3 = StandardConv(channels, out, 1), norm(out)
        self.conv_proj, self.gn_proj = StandardConv(channels, out, 1), norm(out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.gn1(self.conv1(x)).relu()
        y = self.gn2(self.conv2(y)).relu()
        return (self.gn3(self.conv3(y)) + self.gn_proj(self.conv_proj(x))).relu()


class Attention(nn.Module):
    """Self-attention of all patches and the class token."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attention = Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp["fc2"](F.gelu(self.mlp["fc1"](self.norm2(x))))


class Encoder(nn.Module):
    """Positions, scales and blocks; the class token after the last norm, `[n, D]`, of patches `[n, N, D]`."""

    def __init__(self, width: int, depth: int, heads: int, hidden: int, grid: int) -> None:
        super().__init__()
        self.posembed_input = nn.ParameterDict({"position_emb": torch.randn(1, grid * grid, width) * 0.02})
        self.scaleembed_input = nn.ParameterDict({"scale_emb": torch.randn(3, width) * 0.02})
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.transformer = nn.ModuleDict(
            {f"encoderblock_{i}": EncoderBlock(width, heads, hidden) for i in range(depth)}
        )
        self.encoder_norm = nn.LayerNorm(width, 1e-6)

    def forward(self, x: Tensor, places: Tensor, scales: Tensor) -> Tensor:
        x = x + self.posembed_input["position_emb"][0, places] + self.scaleembed_input["scale_emb"][scales]
        x = torch.cat((self.cls.expand(len(x), -1, -1), x), dim=1)
        for block in self.transformer.values():
            x = block(x)
        return self.encoder_norm(x)[:, 0]


class MUSIQ(nn.Module):
    """Scores `[n]`, about 0 to 100 with the SPAQ weights; the default sizes are the released ones."""

    def __init__(
        self, width: int = 384, depth: int = 14, heads: int = 6, hidden: int = 1152, patch: int = 32, grid: int = 10
    ) -> None:
        super().__init__()
        self.patch, self.grid = patch, grid
        self.conv_root, self.gn_root = StandardConv(3, 64, 7, 2), nn.GroupNorm(32, 64, eps=1e-6)
        self.block1 = Bottleneck(64, 256)
        self.embedding = nn.Linear(256 * (patch // 4) ** 2, width)
        self.transformer_encoder = Encoder(width, depth, heads, hidden, grid)
        self.head = nn.Linear(width, 1)
        self.eval().requires_grad_(False)

    def load(self, weights: Mapping[str, Tensor]) -> "MUSIQ":
        """Load pyiqa's `musiq_spaq_ckpt-358bb6af.pth`; every key must find its place."""
        self.load_state_dict(weights)
        return self

    def forward(self, frames: Tensor) -> Tensor:
        """Scores of `frames` `[n, 3, H, W]` in 0 to 1."""
        patches, places, scales = multiscale_patches((frames - 0.5) * 2, self.patch, self.grid)
        x = self.gn_root(self.conv_root(patches.flatten(0, 1))).relu()
        x = self.block1(F.max_pool2d(pad_same(x, 3, 2), 3, 2))  # [n * N, 256, patch / 4, patch / 4]
        x = self.embedding(x.permute(0, 2, 3, 1).flatten(1)).unflatten(0, patches.shape[:2])  # TensorFlow's order
        return self.head(self.transformer_encoder(x, places, scales))[:, 0]
