"""UMT: the teacher is neither trained nor saved, and computes only the visible tokens; layouts of CLIP weights."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

import models
from models.convert import clip as clip_names
from models.convert.rules import to_theirs
from models.layers import take_patches
from pretrain.export.command import export
from pretrain.export.load_run import load_objective
from pretrain.learning.masking import Attention, Mask, Random, Tube, complement
from pretrain.learning.teachers import Frozen, last_blocks
from pretrain.metrics.knn import KNN, knn_accuracy
from pretrain.objectives import UMT
from tests.helpers.methods import METHODS
from tests.helpers.runs import fit, names, weights

SIZES = {"patch": 8, "tubelet": 1, "frames": 4, "size": 32}
CLIP = (48, 3, 4, 96, 8, 32, 24)


def model(mask: Mask | None = None, half: bool = False, **encoder) -> UMT:
    sizes = {**SIZES, **encoder}
    torch.manual_seed(0)
    student = models.VideoViT(32, 3, 4, 64, **sizes)
    decoder = models.FeatureDecoder(32, 24, 2, **{name: sizes[name] for name in SIZES})
    return UMT(
        student,
        decoder,
        Frozen(models.CLIPVision(*CLIP), random=3, param_dtype="bfloat16" if half else "float32"),
        mask or Attention(0.75),
    )


def video(frames: int = 4, size: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, frames, size, size), dtype=torch.uint8, generator=generator)


def test_the_teacher_is_neither_trained_nor_saved() -> None:
    m = model()
    ours = [name for name, _ in m.named_parameters()]
    assert ours and not [name for name in [*ours, *m.state_dict()] if "teacher" in name]
    in_optimiser = {id(p) for group in m.optim.build(m).param_groups for p in group["params"]}
    assert not in_optimiser & {id(p) for p in m.teacher.model.parameters()}
    m.train()
    assert not m.teacher.training and not any(part.training for part in m.teacher.model.modules())
    sum(m({"video": video()}).values()).backward()
    assert all(p.grad is None and not p.requires_grad for p in m.teacher.model.parameters())
    m.load_state_dict(m.state_dict(), strict=True)
    assert m.double().teacher.model.cls_token.dtype == torch.float64  # moves reach it


def test_a_random_teacher_is_the_same_everywhere() -> None:
    before = torch.get_rng_state()
    tower = models.CLIPVision(*CLIP)
    torch.set_rng_state(before)
    one = Frozen(tower, random=3).model.state_dict()
    assert torch.equal(torch.get_rng_state(), before), "it must not disturb the process's random numbers"
    torch.manual_seed(5)
    two, other = (Frozen(models.CLIPVision(*CLIP), random=seed).model.state_dict() for seed in (3, 4))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("mask", [Attention(0.75), Tube(0.75), Random(0.75)])
def test_the_teacher_on_visible_tokens_equals_the_full_teacher(mask: Mask) -> None:
    m = model(mask)
    clip = m.normalize(video())
    target, keep = m.teacher_targets(clip)
    whole = m.teacher(clip, taps=m.teacher_taps)
    assert keep.shape == (2, 16) and (keep.diff(dim=1) > 0).all()
    for some, every in zip(target, whole.features, strict=True):
        torch.testing.assert_close(some, every.take_along_dim(keep[..., None], 1), atol=1e-5, rtol=1e-5)


def test_frames_are_resized_for_a_teacher_of_another_size() -> None:
    m = model(size=64, patch=16)
    assert all(loss.isfinite() for loss in m({"video": video(size=64)}).values())


def test_a_half_precision_teacher_is_close_and_gives_the_student_float() -> None:
    full, half = model(), model(half=True)
    assert half.teacher.model.proj.weight.dtype == torch.bfloat16
    clip = full.normalize(video())
    noise = torch.rand(2, 64, generator=torch.Generator().manual_seed(0))
    (a, keep), (b, _) = full.teacher_targets(clip, noise), half.teacher_targets(clip, noise)
    assert keep.shape == (2, 16) and F.cosine_similarity(a[-1], b[-1].float(), dim=-1).mean() > 0.9
    assert next(iter(half({"video": video()}).values())).dtype == torch.float32


def test_masked_pixels_do_not_reach_the_student() -> None:
    m = model()
    clip = m.normalize(video())
    _, keep = m.teacher_targets(clip)
    marked = clip.clone().requires_grad_()
    m.encoder(marked, keep)[0].sum().backward()
    assert take_patches(marked.grad, complement(keep, 64), 1, 8).abs().max() == 0


@pytest.mark.parametrize("frames", [2, 8, 16])
def test_any_number_of_frames(frames: int) -> None:
    m = model(frames=frames)
    assert all(loss.isfinite() for loss in m({"video": video(frames)}).values())


def test_tokens_without_attention_are_drawn_last() -> None:
    attention = torch.zeros(500, 1, 16)
    attention[..., :4] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    noise = torch.rand(500, 16, generator=torch.Generator().manual_seed(0))
    keep = Attention(0.75)(noise, (1, 4, 4), attention)
    assert keep.shape == (500, 4) and (keep == torch.arange(4)).all()
    keep = Attention(0.5)(noise, (1, 4, 4), attention)
    assert (keep[:, :4] == torch.arange(4)).all() and len(keep[:, 4:].unique()) == 12


def tower_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    state = models.CLIPVision(*CLIP).state_dict()
    return {name: torch.randn(t.shape, generator=generator) * 0.1 for name, t in state.items()}


def openai_state() -> dict[str, torch.Tensor]:
    """The contents of OpenAI's file: both towers, half precision, 2D patches."""
    theirs, unknown = to_theirs(clip_names.OPENAI, tower_state())
    assert not unknown
    theirs["visual.conv1.weight"] = theirs["visual.conv1.weight"].squeeze(2)
    text = {"token_embedding.weight": torch.zeros(9, 4), "transformer.resblocks.0.ln_1.weight": torch.ones(4)}
    return {name: tensor.half() for name, tensor in {**theirs, **text}.items()}


class Holder(torch.nn.Module):
    """Tensors under dotted names, so that they can be saved as a program."""

    def __init__(self, state: dict[str, torch.Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            part = self
            *path, leaf = name.split(".")
            for step in path:
                if not hasattr(part, step):
                    part.add_module(step, torch.nn.Module())
                part = getattr(part, step)
            part.register_buffer(leaf, tensor)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def write_clip(layout: str, path: Path) -> Path:
    file = path / "clip.pt"
    if layout == "script":
        torch.jit.save(torch.jit.script(Holder(openai_state())), file)
    elif layout == "openai":
        torch.save(openai_state(), file)
    elif layout == "open_clip":
        wrapped = {f"module.{name}": tensor for name, tensor in openai_state().items()}
        torch.save({"epoch": 3, "name": "run", "state_dict": wrapped}, file)
    elif layout == "vision alone":
        state = openai_state().items()
        torch.save({n.removeprefix("visual."): t for n, t in state if n.startswith("visual.")}, file)
    else:
        save_file(to_theirs(clip_names.TRANSFORMERS, tower_state())[0], path / "model.safetensors")
        return path
    return file


@pytest.mark.parametrize("layout", ["script", "openai", "open_clip", "vision alone", "transformers"])
def test_clip_is_read_in_every_layout(layout: str, tmp_path: Path) -> None:
    teacher = Frozen(models.CLIPVision(*CLIP), weights=str(write_clip(layout, tmp_path)))
    teacher.load()
    for name, tensor in tower_state().items():
        torch.testing.assert_close(teacher.model.state_dict()[name], tensor, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("projection", [True, False])
def test_clip_of_transformers_has_the_same_outputs(projection: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPVisionConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8,
        projection_dim=24, attn_implementation="eager",
    )  # fmt: skip
    kind = transformers.CLIPVisionModelWithProjection if projection else transformers.CLIPVisionModel
    theirs = kind(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = models.CLIPVision(*CLIP[:-1], 24 if projection else None).eval()
    report = models.load_weights(ours, tmp_path)
    assert not report.missing and not report.unused, report
    frames = torch.randn(2, 3, 1, 32, 32)
    with torch.no_grad():
        seen = ours(frames, taps=(0, 2))
        out = theirs(frames[:, :, 0], output_hidden_states=True, output_attentions=True)
        norm = (theirs.vision_model if projection else theirs).post_layernorm
        for layer, found in zip((1, 3), seen.features, strict=True):
            expected = norm(out.hidden_states[layer][:, 1:])
            expected = theirs.visual_projection(expected) if projection else expected
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(seen.attention[:, 0], out.attentions[-1].mean(1)[:, 0, 1:], atol=1e-6, rtol=1e-4)


def test_a_clip_of_another_size_has_its_positions_resized(tmp_path: Path) -> None:
    file = write_clip("openai", tmp_path)
    bigger = models.CLIPVision(*CLIP[:5], 64, 24)
    models.load_weights(bigger, file)
    assert torch.equal(bigger.pos_embed[0], openai_state()["visual.positional_embedding"][0].float())
    with pytest.raises(ValueError, match="of another architecture"):
        models.load_weights(models.CLIPVision(48, 4, *CLIP[2:]), file)


def test_errors_of_a_teacher_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs weights: set .*teacher.weights .*ViT-B-16.pt"):
        Frozen(models.CLIPVision(*CLIP))
    with pytest.raises(ValueError, match="one of the two to null"):
        Frozen(models.CLIPVision(*CLIP), weights="some.pt", random=0)
    absent = Frozen(models.CLIPVision(*CLIP), weights=str(tmp_path / "none.pt"))
    with pytest.raises(FileNotFoundError, match=r"no checkpoint at .*none.pt: .*teacher.weights"):
        absent.load()
    torch.save({n: t for n, t in openai_state().items() if n != "visual.proj"}, tmp_path / "cut.pt")
    with pytest.raises(ValueError, match=r"proj.weight.*set the model's `out` to null"):
        Frozen(models.CLIPVision(*CLIP), weights=str(tmp_path / "cut.pt")).load()
    program = torch.jit.script(Holder({"other.weight": torch.zeros(1)}))
    torch.jit.save(program, tmp_path / "other.pt")
    with pytest.raises(ValueError, match="no known layout"):
        Frozen(models.CLIPVision(*CLIP), weights=str(tmp_path / "other.pt")).load()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: model(tubelet=2), "2 frames deep"),
        (lambda: model(patch=16), r"\(2, 2\) a slice, the teacher's 1 and \(4, 4\)"),
        (lambda: last_blocks(3, 4, 1), "4 layers at an interval of 1 do not fit into 3 blocks"),
        (lambda: Attention(0.99)(torch.rand(1, 16), (1, 4, 4)), "needs a teacher"),
        (lambda: model().teacher(video(size=64).float()), "CLIP was made for 32 x 32"),
    ],
)
def test_parts_that_do_not_fit_raise(make, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_learnt_positions_travel_and_are_not_mistaken_for_fixed_ones() -> None:
    learnt = models.VideoViT(32, 1, 4, 64, **SIZES, learn_positions=True)
    state = learnt.state_dict()
    longer = models.VideoViT(32, 1, 4, 64, **{**SIZES, "frames": 8}, made_for=(4, 4, 4), learn_positions=True)
    assert not models.load_weights(longer, state).missing
    torch.testing.assert_close(
        longer.positions.table.view(8, 16, 32).mean(0), learnt.positions.table.view(4, 16, 32).mean(0)
    )
    with pytest.raises(ValueError, match="position table of its own"):
        models.load_weights(models.VideoViT(32, 1, 4, 64, **SIZES), state)
    resized = models.VideoViT(32, 1, 4, 64, **SIZES, made_for=(2, 4, 4))
    assert not models.load_weights(
        models.VideoViT(32, 1, 4, 64, **SIZES, made_for=(2, 4, 4)), resized.state_dict()
    ).missing
    with pytest.raises(ValueError, match="made_for"):
        models.load_weights(models.VideoViT(32, 1, 4, 64, **SIZES), resized.state_dict())


def test_a_resumed_run_draws_the_same_stochastic_depth(tmp_path: Path) -> None:
    drop = ["--model.init_args.encoder.init_args.drop_path=0.5", "--trainer.max_steps=4"]
    for run in ("whole", "parts"):
        (tmp_path / run).mkdir()
        record = [
            "--trainer.callbacks+=tests.helpers.runs.BatchRecorder",
            f"--trainer.callbacks.path={tmp_path}/{run}/names.tsv",
        ]
        stop = ["--trainer.callbacks+=tests.helpers.runs.StopAtStep", "--trainer.callbacks.step=2"]
        fit(tmp_path / run, METHODS["umt"], *drop, *record, *(stop if run == "parts" else []))
        torch.manual_seed(1)  # another process has other random numbers
    fit(tmp_path / "parts", METHODS["umt"], *drop, *record, "--ckpt_path=last")
    assert names(tmp_path / "parts") == names(tmp_path / "whole")
    one, two = (weights(tmp_path / run / "run", 4) for run in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(
        tmp_path_factory.mktemp("umt"), METHODS["umt"], "--trainer.max_steps=2", "--trainer.val_check_interval=2"
    )


def test_a_checkpoint_holds_no_teacher(trained: Path) -> None:
    assert not [name for name in weights(trained, 2) if "teacher" in name]


@pytest.mark.parametrize("to", ["transformers", "official", "safetensors"])
def test_out_and_back(trained: Path, tmp_path: Path, to: str) -> None:
    export(str(trained), to, str(tmp_path / "out"))
    m = load_objective(str(trained))[0]
    clip = torch.randn(2, 3, 8, 32, 32)
    back = load_objective(str(trained))[0].encoder
    for part in back.parameters():
        torch.nn.init.zeros_(part)
    path = tmp_path / "out" / ("checkpoint.pth" if to == "official" else "")
    report = models.load_weights(back, path)
    assert not report.missing and all("decoder" in name for name in report.unused)
    with torch.no_grad():
        assert torch.equal(back(clip), m.encoder(clip))
        if to == "transformers":
            transformers = pytest.importorskip("transformers")
            theirs = transformers.AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
            keep = torch.arange(0, 32, 3).expand(2, -1)
            for some in (None, keep):
                found = theirs(clip.transpose(1, 2), keep=some).last_hidden_state
                torch.testing.assert_close(found, m.encoder(clip, some), atol=2e-5, rtol=0)


def test_nearest_neighbours() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    apart = F.one_hot(labels).float() + 0.01 * torch.rand(60, 3, generator=generator)
    assert knn_accuracy(apart, labels, k=5) == 1
    assert knn_accuracy(torch.rand(600, 8, generator=generator), torch.arange(600) % 3, k=5) < 0.5
    metric = KNN(k=5, chunk=7)
    for rows in (slice(0, 25), slice(25, 60), slice(60, 60)):
        metric.update({"features": apart[rows]}, {"label": labels[rows]})
    assert metric.compute() == 1
    with pytest.raises(ValueError, match="give the data a `label`"):
        metric.update({"features": apart}, {})
