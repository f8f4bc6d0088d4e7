"""How fast a training step is: ours against the same maths done plainly, and against what the machine can multiply."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models import CLIP_SIZES, SIZES, CLIPVision, FeatureDecoder, VideoViT
from pretrain.masking import Attention
from pretrain.objectives import UMT
from pretrain.teachers import Frozen


@dataclass
class Speed:
    """Seconds are medians of rounds that took turns, so that all meet the same machine.

    ours, plain: of a step (forward and backward). teacher: of ours, the teacher's part.
    flops: that a step needs. gemm: multiply-adds, times two, a second of a matrix product of the teacher's MLP.
    difference: of the two losses.
    """

    ours: float
    plain: float
    teacher: float
    flops: float
    gemm: float
    difference: float

    @property
    def gain(self) -> float:
        return self.plain / self.ours

    @property
    def mfu(self) -> float:
        return self.flops / self.ours / self.gemm

    def __str__(self) -> str:
        return (
            f"step {self.ours:.2f} s (teacher {self.teacher:.2f}), plain {self.plain:.2f} s: {self.gain:.2f}x, losses "
            f"{self.difference:.1e} apart; {self.flops / 1e12:.2f} TFLOP at {self.gemm / 1e9:.0f} GFLOP/s of matrix "
            f"products: MFU {self.mfu:.2f}"
        )


def umt(size: str = "base", batch: int = 2, frames: int = 8, rounds: int = 5, device: str = "cpu") -> Speed:
    """A step of UMT at a published size, in float32, teacher and all.

    Args:
        size: base (teacher CLIP ViT-B/16 at 224 px) or large (ViT-L/14 at 196 px).
        batch, frames: clips a step and frames a clip.
        rounds: how often each is timed, after one that is not.
        device: where to run.
    """
    model = _umt(size, frames).to(device)
    video = torch.randn(batch, 3, frames, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)
    noise = torch.rand(batch, frames * 196, generator=torch.Generator().manual_seed(1)).to(device)
    clip = model.teacher.model
    a = torch.randn(batch * frames * (1 + 196), clip.width, device=device)
    b = torch.randn(clip.width, clip.blocks[0].mlp.fc1.out_features, device=device)
    product = torch.empty(len(a), b.shape[1], device=device)  # fresh memory would cost as much as the product
    losses: dict[str, float] = {}

    def step(name: str, loss: Callable[[], Tensor]) -> None:
        model.zero_grad(set_to_none=True)
        found = loss()
        found.backward()
        losses[name] = found.item()

    def ours() -> Tensor:
        target, keep = model.teach(video, noise)
        return model.align(video, keep, target)

    seconds = _take_turns(
        {
            "ours": lambda: step("ours", ours),
            "plain": lambda: step("plain", lambda: plain_umt(model, video, noise)),
            "teacher": lambda: model.teach(video, noise),
            "gemm": lambda: [torch.mm(a, b, out=product) for _ in range(8)],
        },
        rounds,
        torch.device(device),
    )
    gemm = 8 * 2 * a.shape[0] * a.shape[1] * b.shape[1] / seconds["gemm"]
    difference = abs(losses["ours"] - losses["plain"])
    return Speed(seconds["ours"], seconds["plain"], seconds["teacher"], umt_flops(model, batch), gemm, difference)


def _umt(size: str, frames: int) -> UMT:
    torch.manual_seed(0)
    clip = {**CLIP_SIZES[size], **({"size": 196} if CLIP_SIZES[size]["patch"] == 14 else {})}
    sizes = {"tubelet": 1, "frames": frames, "size": 224}
    encoder = VideoViT(**SIZES[size], **sizes)
    decoder = FeatureDecoder(encoder.width, clip["out"], 6, encoder.patch, **sizes)
    return UMT(encoder, decoder, Frozen(CLIPVision(**clip), random=0), Attention(0.8))


def _take_turns(jobs: dict[str, Callable[[], object]], rounds: int, device: torch.device) -> dict[str, float]:
    """Median seconds of each job, one after the other in every round; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            _wait(device)
            start = time.perf_counter()
            job()
            _wait(device)
            seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found[1:]) for name, found in seconds.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def umt_flops(model: UMT, batch: int) -> float:
    """Multiplications and additions that a step cannot do without: products of matrices alone.

    The teacher's last block needs keys and values of all tokens and the rest of the kept ones; its class token, and
    what is no product, is left out. The backward pass costs twice the forward one, but for the pixels' gradient.
    """
    clip, e, d = model.teacher.model, model.encoder, model.decoder
    t, h, w = e.grid
    kept = t * (h * w - int(model.mask.ratio * h * w))
    heads = len(d.heads)

    tokens = t * (1 + h * w)  # with a class token a frame
    width, mlp, depth = clip.width, clip.blocks[0].mlp.fc1.out_features, len(clip.blocks)
    block = tokens * (2 * (4 * width**2 + 2 * width * mlp) + 4 * (1 + h * w) * width)
    last = tokens * 4 * width**2 + kept * (2 * (2 * width**2 + 2 * width * mlp) + 4 * (1 + h * w) * width)
    pixels = t * h * w * 2 * 3 * clip.patch**2 * width
    teacher = pixels + (depth - 1) * block + last + heads * kept * 2 * width * clip.out

    width, mlp, depth = e.width, e.blocks[0].mlp.fc1.out_features, len(e.blocks)
    blocks = depth * kept * (2 * (4 * width**2 + 2 * width * mlp) + 4 * kept * width)
    pixels = kept * 2 * 3 * e.tubelet * e.patch**2 * width
    return float(batch * (teacher + 3 * (blocks + heads * kept * 2 * width * clip.out) + 2 * pixels))


def plain_umt(model: UMT, video: Tensor, noise: Tensor) -> Tensor:
    """The loss of a step as the official loop computes it, from the same weights: the teacher takes all tokens to the
    end and whole attention maps, the student embeds all tokens and keeps some, both by boolean masks."""
    grid = model.encoder.grid
    with torch.no_grad():
        features, attention = _plain_teacher(model.teacher.model, video, model.teacher_taps)
        keep = model.mask(noise, grid, attention.unflatten(0, (len(video), -1)))
        visible = torch.zeros(len(video), grid[0] * grid[1] * grid[2], dtype=torch.bool, device=video.device)
        visible.scatter_(1, keep, True)
        layers, rows, _, width = features.shape
        target = features[:, visible].view(layers, rows, -1, width)
    student = _plain_student(model, video, visible)
    return (2 - 2 * (student * target).sum(-1)).mean()


def _plain_teacher(clip: CLIPVision, video: Tensor, taps: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    if video.shape[-1] != clip.size:
        size = clip.size, clip.size
        resized = F.interpolate(video.flatten(1, 2), size, mode="bicubic", align_corners=False)
        video = resized.unflatten(1, video.shape[1:3])
    b, t = video.shape[:3:2]
    x = F.conv3d(video, clip.patch_embed.proj.weight, stride=clip.patch_embed.proj.stride)
    x = x.permute(0, 2, 3, 4, 1).reshape(b * t, -1, clip.width)
    x = torch.cat((clip.cls_token.expand(b * t, 1, -1), x), dim=1) + clip.pos_embed
    x = clip.norm_pre(x).transpose(0, 1)  # [1 + n, B * T, D], as torch's MultiheadAttention likes it
    tapped, weights = [], None
    for i, block in enumerate(clip.blocks):
        a, h = block.attn, block.norm1(x)
        mixed, weights = F.multi_head_attention_forward(
            *(h, h, h, clip.width, a.heads, a.qkv.weight, a.qkv.bias, None, None, False, 0.0),
            *(a.proj.weight, a.proj.bias),
            training=False,
            need_weights=i == len(clip.blocks) - 1,
        )
        x = x + mixed
        h = block.mlp.fc1(block.norm2(x))
        x = x + block.mlp.fc2(h * torch.sigmoid(1.702 * h))
        if i in taps:
            tapped.append(x.transpose(0, 1)[:, 1:])
    features = clip.proj(clip.norm(torch.stack(tapped))).reshape(len(taps), b, -1, clip.out)
    return F.normalize(features, dim=-1), weights[:, 0, 1:]


def _plain_student(model: UMT, video: Tensor, visible: Tensor) -> Tensor:
    e, d = model.encoder, model.decoder
    embed = e.patch_embed.proj
    x = F.conv3d(video, embed.weight, embed.bias, embed.stride).flatten(2).transpose(1, 2) + e.positions()
    x = x[visible].view(len(video), -1, e.width)
    tapped = []
    for i, block in enumerate(e.blocks):
        a = block.attn
        bias = torch.cat((a.q_bias, torch.zeros_like(a.v_bias), a.v_bias))
        qkv = F.linear(block.norm1(x), a.qkv.weight, bias).unflatten(-1, (3, a.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        x = x + a.proj((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        x = x + block.mlp(block.norm2(x))
        if i in model.taps:
            tapped.append(x)
    layers = e.norm(torch.stack(tapped))
    positions = d.positions().expand(len(video), -1, -1)[visible].view(len(video), -1, e.width)
    out = [norm(head(x + positions)) for head, norm, x in zip(d.heads, d.norms, layers, strict=True)]
    return F.normalize(torch.stack(out), dim=-1)
