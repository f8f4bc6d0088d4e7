"""What methods do alike whose text tower looks at videos: fit the two together, and tell pairs from hard ones that are
none.

Letters in shapes: B pairs of a rank, G pairs that wrong ones are drawn from, K tokens of a video, L places of a text, C
and D channels of both.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from models.bert import Bert
from models.encoder import Encoder
from models.tokenizers import Words
from pretrain.learning.contrast import global_masked_mean, hard_negatives, similarity

Across = Callable[[Tensor], Tensor]  # rows of this rank, `[B, ...]`, to those of all that are exchanged, `[G, ...]`


def check_text(encoder: Encoder, text: Bert, words: Words) -> None:
    """A ValueError where the text tower cannot look at the encoder's tokens or read the tokenizer's words."""
    tokenizer = words.tokenizer
    if text.source != encoder.width:
        raise ValueError(f"the text tower looks at {text.source} channels (`source`), the encoder has {encoder.width}")
    if tokenizer.context > text.context:
        raise ValueError(f"the tokenizer gives {tokenizer.context} places, the text tower {text.context}: `context`")
    if not text.pos_embed.is_meta and tokenizer.vocabulary > text.vocabulary:  # a recipe may be looked at without it
        raise ValueError(
            f"the tokenizer knows {tokenizer.vocabulary} words, the text tower {text.vocabulary}: `vocabulary`"
        )


@torch.no_grad()
def wrong_pairs(
    video: Tensor, text: Tensor, keys: Tensor, temperature: Tensor, noise: Tensor, across: Across
) -> tuple[Tensor, Tensor, Tensor]:
    """For each text a video of another pair, and for each video such a text, rather those that are alike.

    Args:
        video, text: what is compared, `[B, D]` (or `[B, T, D]`, see `similarity`).
        keys: equal for what is one pair, `[B]`.
        noise: uniform `[B, 2 G + 1]`.
        across: see `Across`.

    Returns:
        Where they stand among the rows that `across` gives, two of `[B]`; and 1.0 where there is any other, `[B]`.
    """
    videos, texts, others = across(video), across(text), across(keys)
    pairs = len(others)
    order = across(noise[:, -1]).argsort().argsort()  # the same numbers for the same pairs, however ranks divide them
    for_text, for_video = (noise[:, i * pairs : (i + 1) * pairs][:, order] for i in range(2))
    same = keys[:, None] == others
    wrong_video, has_negative = hard_negatives(similarity(videos, text, temperature).t(), same, for_text)
    wrong_text, _ = hard_negatives(similarity(video, texts, temperature), same, for_video)
    return wrong_video, wrong_text, has_negative


def matching_pairs(
    tokens: Tensor, states: Tensor, seen: Tensor, wrong_video: Tensor, wrong_text: Tensor, across: Across
) -> tuple[Tensor, Tensor, Tensor]:
    """Each pair, its text with a wrong video, its video with a wrong text: tokens `[3 B, K, C]`, states `[3 B, L, D]`,
    and True where there is a word, `[3 B, L]`."""
    return (
        torch.cat((tokens, across(tokens)[wrong_video], tokens)),
        torch.cat((states, states, across(states)[wrong_text])),
        torch.cat((seen, seen, across(seen.int())[wrong_text].bool())),
    )


def matching_loss(logits: Tensor, has_negative: Tensor, alone: bool = False) -> Tensor:
    """Cross entropy of no and yes, `[3 B, 2]`, for what `matching_pairs` gives.

    Args:
        has_negative: 1.0 where there is a wrong pair, `[B]`; elsewhere the pair alone counts.
        alone: see `global_masked_mean`.

    Source: unmasked_teacher `multi_modality/models/criterions.py: VTC_VTM_Loss.vtm_loss`.
    """
    pairs = torch.ones_like(has_negative)
    error = F.cross_entropy(
        logits.float(), torch.cat((pairs, 0 * has_negative, 0 * has_negative)).long(), reduction="none"
    )
    return global_masked_mean(error, torch.cat((pairs, has_negative, has_negative)), alone)
