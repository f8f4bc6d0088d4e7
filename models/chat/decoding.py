"""Greedy decoding of a batch that rows leave when they have ended: no step computes for them.

transformers' own loop keeps a row to the end of the longest. `generate` prepares everything, and calls this loop in the
place of its own (its option `custom_generate`), with the processors and stopping criteria that it made.

Letters in shapes: B rows, L tokens of prompts, M new tokens.
"""

from typing import Any

import torch
from torch import Tensor


def greedy(
    model: Any,
    input_ids: Tensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    **prepared: Any,
) -> Tensor:
    """New token ids `[B, M]`, the likeliest each, padded with the pad token.

    Args:
        input_ids: `[B, 0]`: the prompts are embeddings.
        prepared: `inputs_embeds` `[B, L, D]` and `attention_mask` `[B, L]` or None of prompts padded on the left, and
            the `growing_cache` that holds keys and values of all but their last tokens.
    """
    name = "cache" if "cache" in prepared else "past_key_values"
    cache, mask, prompts = prepared[name], prepared["attention_mask"], prepared["inputs_embeds"]
    if mask is None:  # `generate` leaves out the mask of prompts of one length
        mask = torch.ones(prompts.shape[:2], dtype=torch.long, device=prompts.device)
    pad, step = generation_config.pad_token_id, {"inputs_embeds": prompts[:, -1:]}
    ids, rows = input_ids, torch.arange(len(input_ids), device=input_ids.device)  # of all, and the rows that go on
    while len(rows):
        places = mask.sum(dim=1, keepdim=True) - 1
        how = {"attention_mask": mask, "position_ids": places, "use_cache": True, "logits_to_keep": 1, name: cache}
        scores = model(**step, **how).logits[:, -1].float()
        if logits_processor:  # some have a state of each row
            every = scores.new_zeros(len(ids), scores.shape[1]).index_copy(0, rows, scores)
            scores = logits_processor(ids, every)[rows]
        new = ids.new_full((len(ids),), pad).index_copy(0, rows, scores.argmax(dim=-1))
        ids = torch.cat((ids, new[:, None]), dim=1)
        mask = torch.cat((mask, mask.new_ones(len(mask), 1)), dim=1)
        ended = stopping_criteria(ids, None)[rows].tolist()
        if any(ended):
            kept = torch.tensor(without(ended), dtype=torch.long, device=rows.device)
            rows, mask = rows[kept], mask[kept]
            cache.batch_select_indices(kept)
        step = {"input_ids": new[rows, None]}
    return ids


def without(ended: list[bool]) -> list[int]:
    """The rows that go on, in an order in which most stay where they are: the last ones fill the gaps."""
    count = ended.count(False)
    last = [i for i in range(count, len(ended)) if not ended[i]]
    return [last.pop() if ended[i] else i for i in range(count)]
