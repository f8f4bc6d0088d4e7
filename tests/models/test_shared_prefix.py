"""What prompts share at their beginning is read once, and keys, values and answers are those of each alone."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from models.chat.growing_cache import growing_cache
from models.chat.row_attention import row_options, use_row_attention
from models.chat.shared_prefix import pack_shared
from tests.models.test_row_attention import model_of

SYSTEM, FIRST, SECOND = (torch.randn(n, 24, generator=torch.Generator().manual_seed(n)) for n in (20, 17, 16))


def prompts() -> list[Tensor]:
    """About two videos in no order, one without a video, and one that another begins with."""
    own = [torch.randn(n, 24, generator=torch.Generator().manual_seed(9 * n)) for n in (5, 3, 8, 1, 4)]
    media = [[SYSTEM, FIRST], [SYSTEM, SECOND], [SYSTEM], [SYSTEM, FIRST], [SYSTEM, SECOND]]
    made = [torch.cat([*seen, end]) for seen, end in zip(media, own, strict=True)]
    return [*made, torch.cat((made[0], made[1][-2:]))]


def test_a_shared_beginning_stands_once() -> None:
    row, packs = pack_shared(prompts())
    assert packs.shares and row.shape[1] == 20 + (17 + 5 + 1 + 7) + (16 + 3 + 4) + 8
    for prompt, chain in zip(prompts(), packs.chains, strict=True):
        parts = row[0].split(packs.lengths)
        assert torch.equal(torch.cat([parts[i] for i in chain]), prompt)
        places = packs.positions[0].split(packs.lengths)
        assert torch.cat([places[i] for i in chain]).tolist() == list(range(len(prompt)))


def test_few_tokens_and_other_values_are_not_shared() -> None:
    few = [torch.cat((SYSTEM[:15], SECOND[:n])) for n in (3, 4)]
    assert not pack_shared([torch.cat((SYSTEM[:9], end)) for end in (FIRST, SECOND)])[1].shares
    assert pack_shared(few)[1].shares  # 15 and 2
    near = SYSTEM.clone()
    near[3, 7] += 1e-6
    assert not pack_shared([torch.cat((start, SECOND)) for start in (SYSTEM, near)])[1].shares


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2"])  # without a window, with one, with one in some layers
def test_keys_and_values_of_shared_beginnings_are_those_of_each_prompt_alone(kind: str) -> None:
    model = model_of(kind)
    use_row_attention(model)
    row, packs = pack_shared(prompts())
    cache = growing_cache(model, 0, packs)
    with torch.no_grad():
        logits = model(inputs_embeds=row, use_cache=True, **cache, **row_options(row, packs)).logits[0]
        for i, prompt in enumerate(prompts()):
            alone = model(inputs_embeds=prompt[None], use_cache=True)
            last = logits.split(packs.lengths)[packs.chains[i][-1]][-1]
            assert_close(last, alone.logits[0, -1], atol=1e-5, rtol=1e-5)
            for found, expected in zip(cache["cache"].layers, alone.cache.layers, strict=True):
                kept = expected.keys.shape[2]  # of all tokens, or of a window
                assert_close(found.keys[i, :, -kept:], expected.keys[0], atol=1e-5, rtol=1e-5)
                assert_close(found.values[i, :, -kept:], expected.values[0], atol=1e-5, rtol=1e-5)
                assert not found.keys[i, :, : -len(prompt)].any()
