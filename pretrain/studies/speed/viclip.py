"""ViCLIP against towers and loss of open_clip, with the same tokens dropped."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import CLIP_SIZES, TEXT_SIZES, CLIPText, ViCLIPVision
from models.convert import viclip as names
from models.convert.rules import to_theirs
from models.layers import token_grid
from models.tokenizers import CLIPTokenizer, Words
from pretrain.learning.masking import Random
from pretrain.learning.optim import AdamW
from pretrain.objectives import ViCLIP
from pretrain.studies.speed import flops, step
from pretrain.studies.speed.race import Method
from pretrain.studies.speed.step import Contender, Setting

TEXT = "a person in a red coat walks along the beach with two dogs at sunset"
_OPTIM = AdamW(base_lr=1e-4, weight_decay=0.2, betas=(0.9, 0.98))


def build(who: str, setting: Setting) -> Contender:
    """`ours` or `open_clip`."""
    model = _model(setting)
    batch = pairs(setting)
    if who == "ours":
        return Contender(model, lambda: model(batch)["contrast"], _OPTIM.build(model))
    video = model.normalize(batch["video"])
    keep = model.choose(video)
    ids = model.words(batch["text"]).to(setting.device)
    peer = _OpenClip(model, setting).to(setting.device)
    return Contender(peer, lambda: peer(video, keep, ids), _OPTIM.build(peer, fused=False))


def pairs(setting: Setting) -> dict:
    """Random videos and captions of fifteen words, all different to the contrast."""
    generator = torch.Generator().manual_seed(0)
    video = torch.randint(0, 256, setting.shape, dtype=torch.uint8, generator=generator).to(setting.device)
    names_ = [str(i) for i in range(setting.batch)]
    return {"video": video, "text": [TEXT] * setting.batch, "name": names_}


def _model(setting: Setting) -> ViCLIP:
    torch.manual_seed(0)
    vision = ViCLIPVision(**{**CLIP_SIZES[setting.size], "size": setting.pixels}, frames=setting.frames)
    text = CLIPText(**TEXT_SIZES[setting.size])
    mask = Random(setting.with_ratio(0.9).ratio)
    return ViCLIP(vision, text, mask=mask, freeze_text=False).to(setting.device)


class _OpenClip(nn.Module):
    """open_clip's transformers, text tower and loss around ViCLIP's tokens of space and time."""

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
        x = x[torch.arange(b, device=x.device)[:, None], keep]  # as its PatchDropout takes them
        start = (self.class_embedding + self.positional_embedding[0]).expand(b, 1, -1)
        x = self.transformer(self.ln_pre(torch.cat((start, x), dim=1)))
        image = F.normalize(self.ln_post(x[:, 0]) @ self.proj, dim=-1)
        return self.loss(image, F.normalize(self.text(ids), dim=-1), 1 / self.temperature)


def necessary(setting: Setting, tokens_read: bool = False) -> float:
    """Of a step: forward and twice that backward, but for pixels, which need no gradient; without what the towers'
    last blocks make of tokens that nobody reads, and of no more words than there are.

    Args:
        tokens_read: what reads the towers wants all of their tokens.
    """
    v, t = CLIP_SIZES[setting.size], TEXT_SIZES[setting.size]
    kept = tokens_kept(setting)
    total = 4.0 * kept * 3 * v["patch"] ** 2 * v["width"]
    for tokens, s in ((1 + kept, v), (words_read(), t)):
        shape = tokens, s["width"], s["mlp"]
        read = flops.last_block(tokens if tokens_read else 1, *shape)
        total += 3 * (flops.blocks(*shape, s["depth"] - 1) + read + 2.0 * s["width"] * s["out"])
    return setting.batch * total


def tokens_kept(setting: Setting) -> int:
    """Tokens of a clip that are seen."""
    grid = token_grid(setting.frames, setting.pixels, 1, CLIP_SIZES[setting.size]["patch"])
    return step.tokens_kept(Random(setting.with_ratio(0.9).ratio), grid)


def words_read() -> int:
    """Places of `TEXT`, up to its end."""
    return int(Words(CLIPTokenizer(32))([TEXT]).argmax()) + 1


METHOD = Method(
    build,
    ("ours", "open_clip"),
    necessary,
    ("open_clip",),
    "ViCLIP with both towers trained, against open_clip's towers and loss, the same tokens of the video dropped.",
)
