"""ViCLIP against open_clip's towers and loss, with the same tokens masked."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import CLIP_SIZES, TEXT_SIZES, CLIPText, ViCLIPVision
from models.convert import viclip as names
from models.convert.rules import to_theirs
from models.layers import token_grid
from models.tokenizers import CLIPTokenizer, Words
from pretrain.learning.batch import Batch
from pretrain.learning.masking import Random
from pretrain.learning.optim import Optim
from pretrain.objectives import ViCLIP
from pretrain.studies.speed import flops, step
from pretrain.studies.speed.race import Method
from pretrain.studies.speed.step import Contender, Setting

TEXT = "a person in a red coat walks along the beach with two dogs at sunset"
_OPTIM = Optim(base_lr=1e-4, weight_decay=0.2, betas=(0.9, 0.98))


def build(name: str, setting: Setting) -> Contender:
    """`ours` or `open_clip`."""
    model = objective(setting)
    batch = random_pairs(setting)
    if name == "ours":
        return Contender(model, lambda: model(batch)["contrast"], _OPTIM.build(model), inputs=(batch["video"],))
    video = model.normalize(batch["video"])
    keep = model.visible_patches(video)
    ids = model.words(batch["text"]).to(setting.device)
    peer = _OpenClip(model, setting).to(setting.device)
    optimizer = _OPTIM.build(peer, fused=setting.device != "cpu")
    return Contender(peer, lambda: peer(video, keep, ids), optimizer, inputs=(video,))


def random_pairs(setting: Setting) -> Batch:
    """Random videos with one caption of fifteen words; different names make them negatives of each other."""
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, setting.shape, dtype=torch.uint8, generator=generator).to(setting.device)
    return {"video": video, "text": [TEXT] * setting.batch, "name": [str(i) for i in range(setting.batch)]}


def objective(setting: Setting) -> ViCLIP:
    """ViCLIP of a size, both towers trained."""
    torch.manual_seed(0)
    vision = ViCLIPVision(**{**CLIP_SIZES[setting.size], "size": setting.pixels}, frames=setting.frames)
    text_sizes: dict[str, Any] = {**TEXT_SIZES[setting.size]}
    text = CLIPText(**text_sizes)
    mask = Random(setting.mask_ratio(0.9))
    return ViCLIP(vision, text, mask=mask, freeze_text=False).to(setting.device)


class _OpenClip(nn.Module):
    """open_clip's transformers, text tower and loss around ViCLIP's spatiotemporal tokens."""

    def __init__(self, model: ViCLIP, setting: Setting) -> None:
        super().__init__()
        from open_clip.loss import ClipLoss
        from open_clip.transformer import LayerNorm, QuickGELU, TextTransformer, Transformer

        v, t = CLIP_SIZES[setting.size], TEXT_SIZES[setting.size]
        e, width = model.encoder, v["width"]
        self.conv1 = nn.Conv2d(3, width, v["patch"], v["patch"], bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(*e.pos_embed.shape))
        self.temporal_positional_embedding = nn.Parameter(torch.empty(1, setting.frames, width))
        self.ln_pre, self.ln_post = LayerNorm(width), LayerNorm(width)
        self.transformer = Transformer(width, v["depth"], v["heads"], v["mlp"] / width, act_layer=QuickGELU)
        self.proj = nn.Parameter(torch.empty(width, v["out"]))
        self.text = TextTransformer(
            *(model.text.context, 49408, t["width"], t["heads"], t["depth"], t["mlp"] / t["width"]),
            output_dim=t["out"],
            act_layer=QuickGELU,
        )
        self.temperature = nn.Parameter(torch.empty(()))
        self.loss = ClipLoss()
        theirs, _ = to_theirs(names.OFFICIAL, {name: p.detach() for name, p in model.named_parameters()})
        rename = {"vision_encoder.": "", "text_encoder.": "text.", "temp": "temperature"}
        state = {}
        for name, tensor in theirs.items():
            old = next(old for old in rename if name.startswith(old))
            state[rename[old] + name[len(old) :]] = tensor.squeeze(2) if "conv1" in name else tensor
        self.load_state_dict(state)

    def forward(self, video: Tensor, keep: Tensor, ids: Tensor) -> Tensor:
        b, _, t = video.shape[:3]
        x = self.conv1(video.transpose(1, 2).flatten(0, 1)).flatten(2).transpose(1, 2)  # [B T, n, D]
        x = x.unflatten(0, (b, t)) + self.positional_embedding[1:]
        x = (x + self.temporal_positional_embedding[:, :, None]).flatten(1, 2)
        x = x[torch.arange(b, device=x.device)[:, None], keep]  # as its PatchDropout selects them
        start = (self.class_embedding + self.positional_embedding[0]).expand(b, 1, -1)
        x = self.transformer(self.ln_pre(torch.cat((start, x), dim=1)))
        image = F.normalize(self.ln_post(x[:, 0]) @ self.proj, dim=-1)
        return self.loss(image, F.normalize(self.text(ids), dim=-1), 1 / self.temperature)


def necessary_flops(setting: Setting, all_tokens: bool = False) -> float:
    """FLOPs of a step: forward and backward pass (twice the forward), without gradients of pixels, unused outputs of
    the towers' last blocks, and the caption's padding.

    Args:
        all_tokens: the outputs of all tokens are used, not only each tower's feature.
    """
    v, t = CLIP_SIZES[setting.size], TEXT_SIZES[setting.size]
    visible = visible_tokens(setting)
    total = 4.0 * visible * 3 * v["patch"] ** 2 * v["width"]
    for tokens, s in ((1 + visible, v), (caption_tokens(), t)):
        shape = tokens, s["width"], s["mlp"]
        last = flops.last_block(tokens if all_tokens else 1, *shape)
        total += 3 * (flops.blocks(*shape, s["depth"] - 1) + last + 2.0 * s["width"] * s["out"])
    return setting.batch * total


def visible_tokens(setting: Setting) -> int:
    """Visible tokens of a clip."""
    grid = token_grid(setting.frames, setting.pixels, 1, CLIP_SIZES[setting.size]["patch"])
    return step.visible_tokens(Random(setting.mask_ratio(0.9)), grid)


def caption_tokens() -> int:
    """Tokens of `TEXT`, with start and end."""
    return int(Words(CLIPTokenizer(32))([TEXT]).argmax()) + 1


METHOD = Method(
    build,
    ("ours", "open_clip"),
    necessary_flops,
    ("open_clip",),
    "ViCLIP with both towers trained, against open_clip's towers and loss, the same video tokens masked.",
)
