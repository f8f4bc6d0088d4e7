"""Masked text: functions from uniform noise to token ids and labels, as `masking.py` has them for video.

B texts, L places, V tokens of the vocabulary. Labels are the ids of the masked tokens, and `IGNORE_INDEX` elsewhere.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.learning.contrast import global_masked_mean

IGNORE_INDEX = -100


def choose_tokens(noise: Tensor, allowed: Tensor, ratio: float, at_least_one: bool = False) -> Tensor:
    """True where a token is masked, `[B, L]`: each allowed place independently, if its `noise` is below `ratio`.

    Args:
        at_least_one: always mask the allowed token with the lowest noise, if the text has one.

    Source: CoTrain `modules/clip_module.py: mask_text_ids`, UMT `multi_modality/models/criterions.py: MLMLoss.mask`.
    """
    if at_least_one:
        lowest = noise.masked_fill(~allowed, 2.0).amin(dim=1, keepdim=True)
        return ((noise < ratio) | (noise == lowest)) & allowed
    return (noise < ratio) & allowed


def masked_labels(ids: Tensor, masked: Tensor) -> Tensor:
    """The ids of masked tokens, `IGNORE_INDEX` elsewhere: int64 `[B, L]`."""
    return torch.where(masked, ids.long(), torch.full_like(ids, IGNORE_INDEX, dtype=torch.long))


def bert_mask(ids: Tensor, masked: Tensor, noise: Tensor, mask: int, vocabulary: int) -> Tensor:
    """BERT's input for `ids` `[B, L]`: 80 % of the masked tokens become the mask token, 10 % a random token, and 10 %
    stay.

    Args:
        noise: uniform `[B, L]`: below 0.8 the mask token, from 0.8 to 0.9 the token at that share of the vocabulary.
        mask: id of the mask token.
        vocabulary: V.
    """
    other = ((noise - 0.8) / 0.1 * vocabulary).long().clamp(0, vocabulary - 1).to(ids.dtype)
    replaced = torch.where(noise < 0.8, torch.full_like(ids, mask), torch.where(noise < 0.9, other, ids))
    return torch.where(masked, replaced, ids)


def next_token_loss(scores: Tensor, ids: Tensor) -> Tensor:
    """Cross entropy of each token given those before it, `[B, L - 1]`; the first token of `ids` `[B, L]` is given.

    Args:
        scores: logits of the next token at each place but the last, `[B, L - 1, V]`.
    """
    error = F.cross_entropy(scores.float().flatten(0, 1), ids[:, 1:].long().flatten(), reduction="none")
    return error.view(scores.shape[:2])


def caption_loss(errors: Tensor, attention_mask: Tensor, local: bool = False) -> Tensor:
    """The mean of `next_token_loss` over the tokens of all ranks, the end token included, padding excluded.

    Args:
        attention_mask: False at padding, `[B, L]`.
        local: see `global_masked_mean`.

    Source: InternVideo1 CoTrain `modules/objectives.py: compute_cap`.
    """
    return global_masked_mean(errors, attention_mask[:, 1:].float(), local)
