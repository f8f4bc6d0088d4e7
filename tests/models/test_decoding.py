"""Rows that have ended leave the batch, and every answer is that of transformers' own loop."""

import copy

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from models.chat.decoding import greedy, without
from models.chat.growing_cache import growing_cache
from models.chat.row_attention import row_options, use_row_attention
from models.chat.shared_prefix import pack_shared
from tests.models.test_row_attention import model_of


@pytest.mark.parametrize(
    ("ended", "expected"),
    [
        ([False, True, False, False], [0, 3, 2]),
        ([True, True, False, False], [3, 2]),
        ([False, False, True], [0, 1]),
        ([True, True], []),
    ],
)
def test_the_last_rows_fill_the_gaps(ended: list[bool], expected: list[int]) -> None:
    assert without(ended) == expected


@pytest.mark.parametrize(
    ("kind", "penalty", "lengths"),
    [("llama", 1.0, (9, 4, 2, 7, 6)), ("llama", 1.0, (6,) * 5), ("mistral", 1.3, (9, 4, 2, 7, 6))],
)
def test_answers_that_end_at_different_times_are_those_of_transformers(
    kind: str, penalty: float, lengths: tuple[int, ...]
) -> None:
    """Also without padding, with a window, and with a processor of scores, which a model's folder may ask for."""
    model = model_of(kind)
    theirs = copy.deepcopy(model)
    use_row_attention(model)
    prompts = [torch.randn(n, 24) for n in lengths]
    mask = pad_sequence([torch.ones(len(prompt)).long() for prompt in prompts], True, padding_side="left")
    how = {"inputs_embeds": pad_sequence(prompts, True, padding_side="left"), "attention_mask": mask}
    how |= {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "repetition_penalty": penalty}
    free = theirs.generate(**how)
    ends = [int(free[0, 4]), int(free[2, 7]), int(free[3, 1])]
    expected = theirs.generate(**how, eos_token_id=ends)
    row, packs = pack_shared([prompt[:-1] for prompt in prompts])
    cache, rows = growing_cache(model, 21, packs), []
    with torch.no_grad():
        model(inputs_embeds=row, use_cache=True, **cache, **row_options(row, packs))
        model.model.layers[0].register_forward_hook(lambda layer, inputs, output: rows.append(len(output)))
        found = model.generate(**how, **cache, eos_token_id=ends, custom_generate=greedy)
    assert torch.equal(found, expected)
    steps = [next((i + 1 for i, token in enumerate(each) if token in ends), 12) for each in expected.tolist()]
    assert len(set(steps)) > 2 and rows == [sum(n > step for n in steps) for step in range(max(steps))]
