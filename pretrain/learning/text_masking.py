"""Which words of a text are hidden: functions from uniform noise to ids and labels, as masks are for video.

B texts, L places, V words of the vocabulary. Labels are the hidden words' ids, and `IGNORED` elsewhere.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.learning.contrast import global_masked_mean

IGNORED = -100


def hidden_words(noise: Tensor, allowed: Tensor, ratio: float, least_one: bool = False) -> Tensor:
    """True where a word is hidden, `[B, L]`: each allowed place by itself, where `noise` is below `ratio`.

    Args:
        least_one: hide the word of least noise in any case, where there is a word at all.

    Source: CoTrain `modules/clip_module.py: mask_text_ids`, UMT `multi_modality/models/criterions.py: MLMLoss.mask`.
    """
    if least_one:
        least = noise.masked_fill(~allowed, 2.0).amin(dim=1, keepdim=True)
        return ((noise < ratio) | (noise == least)) & allowed
    return (noise < ratio) & allowed


def labels_of(ids: Tensor, hidden: Tensor) -> Tensor:
    """The ids that are hidden, `IGNORED` elsewhere: int64 `[B, L]`."""
    return torch.where(hidden, ids.long(), torch.full_like(ids, IGNORED, dtype=torch.long))


def bert_words(ids: Tensor, hidden: Tensor, noise: Tensor, mask: int, vocabulary: int) -> Tensor:
    """What BERT sees of `ids` `[B, L]`: of the hidden words 80 % are the mask, 10 % any word, 10 % themselves.

    Args:
        noise: uniform `[B, L]`: below 0.8 the mask; then, to 0.9, the word at that tenth's share of the vocabulary.
        mask: its id.
        vocabulary: V.
    """
    other = ((noise - 0.8) / 0.1 * vocabulary).long().clamp(0, vocabulary - 1).to(ids.dtype)
    seen = torch.where(noise < 0.8, torch.full_like(ids, mask), torch.where(noise < 0.9, other, ids))
    return torch.where(hidden, seen, ids)


def next_word_errors(scores: Tensor, ids: Tensor) -> Tensor:
    """Cross entropy of each word given those before it, `[B, L - 1]`; the first word of `ids` `[B, L]` is given.

    Args:
        scores: of the word after each place but the last, `[B, L - 1, V]`.
    """
    error = F.cross_entropy(scores.float().flatten(0, 1), ids[:, 1:].long().flatten(), reduction="none")
    return error.view(scores.shape[:2])


def caption_loss(errors: Tensor, seen: Tensor, alone: bool = False) -> Tensor:
    """The mean of `next_word_errors` over the words of all ranks; the end is to be said, padding does not count.

    Args:
        seen: False at padding, `[B, L]`.
        alone: see `global_masked_mean`.

    Source: InternVideo1 CoTrain `modules/objectives.py: compute_cap`.
    """
    return global_masked_mean(errors, seen[:, 1:].float(), alone)
