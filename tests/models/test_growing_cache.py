"""Kept keys and values are those of transformers' cache, in the same memory from token to token."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers.cache_utils import DynamicCache

from models.chat.growing_cache import growing_cache
from models.chat.language_model import language_model
from models.chat.row_attention import Packs, row_options, use_row_attention

LLAMA = {
    **{"model_type": "llama", "vocab_size": 50, "hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 64},
}


def keys_and_values(length: int) -> tuple[Tensor, Tensor]:
    return torch.randn(3, 2, length, 4), torch.randn(3, 2, length, 4)


def test_tokens_are_appended_where_they_are_and_selections_are_kept() -> None:
    llm = language_model(LLAMA)
    ours, theirs, places = growing_cache(llm, 12)["cache"], DynamicCache(), []
    for length in (5, 1, 1, 5, 3):  # the last ones exceed the room
        new = keys_and_values(length)
        found, expected = ours.update(*new, 0), theirs.update(*new, 0)
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
        places.append(found[0].data_ptr())
    assert len(set(places[:4])) == 1 and places[4] != places[0] and ours.get_seq_length() == 15
    for cache in (ours, theirs):
        cache.crop(-2)
        cache.batch_select_indices(torch.tensor([2, 0]))
    new = torch.randn(2, 2, 1, 4), torch.randn(2, 2, 1, 4)
    assert all(torch.equal(x, y) for x, y in zip(ours.update(*new, 0), theirs.update(*new, 0), strict=True))


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_prompts_read_in_a_packed_row_go_on_as_padded_ones(kind: str) -> None:
    torch.manual_seed(0)
    windows = {"sliding_window": 5} if kind == "mistral" else {}
    llm = language_model({**LLAMA, "model_type": kind, **windows}).eval()
    for parameter in llm.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.4)
    prompts = [torch.randn(n, 24) for n in (9, 4, 2)]
    left = torch.nn.utils.rnn.pad_sequence(prompts, True, padding_side="left")
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones(len(p)).long() for p in prompts], True, padding_side="left")
    how = {"inputs_embeds": left, "attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    expected = llm.generate(**how, eos_token_id=49)
    use_row_attention(llm)
    packs = Packs.of(tuple(len(prompt) - 1 for prompt in prompts))
    cache, row = growing_cache(llm, 17, packs), torch.cat([prompt[:-1] for prompt in prompts])[None]
    with torch.no_grad():
        llm(inputs_embeds=row, use_cache=True, **cache, **row_options(row, packs))
        assert torch.equal(llm.generate(**how, **cache, eos_token_id=49), expected)
        alone = llm(inputs_embeds=prompts[1][None, :-1], use_cache=True).cache.layers[1].keys
    assert_close(cache["cache"].layers[1].keys[1, :, 5:8], alone[0], atol=1e-5, rtol=1e-5)
    assert len(set(expected.flatten().tolist())) > 3


def test_rows_that_end_leave_and_the_others_stay_in_place() -> None:
    ours, theirs = growing_cache(language_model(LLAMA), 12)["cache"], DynamicCache()
    for cache in (ours, theirs):
        torch.manual_seed(0)
        cache.update(*keys_and_values(5), 0)
    place = ours.layers[0].stores[0].whole.data_ptr()
    for rows in ([0, 2], [1]):  # the last row fills a gap
        new = torch.randn(2, len(rows), 2, 1, 4)
        for cache in (ours, theirs):
            cache.batch_select_indices(torch.tensor(rows))
        found, expected = ours.update(*new, 0), theirs.update(*new, 0)
        assert all(torch.equal(x, y) for x, y in zip(found, expected, strict=True))
        assert found[0].data_ptr() == place
