"""Video-text matching: distinguish true pairs from hard negatives by a text tower with cross-attention to the video.

Letters in shapes: B pairs of a rank, G pairs that negatives are drawn from, K tokens of a video, L places of a text, C
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

Gather = Callable[[Tensor], Tensor]  # rows of this rank, `[B, ...]`, to those that negatives are drawn from, `[G, ...]`


def check_text_tower(encoder: Encoder, text: Bert, words: Words) -> None:
    """A ValueError if the text tower does not fit the width of the encoder's tokens or the tokenizer."""
    tokenizer = words.tokenizer
    if text.source != encoder.width:
        raise ValueError(
            f"the text tower attends to {text.source} channels (`source`), the encoder has {encoder.width}"
        )
    if tokenizer.context > text.context:
        raise ValueError(f"the tokenizer gives {tokenizer.context} places, the text tower {text.context}: `context`")
    # On the meta device a recipe is inspected, perhaps without the file of the vocabulary.
    if not text.pos_embed.is_meta and tokenizer.vocabulary > text.vocabulary:
        raise ValueError(
            f"the tokenizer has {tokenizer.vocabulary} tokens, the text tower {text.vocabulary}: `vocabulary`"
        )


@torch.no_grad()
def sample_negatives(
    video: Tensor, text: Tensor, keys: Tensor, temperature: Tensor, noise: Tensor, gather: Gather
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw for each text a video of another pair, and for each video a text, with more weight on similar ones.

    Args:
        video, text: features, `[B, D]` (or `[B, T, D]`, see `similarity`).
        keys: equal for positives, `[B]`.
        noise: uniform `[B, 2 G + 1]`.
        gather: see `Gather`.

    Returns:
        Indices of the videos and of the texts among the rows that `gather` returns, `[B]` each; and 1.0 where there is
        a negative, `[B]`.
    """
    videos, texts, others = gather(video), gather(text), gather(keys)
    pairs = len(others)
    order = gather(noise[:, -1]).argsort().argsort()  # a pair has the same noise on any world size
    for_text, for_video = (noise[:, i * pairs : (i + 1) * pairs][:, order] for i in range(2))
    same = keys[:, None] == others
    negative_video, has_negative = hard_negatives(similarity(videos, text, temperature).t(), same, for_text)
    negative_text, _ = hard_negatives(similarity(video, texts, temperature), same, for_video)
    return negative_video, negative_text, has_negative


def matching_pairs(
    tokens: Tensor,
    states: Tensor,
    attention_mask: Tensor,
    negative_video: Tensor,
    negative_text: Tensor,
    gather: Gather,
) -> tuple[Tensor, Tensor, Tensor]:
    """Each pair, its text with a negative video, its video with a negative text: tokens `[3 B, K, C]`, states
    `[3 B, L, D]`, and attention masks `[3 B, L]`."""
    return (
        torch.cat((tokens, gather(tokens)[negative_video], tokens)),
        torch.cat((states, states, gather(states)[negative_text])),
        torch.cat((attention_mask, attention_mask, gather(attention_mask.int())[negative_text].bool())),
    )


def matching_loss(logits: Tensor, has_negative: Tensor, local: bool = False) -> Tensor:
    """Cross entropy of the logits no and yes, `[3 B, 2]`, for the rows of `matching_pairs`.

    Args:
        has_negative: 1.0 where a negative exists, `[B]`; elsewhere only the true pair counts.
        local: see `global_masked_mean`.

    Source: unmasked_teacher `multi_modality/models/criterions.py: VTC_VTM_Loss.vtm_loss`.
    """
    pairs = torch.ones_like(has_negative)
    error = F.cross_entropy(
        logits.float(), torch.cat((pairs, 0 * has_negative, 0 * has_negative)).long(), reduction="none"
    )
    return global_masked_mean(error, torch.cat((pairs, has_negative, has_negative)), local)
