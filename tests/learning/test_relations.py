"""Alignment of token relations: its loss, which parameters it reaches, its teacher, and what is refused."""

import copy

import pytest
import torch
from torch import Tensor

from models import VideoViT
from models.diffusion.unet import Layer
from models.text import CLIPText
from pretrain.learning import parallel
from pretrain.learning.losses import relation_loss
from pretrain.learning.randomness import RandomKey
from pretrain.learning.relations import Relations, to_grid
from pretrain.learning.teachers import Frozen
from pretrain.plan.dry_run import DryRun
from pretrain.plan.memory import Sizes
from tests.helpers.methods import resolved
from tests.helpers.paths import ROOT
from tests.objectives.test_denoise import batch_of, network, objective


def relations(block: str = "mid.blocks.0", frames: int = 4, **options) -> Relations:
    encoder = VideoViT(24, 1, 2, 48, patch=8, tubelet=2, frames=frames, size=32)
    return Relations(Frozen(encoder, random=0), block, **options)


def test_relations_of_like_features_cost_nothing() -> None:
    student = torch.randn(2, 6, 8, generator=torch.Generator().manual_seed(0))
    turn = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1))).Q
    assert relation_loss(student, student) == 0
    assert relation_loss(student, 3 * student @ turn, margin=1e-5) == 0  # neither length nor axes count
    one = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    other = torch.tensor([[[1.0, 0.0, 0.0], [3.0, 0.0, 4.0]]])  # a cosine of 0.6 instead of 0
    assert float(relation_loss(one, other, margin=0.0)) == pytest.approx(2 * 0.6 / 4)
    assert float(relation_loss(one, other, margin=0.1)) == pytest.approx(2 * 0.5 / 4)


@pytest.mark.parametrize("block", ["down.1.blocks.0", "up.0.blocks.1"])
def test_only_the_block_and_those_before_it_learn(block: str) -> None:
    method = objective(align=relations(block, margin=0.0))
    losses = method(batch_of())
    assert losses.keys() == {"video", "relations"} and losses["relations"] > 0
    losses["relations"].backward()
    reached = {name.rpartition(".")[0] for name, p in method.unet.named_parameters() if p.grad is not None}
    order = [name for name, part in method.unet.named_modules() if isinstance(part, Layer)]
    for name in order:
        learns = any(part.startswith(f"{name}.") for part in reached)
        assert learns == (order.index(name) <= order.index(block)), name
    assert not any(name.startswith("conv_out") for name in reached)


def test_it_is_off_by_default_and_after_its_last_step() -> None:
    plain, aligned = objective(), objective(align=relations(until=3))
    aligned.unet.load_state_dict(plain.unet.state_dict())
    batch = batch_of()
    calls: list[str] = []
    handle = torch.nn.modules.module.register_module_forward_pre_hook(lambda part, _: calls.append(type(part).__name__))
    try:
        for step, names in ((2, {"video", "relations"}), (3, {"video"})):
            plain.random_key = aligned.random_key = RandomKey("train", step)
            calls.clear()
            found, right = aligned(batch), plain(batch)
            assert found.keys() == names and torch.equal(found["video"], right["video"])
            assert ("VideoViT" in calls) == ("relations" in names)
    finally:
        handle.remove()
    assert not any(part._forward_hooks for part in aligned.unet.modules())
    assert torch.equal(aligned.eval()(batch)["denoise"], plain.eval()(batch)["denoise"])


def test_the_coarser_grid_counts_and_images_take_no_part() -> None:
    align = relations(margin=0.0)
    video = batch_of()["video"].float() / 255
    tokens = torch.arange(2 * 16 * 24.0).view(1, 32, 24)
    assert torch.equal(to_grid(tokens, (2, 4, 4))[0, :, 1, 2, 3], tokens[0, 16 + 2 * 4 + 3])
    statistics = align.statistics
    seen: list[Tensor] = []
    align.teacher.register_forward_hook(lambda _, inputs, output: seen.extend((*inputs, output)))
    fine, coarse = torch.randn(2, 5, 4, 8, 8), torch.randn(2, 5, 4, 2, 3)
    for output in (fine, coarse):
        loss = align(output, video, statistics)
        with_images = align(torch.cat((output, torch.randn(2, 5, 3, *output.shape[3:])), dim=2), video, statistics)
        assert loss > 0 and torch.equal(loss, with_images)
    pooled = fine.view(2, 5, 2, 2, 4, 2, 4, 2).mean(dim=(3, 5, 7))
    right = 0.5 * relation_loss(pooled.flatten(2).mT, seen[1], margin=0.0)
    torch.testing.assert_close(align(fine, video, statistics), right)
    assert seen[0].shape == (2, 3, 4, 32, 32)


def test_the_teacher_is_neither_trained_nor_saved_and_is_planned(capsys: pytest.CaptureFixture) -> None:
    method = objective(align=relations())
    sum(method(batch_of()).values()).backward()
    encoder = method.align.teacher.model
    assert all(p.grad is None and not p.requires_grad for p in encoder.parameters()) and not encoder.training
    assert {name.split(".")[0] for name in method.state_dict()} == {"unet"}
    assert {id(p) for p in encoder.parameters()}.isdisjoint(id(p) for p in method.parameters())
    recipes = ROOT / "recipes/lavie_base_tiny.yaml", ROOT / "recipes/options/relations.yaml"
    small = (
        "--model.init_args.align.init_args.teacher.init_args.model.init_args={width: 96, heads: 2, size: 32, depth: 2}"
    )
    truth = resolved(capsys, [part for path in recipes for part in ("-c", str(path))], small)
    aligned = DryRun(copy.deepcopy(truth), gpu=False)
    del truth["model"]["init_args"]["align"]
    plain = DryRun(truth, gpu=False)
    encoder = aligned.objective()[0].align.teacher.model
    weights = sum(x.nbytes for x in (*encoder.parameters(), *encoder.buffers()))
    assert Sizes.of(aligned.objective()[0]).teachers - Sizes.of(plain.objective()[0]).teachers == weights > 1e6
    tokens, products = 2 * 2 * 2, sum(p.numel() for p in encoder.blocks.parameters() if p.ndim > 1)
    assert aligned.cost(1).model_flop - plain.cost(1).model_flop > 2 * tokens * products


def test_recomputed_blocks_learn_the_same() -> None:
    gradients = []
    for recompute in (False, True):
        method = objective(align=relations("down.1.blocks.0"))
        if recompute:
            parallel.recompute(method)
        method(batch_of())["relations"].backward()
        gradients.append(method.unet.down[0].blocks[0].res.conv1.weight.grad)
    assert gradients[0].any()
    torch.testing.assert_close(*gradients)


def test_what_cannot_be_aligned_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no block 'middle' to align: set it to one of down\.0\.blocks\.0, "):
        objective(align=relations("middle"))
    with pytest.raises(ValueError, match="CLIPText is none"):
        Relations(Frozen(CLIPText(32, 1, 1, 32, 32), random=0), "mid.blocks.0")
    with pytest.raises(ValueError, match=r"made for 8 frames of 32 x 32 pixels .*set the encoder's frames"):
        objective(align=relations(frames=8))(batch_of())
    with pytest.raises(ValueError, match="makes 33 tokens of a clip and its grid of 2 x 4 x 4 has 32"):
        to_grid(torch.zeros(1, 33, 8), (2, 4, 4))
    stored = {"latents": torch.zeros(1, 24, 4, 8, 8), "text_states": torch.zeros(1, 2, 32), "name": ["a"]}
    with pytest.raises(ValueError, match="the teacher of `align` needs the video itself"):
        objective(align=relations()).on_host(stored)
    assert objective(network()).on_host(stored) is stored
