"""Backbones of timm, transformers and open_clip: the library's own outputs, weights in, and roles in training."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from torch import Tensor, nn

import models
from models import FrameTeacher, TimmEncoder, TransformersEncoder, load_weights
from models.convert.allowed_gaps import require_loaded
from pretrain.learning import parallel
from pretrain.learning.masking import Attention, Tube
from pretrain.learning.optim import layer_index
from pretrain.learning.teachers import Frozen, renormalize
from pretrain.objectives import UMT, Classify
from tests.helpers.own_process import own_process
from tests.helpers.paths import ROOT
from tests.helpers.runs import fit

TIMM = {"embed_dim": 32, "depth": 2, "num_heads": 2, "patch_size": 8}
OPTIONS = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
OPTIONS |= {"image_size": 32, "patch_size": 8}
KINDS = ("dinov2", "siglip_vision_model", "clip_vision_model")


def of_timm(name: str = "vit_tiny_patch16_224", frames: int = 2, size: int = 32, **more: Any) -> TimmEncoder:
    torch.manual_seed(0)
    return TimmEncoder(name, frames, size, options={**TIMM, **more}).eval()


def of_transformers(kind: str, frames: int = 2, size: int = 32) -> TransformersEncoder:
    torch.manual_seed(0)
    return TransformersEncoder(kind, frames, size, OPTIONS).eval()


def video(size: int = 32) -> Tensor:
    return torch.randn(2, 3, 2, size, size, generator=torch.Generator().manual_seed(1))


def frames_of(clip: Tensor) -> Tensor:
    return clip.transpose(1, 2).flatten(0, 1)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "vit_base_patch16_siglip_224"])
def test_timms_tokens_and_taps_are_timms(name: str) -> None:
    encoder, clip = of_timm(name), video()
    p = encoder.backbone.num_prefix_tokens
    theirs = encoder.backbone.forward_features(frames_of(clip))
    tapped = encoder.backbone.forward_intermediates(
        frames_of(clip), [0, 1], norm=True, output_fmt="NLC", intermediates_only=True
    )
    tokens, taps = encoder(clip, taps=(0, 1))
    assert tokens.shape == (2, 2 * 16, 32) and encoder.grid == (2, 4, 4)
    assert torch.equal(tokens, theirs[:, p:].reshape(2, 32, 32)) and torch.equal(tokens, taps[1])
    for ours, other in zip(taps, tapped, strict=True):
        assert torch.equal(ours, other.reshape(2, 32, 32))
    summary = theirs[:, 0].view(2, 2, -1).mean(1) if p else theirs.view(2, 32, 32).mean(1)
    assert torch.allclose(encoder.summary(clip), summary, atol=1e-6)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_transformers_are_its_own(kind: str) -> None:
    """At the size of the positions, and at another, to which the library resizes them."""
    for size in (32, 48):
        encoder, clip = of_transformers(kind, size=size), video(size)
        asks = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}
        theirs = encoder.backbone(pixel_values=frames_of(clip), output_hidden_states=True, **asks)
        n = encoder.grid[1] * encoder.grid[2]
        tokens, (first,) = encoder(clip, taps=(0,))
        for ours, hidden in ((tokens, theirs.hidden_states[2]), (first, theirs.hidden_states[1])):
            expected = encoder.norm(hidden)[:, -n:].reshape(2, 2 * n, 32)
            assert torch.allclose(ours, expected, atol=1e-6)
        if kind == "clip_vision_model":  # the class token after the last norm, before the projection
            assert torch.allclose(encoder.summary(clip), theirs.pooler_output.view(2, 2, -1).mean(1), atol=1e-6)


@torch.no_grad()
def test_attention_is_the_last_layers_for_its_class_token() -> None:
    clip, encoder = video(), of_transformers("dinov2")
    made = encoder.encode(clip, attention=True)
    eager = models.TransformersEncoder("dinov2", 2, 32, OPTIONS).eval()
    eager.load_state_dict(encoder.state_dict())
    eager.backbone.set_attn_implementation("eager")
    theirs = eager.backbone(pixel_values=frames_of(clip), output_attentions=True).attentions[-1]
    assert torch.allclose(made.attention, theirs[:, :, 0, 1:].mean(1).view(2, 2, 16), atol=1e-6)

    encoder = of_timm()
    before = encoder(clip)
    made, attn = encoder.encode(clip, attention=True), encoder.backbone.blocks[1].attn
    h = encoder.backbone.blocks[1].norm1(
        encoder.backbone.blocks[0](encoder.backbone._pos_embed(encoder.backbone.patch_embed(frames_of(clip))))
    )
    q, k, _ = attn.qkv(h).unflatten(-1, (3, 2, 16)).permute(2, 0, 3, 1, 4)
    rows = (q @ k.transpose(-2, -1) / 4).softmax(-1)[:, :, 0, 1:].mean(1)
    assert torch.allclose(made.attention, rows.view(2, 2, 16), atol=1e-6)
    assert torch.allclose(made.patches[1], before, atol=1e-5), "without the fused kernel the tokens are the same"
    assert of_timm("vit_base_patch16_siglip_224").encode(clip, attention=True).attention is None


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_folders_of_transformers_load(kind: str, tmp_path: Path) -> None:
    source = of_transformers(kind)
    source.backbone.save_pretrained(tmp_path)
    torch.manual_seed(5)
    encoder = TransformersEncoder(kind, 2, 32, OPTIONS).eval()
    probe = models.LinearProbe(encoder, 3).eval()
    report = load_weights(probe, tmp_path)
    require_loaded(report, missing=["head.*", "norm.*"])
    assert report.loaded and torch.equal(encoder(video()), source(video()))
    other = TransformersEncoder(kind, 2, 32, OPTIONS | {"num_attention_heads": 4})
    with pytest.raises(ValueError, match="num_attention_heads 2, and the recipe's has 4: set the encoder's"):
        load_weights(other, tmp_path)
    with pytest.raises(ValueError, match="of another architecture"):
        load_weights(TransformersEncoder(kind, 2, 32, OPTIONS | {"hidden_size": 64}), tmp_path)


@torch.no_grad()
def test_weights_of_open_clip_and_timm_load(tmp_path: Path) -> None:
    import open_clip

    torch.manual_seed(3)
    tower = {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
    clip = open_clip.CLIP(
        16, tower, {"context_length": 4, "vocab_size": 9, "width": 16, "heads": 2, "layers": 1}
    ).eval()
    torch.save(clip.state_dict(), tmp_path / "open_clip.bin")
    encoder = TimmEncoder("vit_base_patch16_clip_224", 2, 32, options={**TIMM, "embed_dim": 64}).eval()
    report = load_weights(encoder, tmp_path / "open_clip.bin")
    require_loaded(report, unused=["*"])
    clip.visual.proj = None
    expected = clip.encode_image(frames_of(video())).view(2, 2, 64).mean(1)
    assert torch.allclose(encoder.summary(video()), expected, atol=1e-5)

    torch.manual_seed(4)
    whole: Any = timm.create_model("vit_tiny_patch16_224", img_size=48, **TIMM)  # positions of another size, and a head
    torch.save(whole.state_dict(), tmp_path / "timm.pth")
    report = load_weights(encoder := of_timm(), tmp_path / "timm.pth")
    assert report.missing == [] and report.unused == ["head.weight", "head.bias"]
    whole.set_input_size(32)
    assert torch.allclose(encoder(video()), whole.forward_features(frames_of(video()))[:, 1:].reshape(2, 32, 32))
    with pytest.raises(ValueError, match="of another architecture"):
        load_weights(of_timm(embed_dim=64), tmp_path / "timm.pth")
    with pytest.raises(ValueError, match=r"blocks\.2\.\S* is not in the weights"):
        load_weights(of_timm(depth=3), tmp_path / "timm.pth")
    with pytest.raises(ValueError, match=r"blocks\.1\.\S* is not in the encoder"):
        load_weights(of_timm(depth=1), tmp_path / "timm.pth")


@pytest.mark.parametrize("encoder", [of_timm, lambda: of_transformers("siglip_vision_model")], ids=["timm", "siglip"])
def test_an_encoder_is_fine_tuned_and_its_checkpoint_loads(encoder: Any, tmp_path: Path) -> None:
    objective = Classify(models.VideoClassifier(encoder(), 3)).train()
    batch: Any = {"video": video(), "label": torch.tensor([0, 2]), "name": ["a", "b"]}
    sum(objective(batch).values()).backward()
    without = [n for n, p in objective.named_parameters() if p.requires_grad and p.grad is None]
    assert not without, "a trained parameter without a gradient stops DDP"
    names = [name for name, _ in objective.named_parameters()]
    layers = {name: layer_index(name, 2) for name in names}
    assert {layer for name, layer in layers.items() if "layers.0" in name or "blocks.0" in name} == {1}
    assert {layer for name, layer in layers.items() if "patch_embed" in name or "position_emb" in name} == {0}
    assert {layer for name, layer in layers.items() if "encoder" not in name} == {3}
    decayed = {name for name in names if objective.optim.decays(name, objective.get_parameter(name))}
    assert not [name for name in decayed if "pos_embed" in name or "position_embedding" in name]
    assert len(parallel.blocks(objective)) == 2, "sharding and recomputation find the layers"
    torch.save({"state_dict": objective.state_dict()}, tmp_path / "step.ckpt")
    other = models.LinearProbe(encoder(), 5)
    nn.init.zeros_(next(other.encoder.parameters()))
    load_weights(other, tmp_path / "step.ckpt", "none")
    for name, tensor in objective.model.encoder.state_dict().items():
        assert torch.equal(other.encoder.state_dict()[name], tensor)
    with pytest.raises(ValueError, match="cannot drop tokens"):
        other.encoder(video(), keep=torch.zeros(2, 4, dtype=torch.long))


def umt(encoder: Any, mask: Any, half: bool = False) -> UMT:
    torch.manual_seed(0)
    sizes = {"patch": 8, "tubelet": 1, "frames": 2, "size": 32}
    student = models.VideoViT(32, 3, 4, 64, **sizes)
    teacher = Frozen(FrameTeacher(encoder), random=3, param_dtype="bfloat16" if half else "float32")
    return UMT(student, models.FeatureDecoder(32, encoder.width, 2, **sizes), teacher, mask)


@pytest.mark.parametrize("half", [False, True])
def test_umt_learns_from_it(half: bool) -> None:
    """The targets are the backbone's features at the visible tokens, of frames by the backbone's own statistics."""
    encoder = of_timm()
    m = umt(encoder, Attention(0.75), half)
    batch: Any = {"video": torch.randint(0, 256, (2, 3, 2, 32, 32), dtype=torch.uint8)}
    loss = m(batch)["alignment"]
    loss.backward()
    assert loss.isfinite() and not any(p.grad is not None for p in encoder.parameters())
    assert not [name for name in m.state_dict() if "teacher" in name]
    target, keep = m.teacher_targets(m.normalize(batch["video"]))
    assert keep.shape == (2, 2 * 4) and target[0].shape == (2, 8, 32) and len(target) == 2
    mean, std = encoder.statistics
    assert (mean, std) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    pixels = (batch["video"] / 255 - 0.5) / 0.5
    with torch.no_grad():
        _, taps = encoder(pixels.to(target[0].dtype), taps=(0, 1))
    for ours, theirs in zip(target, taps, strict=True):
        expected = theirs.take_along_dim(keep[..., None], 1)
        assert torch.allclose(ours.float(), expected.float(), atol=5e-2 if half else 1e-5)
    assert torch.equal(renormalize(pixels, (mean, std), (mean, std)), pixels)


@own_process
@torch.no_grad()
def test_a_compiled_teacher_has_one_graph_and_the_same_attention() -> None:
    from torch._dynamo.utils import counters

    teacher, clip = FrameTeacher(of_timm()), video()
    everything = lambda attention: torch.arange(32).expand(2, -1)  # noqa: E731
    expected = teacher(clip, choose=everything)
    parallel.compile_blocks(teacher, "eager")
    first = teacher(clip, choose=everything)
    graphs = counters["stats"]["unique_graphs"]
    for _ in range(3):
        again = teacher(clip, choose=everything)
    assert counters["stats"]["unique_graphs"] == graphs, "a graph each step would reach the limit"
    for made in (first, again):
        assert torch.allclose(made.attention, expected.attention, atol=1e-6)
        assert torch.allclose(made.features[0], expected.features[0], atol=1e-5)


def test_a_random_teacher_is_the_same_everywhere() -> None:
    first = umt(of_timm(), Tube(0.75)).teacher.model.state_dict()
    torch.manual_seed(9)
    second = Frozen(FrameTeacher(TimmEncoder("vit_tiny_patch16_224", 2, 32, options=TIMM)), random=3).model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_cannot_be_is_refused() -> None:
    m = umt(of_timm("vit_base_patch16_siglip_224"), Attention(0.75))
    batch: Any = {"video": torch.zeros(2, 3, 2, 32, 32, dtype=torch.uint8)}
    with pytest.raises(ValueError, match="needs a teacher with a class token"):
        m(batch)
    m.mask = Tube(0.75)
    assert m(batch)["alignment"].isfinite()
    with pytest.raises(ValueError, match="has no list `blocks`"):
        TimmEncoder("swin_tiny_patch4_window7_224")
    for name in ("resnet18", "vit_of_nobody"):
        with pytest.raises(ValueError, match=f"timm makes no vision transformer '{name}' of 224 pixels"):
            TimmEncoder(name)
    with pytest.raises(ValueError, match="no vision transformer"):
        TransformersEncoder("bert")


def test_a_run_has_such_a_teacher(tmp_path: Path) -> None:
    size = {"name": "vit_tiny_patch16_224", "size": "${data.init_args.size}", "options": TIMM}
    backbone = {"class_path": "TimmEncoder", "init_args": size}
    teacher = {"class_path": "FrameTeacher", "init_args": {"encoder": backbone}}
    settings = {"teacher": {"class_path": "Frozen", "init_args": {"random": 0, "model": teacher}}}
    settings["decoder"] = {"init_args": {"out": 32}}
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump({"model": {"init_args": settings}}))
    run = fit(
        tmp_path,
        ["-c", str(ROOT / "recipes/umt_tiny.yaml"), "-c", str(tmp_path / "teacher.yaml")],
        *("--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--data.init_args.global_batch=2"),
    )
    saved = torch.load(run / "checkpoints/step=0000001.ckpt", weights_only=True)["state_dict"]
    assert saved and not [name for name in saved if "teacher" in name or "backbone" in name]
