"""Variations of reference cases for which no official output is stored: their values come from plain formulas."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.helpers.paths import TESTS
from tests.parity import read, run


def case_of(stem: str) -> tuple[dict, dict[str, Tensor]]:
    return read(TESTS / f"references/{stem}.json")


def plain_tokens(w: dict[str, Tensor], video: Tensor, heads: int) -> Tensor:
    """Tokens `[B, N, D]` of a UMT encoder before its last norm, from official weights."""
    kernel = w["patch_embed.proj.weight"]
    x = F.conv3d(video, kernel, w["patch_embed.proj.bias"], stride=kernel.shape[2:]).flatten(2).transpose(1, 2)
    x = x + w["pos_embed"]
    norm = lambda x, name: F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)  # noqa: E731
    linear = lambda x, name: F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])  # noqa: E731
    for i in range(1 + max(int(name.split(".")[1]) for name in w if name.startswith("blocks."))):
        block = f"blocks.{i}"
        bias = torch.cat((w[f"{block}.attn.q_bias"], torch.zeros_like(x[0, 0]), w[f"{block}.attn.v_bias"]))
        qkv = F.linear(norm(x, f"{block}.norm1"), w[f"{block}.attn.qkv.weight"], bias)
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        x = x + linear((weights @ v).transpose(1, 2).flatten(2), f"{block}.attn.proj")
        hidden = F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1"))
        x = x + linear(hidden, f"{block}.mlp.fc2")
    return x


def test_the_first_token_is_classified_without_mean_pooling() -> None:
    facts, t = case_of("umt_finetune_8f_6x6_interp_pos")
    weights = {name.removeprefix("model/"): tensor for name, tensor in t.items() if name.startswith("model/")}
    tokens = plain_tokens(weights, t["input/video"], facts["config"]["heads"])
    norm = lambda x: F.layer_norm(x, x.shape[-1:], weights["fc_norm.weight"], weights["fc_norm.bias"], 1e-6)  # noqa: E731
    torch.testing.assert_close(norm(tokens.mean(1)), t["output/features"], atol=5e-5, rtol=1e-4)  # the formula is right

    facts["config"]["mean_pool"] = False
    first = {name.replace("model/fc_norm", "model/norm"): tensor for name, tensor in t.items()}
    first = {name: tensor for name, tensor in first.items() if not name.startswith("grad/")}
    features = norm(tokens[:, 0])
    logits = F.linear(features, weights["head.weight"], weights["head.bias"])
    loss = F.cross_entropy(logits, t["input/labels"])
    first |= {"output/features": features, "output/logits": logits, "loss": loss}
    assert {"output/features", "output/logits", "loss"} <= run(facts, first).compared


@pytest.mark.parametrize("ratio", [0.5, 3.0])
def test_a_ratio_scales_the_loss_of_the_student(ratio: float) -> None:
    facts, t = case_of("umt_student_decoder_layernorm_eps")
    facts["config"]["loss_ratio"] = ratio
    with pytest.raises(AssertionError, match="loss"):
        run(copy.deepcopy(facts), dict(t))
    facts["loss"] *= ratio
    scaled = {name: x * ratio if name.startswith(("loss", "grad")) else x for name, x in t.items()}
    assert "loss" in run(facts, scaled).compared


@pytest.mark.parametrize("stem", ["v2_sampling", "umt_sampling", "frame_indices_a"])
def test_each_kind_of_sampling_may_be_absent(stem: str) -> None:
    facts, _ = case_of(stem)
    kinds = [key for key, value in facts.items() if isinstance(value, (list, dict)) and key != "notes"]
    assert len(kinds) > 2
    for kind in kinds:
        run({key: value for key, value in facts.items() if key != kind}, {}, stem)
        assert run({key: facts[key] for key in facts if key == kind or key not in kinds}, {}, stem).compared


def plain_loss(video: Tensor, text: Tensor, temperature: Tensor, index: Tensor | None) -> Tensor:
    """Contrast both ways of `[B, D]` each; pairs of one index share their target."""
    logits = F.normalize(video, dim=-1) @ F.normalize(text, dim=-1).t() / temperature
    same = torch.eye(len(video)) if index is None else (index[:, None] == index).float()
    target = same / same.sum(1, keepdim=True)
    return -(target * (logits.log_softmax(1) + logits.t().log_softmax(1))).sum(1).mean() / 2


def test_contrast_over_three_ranks_is_the_plain_formula_of_the_whole_batch() -> None:
    world, batch, in_dim, dim = 3, 2, 5, 4
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    x = {"video": draw(world, batch, in_dim), "text": draw(world, batch, in_dim)}
    w = {"video": draw(in_dim, dim), "text": draw(in_dim, dim)}
    index, temperature = torch.tensor([[0, 1], [2, 0], [3, 1]]), torch.tensor(0.1)
    tensors = {f"in/x_{kind}": x[kind] for kind in x} | {f"in/w_{kind}": w[kind] for kind in w}
    tensors |= {"in/idx": index, "in/temp": temperature}

    def gradients(by_index: bool, rank: int | None = None) -> dict[str, Tensor]:
        """Of the whole batch in one process; of a rank, those through its own features."""
        leaves = [w["video"].clone(), w["text"].clone(), temperature.clone()]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        own = torch.ones(world, 1, 1) if rank is None else torch.eye(world)[rank].view(-1, 1, 1)
        features = [x[kind] @ leaf for kind, leaf in zip(("video", "text"), leaves, strict=False)]
        a, b = ((f * own + f.detach() * (1 - own)).flatten(0, 1) for f in features)
        loss = plain_loss(a, b, leaves[2], index.flatten() if by_index else None)
        loss.backward()
        names = ("grad_wv", "grad_wt", "grad_temp")
        return {"loss": loss.detach(), **{name: leaf.grad for name, leaf in zip(names, leaves, strict=True)}}

    for by_index, name in ((True, "idx"), (False, "arange")):
        tensors |= {f"out/single_process_{name}/{key}": value for key, value in gradients(by_index).items()}
    for key, value in gradients(False).items():  # without `loss`, which each rank has
        if key != "loss":
            tensors[f"out/internvideo1_full/ddp_mean/{key}"] = value
    ranks = [gradients(True, rank) for rank in range(world)]
    for key in ("grad_wv", "grad_wt", "grad_temp"):
        tensors[f"out/viclip_local_slice/ddp_mean/{key}"] = torch.stack([made[key] for made in ranks]).mean(0)
        tensors |= {f"out/viclip_local_slice/rank{rank}/{key}": made[key] for rank, made in enumerate(ranks)}
    config = {"batch": batch, "dim": dim, "in_dim": in_dim, "seed": 0, "temp": 0.1, "world": world}
    ratios = {"internvideo1_full": 1.0, "viclip_local_slice": 1 / world}
    facts = {"config": config, "ratio_ddp_mean_to_true_encoder_grad": ratios}
    compared = run(facts, tensors, "vtc_three_ranks_z").compared
    assert {name for name in tensors if name.startswith("out/")} <= compared
    assert ("ratio_ddp_mean_to_true_encoder_grad", "viclip_local_slice") in compared
