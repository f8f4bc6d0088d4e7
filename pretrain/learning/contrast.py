"""Contrastive learning of video and text: features of all ranks, similarities, the loss, and hard negatives.

Letters in shapes: B pairs of a rank, G pairs of all ranks, D channels, T frames (or texts) of one sample.
"""

import hashlib
from collections.abc import Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from pretrain.learning.precision import full_precision
from pretrain.learning.transfer import to_device

try:
    from torch.distributed._functional_collectives import all_gather_single_autograd, wait_tensor
except ImportError:  # its name in older versions of torch
    from torch.distributed._functional_collectives import all_gather_tensor_autograd as all_gather_single_autograd
    from torch.distributed._functional_collectives import wait_tensor


def all_gather(x: Tensor, exact: bool = True) -> Tensor:
    """`x` of all ranks, `[B, ...]` to `[G, ...]`, in order of rank; `x` itself in a run of one process.

    Args:
        exact: the gradient of a rank's rows is summed over the losses of all ranks. Averaged over ranks, gradients then
            equal those of one process with the whole batch. False: only the rank's own loss contributes, as in the
            released ViCLIP and UMT; averaged over ranks, that is 1 / world size of the gradient.
    """
    group = dist.group.WORLD  # None: not initialised
    if group is None or group.size() == 1:
        return x
    if exact and x.requires_grad:
        return wait_tensor(all_gather_single_autograd(x.contiguous(), 0, group))
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(group.size())]
    dist.all_gather(parts, x.detach().contiguous())
    parts[dist.get_rank()] = x  # the only part with a gradient
    return torch.cat(parts)


def similarity(video: Tensor, text: Tensor, temperature: Tensor | float, pool: str = "mean") -> Tensor:
    """Cosine similarity divided by the temperature, float32 `[videos, texts]`, whatever the run's precision.

    Args:
        video: `[videos, D]`, or `[videos, T, D]` with a feature per frame.
        text: `[texts, D]`, or `[texts, T, D]` with several wordings.
        pool: mean or max, over the similarities of a sample's frames or wordings.

    Source: InternVideo1 `Pretrain/ViCLIP/models/criterions.py: get_sim`.
    """
    with full_precision(video):
        video, text = F.normalize(video.float(), dim=-1), F.normalize(text.float(), dim=-1)
        if video.ndim == 3:
            cosines = torch.einsum("vtd,xd->vtx", video, text)
            cosines = cosines.mean(1) if pool == "mean" else cosines.amax(1)
        elif text.ndim == 3:
            cosines = torch.einsum("vd,xtd->vtx", video, text)
            cosines = cosines.mean(1) if pool == "mean" else cosines.amax(1)
        else:
            cosines = video @ text.t()
        return cosines / temperature


def contrastive_loss(video_to_text: Tensor, same: Tensor | None = None, text_to_video: Tensor | None = None) -> Tensor:
    """Cross entropy of similarities `[G, G]` in both directions, averaged.

    Args:
        same: True where row and column are a pair, `[G, G]`; the positives of a row share its target. None: the
            diagonal.
        text_to_video: similarities of the other direction, if they are not the transpose.

    Source: InternVideo1 `Pretrain/ViCLIP/models/criterions.py: VTC_VTM_Loss.vtc_loss`.
    """
    if text_to_video is None:
        text_to_video = video_to_text.t()
    if same is None:
        target = torch.arange(len(video_to_text), device=video_to_text.device)
    else:
        target = same.to(video_to_text.dtype)
        target = target / target.sum(dim=1, keepdim=True)
    return (F.cross_entropy(video_to_text, target) + F.cross_entropy(text_to_video, target)) / 2


def pair_loss(
    video: Tensor, text: Tensor, keys: Tensor, temperature: Tensor, local: bool = False, exact: bool = True
) -> Tensor:
    """The contrastive loss of the pairs of all ranks; samples with equal keys are positives of each other.

    Args:
        video, text: features, `[B, D]` (or `[B, T, D]`, see `similarity`).
        keys: `[B]`, from `hash_names`.
        local: this rank's pairs only, as in evaluation, where ranks may have different numbers of pairs.
        exact: see `all_gather`.
    """
    if not local:
        video, text, keys = all_gather(video, exact), all_gather(text, exact), all_gather(keys)
    return contrastive_loss(similarity(video, text, temperature), same_pairs(keys))


def hard_negatives(similar: Tensor, same: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one column per row with the softmax of its similarities as probabilities, but never a positive.

    Args:
        similar: similarities over the temperature, `[B, G]`.
        same: True where row and column are a pair, `[B, G]`.
        noise: uniform `[B, G]`: the column with the largest weight / exponential is drawn, as in `masking.Attention`.

    Returns:
        The columns, `[B]`, and 1.0 where a row has a negative (else its column is meaningless), `[B]`.

    Source: unmasked_teacher `multi_modality/models/criterions.py: VTC_VTM_Loss.vtm_loss`. There the softmax includes
    the positives, which are set to 0 afterwards: the same distribution. There NaN becomes a small weight; here it stays
    visible.
    """
    exponential = -torch.log1p(-noise.float()).clamp(max=-torch.finfo(torch.float32).tiny)
    scores = (similar.float() - exponential.log()).masked_fill(same, -torch.inf)
    return scores.argmax(dim=1), (~same.all(dim=1)).float()


def global_masked_mean(values: Tensor, counts: Tensor, local: bool = False) -> Tensor:
    """The mean of `values` where `counts` is 1; 0 if that is nowhere.

    It is divided by the mean number of counted values per rank: the average of all ranks' results is the mean over all
    ranks, whatever number each rank counts.

    Args:
        local: the mean of this rank's values only.
    """
    total = counts.sum()
    if not local:
        total = all_gather(total[None]).mean()
    return (values * counts).sum() / total.clamp(min=1e-6)


def same_pairs(keys: Tensor) -> Tensor:
    """True where two samples have equal keys: `[G]` to `[G, G]`."""
    return keys[:, None] == keys


def hash_names(names: Sequence[str], device: torch.device | None = None) -> Tensor:
    """A hash of each name, int64 `[B]`, equal on every rank and in every run."""
    digests = [hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names]
    keys = torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests])
    return keys if device is None else to_device(keys, device)
