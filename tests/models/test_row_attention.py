"""Packed and padded rows have the logits of single sequences in every type of language model, at their cost."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from models.chat.language_model import add_lora, language_model
from models.chat.row_attention import NAME, Packs, _by_kernel, attend, row_options, use_row_attention

SIZES = {
    **{"vocab_size": 50, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4},
    **{"num_key_value_heads": 2, "max_position_embeddings": 64},
}
SMALL_PADS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TYPES = {  # those of the recipes, with windows shorter than a sequence where a type has windows
    "llama": {},
    "mistral": {"sliding_window": 5},
    "phi3": {"sliding_window": 5, **SMALL_PADS},
    "qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {"head_dim": 6},
}
LENGTHS = (7, 1, 11, 4)


def model_of(kind: str, lora: bool = False) -> torch.nn.Module:
    torch.manual_seed(0)
    model = language_model({"model_type": kind, **SIZES, **TYPES[kind]}).eval()
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)  # so that attention is not nearly uniform
    if lora:
        model = add_lora(model, 4, 8, 0.0, ["o_proj", "lm_head"])
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)
    return model


def logits_of(model: torch.nn.Module, embeds: Tensor, packs: Packs | None = None, **options: object) -> Tensor:
    return model(inputs_embeds=embeds, use_cache=False, **row_options(embeds, packs), **options).logits


@pytest.mark.parametrize("kind, lora", [*((kind, False) for kind in TYPES), ("llama", True), ("phi3", True)])
def test_a_packed_row_is_the_block_diagonal_mask_and_each_sequence_alone(kind: str, lora: bool) -> None:
    model, packs = model_of(kind, lora), Packs.of(LENGTHS)
    theirs = copy.deepcopy(model)  # transformers' way: a mask of the whole row, from the positions
    assert use_row_attention(model) and theirs.config._attn_implementation == "sdpa"
    embeds = torch.randn(1, sum(LENGTHS), 24)
    found = []
    for way in ("rows", "mask"):
        x = embeds.clone().requires_grad_()
        made = (
            logits_of(model, x, packs)
            if way == "rows"
            else theirs(inputs_embeds=x, position_ids=packs.positions, use_cache=False).logits
        )
        made.square().mean().backward()
        weights = {n: p.grad for n, p in (model if way == "rows" else theirs).named_parameters() if p.grad is not None}
        found.append((made, x.grad, weights))
    assert_close(found[0][0], found[1][0], atol=1e-5, rtol=1e-5)
    assert_close(found[0][1], found[1][1], atol=1e-5, rtol=1e-3)
    assert found[0][2].keys() == found[1][2].keys()
    for name, gradient in found[1][2].items():
        assert_close(found[0][2][name], gradient, atol=1e-5, rtol=1e-3, msg=name)
    with torch.no_grad():
        alone = [theirs(inputs_embeds=part).logits for part in embeds.split(LENGTHS, dim=1)]
        assert_close(found[0][0], torch.cat(alone, dim=1), atol=1e-5, rtol=1e-5)
        padded = torch.nn.utils.rnn.pad_sequence([part[0] for part in embeds.split(LENGTHS, dim=1)], True)
        rows = logits_of(model, padded)
        for row, each in zip(rows, alone, strict=True):
            assert_close(row[: each.shape[1]], each[0], atol=1e-5, rtol=1e-5)
        places = torch.tensor([2, 6, 9])
        assert_close(logits_of(model, padded, None, logits_to_keep=places), rows[:, places], atol=1e-5, rtol=1e-5)


def test_attention_of_a_packed_row_costs_the_square_of_each_length(monkeypatch: pytest.MonkeyPatch) -> None:
    """And no mask, of the row's length squared, is made."""
    calls, sdpa = [], F.scaled_dot_product_attention

    def recorded(
        query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: object
    ) -> Tensor:
        calls.append((query.shape[2], key.shape[2], attn_mask))
        return sdpa(query, key, value, attn_mask=attn_mask, **options)

    model = model_of("llama")
    use_row_attention(model)
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", recorded)
    logits_of(model, torch.randn(1, sum(LENGTHS), 24), Packs.of(LENGTHS))
    assert calls == [(length, length, None) for _ in range(2) for length in LENGTHS]


def test_generation_with_padding_on_the_left_is_that_of_transformers() -> None:
    model = model_of("mistral")
    theirs = copy.deepcopy(model)
    use_row_attention(model)
    assert model.config._attn_implementation == NAME and "attn" not in str(model.config.to_dict())
    embeds, mask = torch.randn(3, 9, 24), torch.ones(3, 9, dtype=torch.long)
    mask[0, :4] = mask[2, :1] = 0
    options = {"inputs_embeds": embeds, "attention_mask": mask, "max_new_tokens": 6, "do_sample": False}
    made, expected = (m.generate(**options, pad_token_id=0, eos_token_id=49) for m in (model, theirs))
    assert torch.equal(made, expected) and len(set(made.flatten().tolist())) > 3


def test_types_whose_attention_cannot_be_told_are_left_as_they_are() -> None:
    bloom = language_model({"model_type": "bloom", "vocab_size": 50, "hidden_size": 24, "n_layer": 1, "n_head": 2})
    assert not use_row_attention(bloom) and bloom.config._attn_implementation != NAME
    layers = ["linear_attention", "full_attention"]
    hybrid = model_of("llama")
    hybrid.config.layer_types = layers
    assert not use_row_attention(hybrid)
    query = torch.randn(1, 2, 3, 4)
    with pytest.raises(ValueError, match="does not hand options to its attention"):
        attend(hybrid, query, query, query, torch.empty(1, 1, 0, 0))


def test_the_kernel_for_variable_lengths_gets_what_a_row_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in computes what the documentation of torch's kernel says; the test on a GPU runs the kernel."""

    def varlen(q, k, v, bounds, bounds_k, longest, longest_k, *, scale, window_size, enable_gqa):
        assert q.is_contiguous() and bounds.dtype == torch.int32 and torch.equal(bounds, bounds_k)
        assert longest == longest_k == int(bounds.diff().max()) and window_size[1] == 0
        made = []
        for start, end in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            behind = torch.arange(end - start)[:, None] - torch.arange(end - start)
            seen = (behind >= 0) & ((window_size[0] < 0) | (behind <= window_size[0]))
            parts = (x[start:end].transpose(0, 1) for x in (q, k, v))
            made.append(F.scaled_dot_product_attention(*parts, attn_mask=seen, scale=scale, enable_gqa=enable_gqa))
        return torch.cat([part.transpose(0, 1) for part in made])

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen)
    packs, module = Packs.of(LENGTHS), torch.nn.Module()
    module.num_key_value_groups = 2
    q, k, v = torch.randn(1, 4, 23, 6), torch.randn(1, 2, 23, 6), torch.randn(1, 2, 23, 6)
    for window in (None, 5):
        found = _by_kernel(q, k, v, packs, 0.3, window)
        mask = torch.empty(1, 1, 0, 0)
        assert_close(found, attend(module, q, k, v, mask, 0.0, 0.3, window, (packs,))[0], atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_packed_row_on_a_gpu_is_that_of_a_cpu() -> None:
    packs = Packs.of(LENGTHS)
    for kind in TYPES:
        model = model_of(kind)
        use_row_attention(model)
        embeds = torch.randn(1, sum(LENGTHS), 24)
        expected = logits_of(model, embeds, packs)
        on_gpu = logits_of(model.cuda(), embeds.cuda(), packs.moved(lambda x: x.cuda())).cpu()
        assert_close(on_gpu, expected, atol=1e-3, rtol=1e-3)
    half = torch.randn(3, 1, 4, 23, 64, device="cuda", dtype=torch.bfloat16)
    moved, module, mask = packs.moved(lambda x: x.cuda()), torch.nn.Module(), half.new_empty(1, 1, 0, 0)
    for window in (None, 5):
        by_kernel = attend(module, *half, mask, 0.0, 0.125, window, (moved,))[0]
        one_by_one = attend(module, *half.float(), mask, 0.0, 0.125, window, (moved,))[0]
        assert_close(by_kernel.float(), one_by_one, atol=2e-2, rtol=2e-2)
