"""UMT with its teacher, against a plain implementation of the same maths, as in the official training loop."""

from collections.abc import Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from models import CLIP_SIZES, SIZES, CLIPVision, FeatureDecoder, VideoViT
from models.clip import CLIPBlock
from models.layers import Block
from pretrain.learning.masking import Attention
from pretrain.learning.optim import Optim
from pretrain.learning.teachers import Frozen
from pretrain.objectives import UMT
from pretrain.studies.speed import flops
from pretrain.studies.speed.race import Method
from pretrain.studies.speed.step import Contender, Setting

_OPTIM = Optim(base_lr=1.5e-4)
_LAYERS = 6  # whose features are compared


def build(name: str, setting: Setting) -> Contender:
    """`ours`, `plain`, or our `teacher` alone."""
    model = objective(setting)
    video = torch.randn(setting.shape, generator=torch.Generator().manual_seed(0)).to(setting.device)
    shape = setting.batch, model.mask.width(model.encoder.grid)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(1)).to(setting.device)

    def ours() -> Tensor:
        target, keep = model.teacher_targets(video, noise)
        return model.alignment_loss(video, keep, target)

    if name == "teacher":
        return Contender(model, lambda: model.teacher_targets(video, noise)[1].float().mean(), None)
    if name == "ours":
        return Contender(model, ours, _OPTIM.build(model), inputs=(video,))
    optimizer = _OPTIM.build(model, fused=setting.device != "cpu")
    return Contender(model, lambda: plain_umt(model, video, noise), optimizer, inputs=(video,))


def objective(setting: Setting) -> UMT:
    """UMT of a size, with a teacher of the same size and random weights."""
    torch.manual_seed(0)
    clip: dict[str, Any] = {**CLIP_SIZES[setting.size]}
    student: dict[str, Any] = {**SIZES[setting.size]}
    clip["size"] = setting.pixels // student["patch"] * clip["patch"]  # as many tokens a frame as the student has
    sizes = {"tubelet": 1, "frames": setting.frames, "size": setting.pixels}
    encoder = VideoViT(**student, **sizes)
    decoder = FeatureDecoder(encoder.width, clip["out"], _LAYERS, encoder.patch, **sizes)
    mask = Attention(setting.mask_ratio(0.8))
    teacher = Frozen(CLIPVision(**clip), random=0, param_dtype="bfloat16" if setting.precision == "bf16" else "float32")
    return UMT(encoder, decoder, teacher, mask).to(setting.device)


def necessary_flops(setting: Setting) -> float:
    """FLOPs of a step: the teacher's forward pass, whose last block computes keys and values of all tokens and all else
    of the visible ones; the student's forward and backward pass (twice the forward), without gradients of pixels."""
    clip, e = CLIP_SIZES[setting.size], SIZES[setting.size]
    patches, frames = (setting.pixels // e["patch"]) ** 2, setting.frames
    visible = patches - int(setting.mask_ratio(0.8) * patches)
    width, mlp = clip["width"], clip["mlp"]
    heads = _LAYERS * frames * visible * 2.0 * clip["out"]
    teacher = flops.blocks(1 + patches, width, mlp, clip["depth"] - 1)
    teacher += flops.last_block(visible, 1 + patches, width, mlp) + patches * 2.0 * 3 * clip["patch"] ** 2 * width
    student = flops.blocks(frames * visible, e["width"], e["mlp"], e["depth"]) + heads * e["width"]
    pixels = frames * visible * 2.0 * 3 * e["patch"] ** 2 * e["width"]
    return setting.batch * (frames * teacher + heads * width + 3 * student + 2 * pixels)


def plain_umt(model: UMT, video: Tensor, noise: Tensor) -> Tensor:
    """The loss of a step as the official loop computes it, from the same weights. The teacher computes all tokens up to
    its last layer and full attention maps; the student embeds all tokens and selects the visible ones; both by boolean
    masks."""
    grid = model.encoder.grid
    with torch.no_grad():
        features, attention = _plain_teacher(cast(CLIPVision, model.teacher.model), video, model.teacher_taps)
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
    x = clip.norm_pre(x).transpose(0, 1)  # [1 + n, B * T, D], the order of torch's MultiheadAttention
    tapped: list[Tensor] = []
    weights: Tensor | None = None
    for i, block in enumerate(cast(Sequence[CLIPBlock], clip.blocks)):
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
    assert weights is not None  # of the last block
    features = clip.proj(clip.norm(torch.stack(tapped))).reshape(len(taps), b, -1, clip.out)
    return F.normalize(features, dim=-1), weights[:, 0, 1:]


def _plain_student(model: UMT, video: Tensor, visible: Tensor) -> Tensor:
    e, d = cast(VideoViT, model.encoder), model.decoder
    embed = e.patch_embed.proj
    x = F.conv3d(video, embed.weight, embed.bias, embed.stride).flatten(2).transpose(1, 2) + e.positions()
    x = x[visible].view(len(video), -1, e.width)
    tapped = []
    for i, block in enumerate(cast(Sequence[Block], e.blocks)):
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


METHOD = Method(
    build,
    ("ours", "plain", "teacher"),
    necessary_flops,
    ("plain",),
    "UMT with its teacher, against a plain implementation that computes all tokens; `teacher` is our teacher alone.",
)
