"""Contrastive learning of video and text: features of all ranks, similarities, the loss, and hard negatives.

Letters in shapes: B pairs of a rank, G pairs of all ranks, D channels, T frames (or texts) of one sample.
"""

import hashlib
from collections.abc import Sequence
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from pretrain.learning.precision import full_precision
from pretrain.learning.transfer import to_device

try:
    from torch.distributed._functional_collectives import all_gather_single_autograd, wait_tensor
except ImportError:  # its name in older versions of torch
    from torch.distributed._functional_collectives import all_gather_tensor_autograd as all_gather_single_autograd
    from torch.distributed._functional_collectives import wait_tensor

ContrastLoss = Literal["softmax", "sigmoid"]  # of pairs: `contrastive_loss` or `sigmoid_loss`


def all_gather(x: Tensor, exact: bool = True) -> Tensor:
    """`x` of all ranks, `[B, ...]` to `[G, ...]`, in order of rank; `x` itself in a run of one process.

    Args:
        exact: the gradient of a rank's rows is summed over the losses of all ranks, by a reduce-scatter. Averaged over
            ranks, gradients then equal those of one process with the whole batch. False: only the rank's own loss
            contributes.
    """
    group = dist.group.WORLD  # None: not initialised
    if group is None or group.size() == 1:
        return x
    if exact and x.requires_grad:
        return wait_tensor(all_gather_single_autograd(x.contiguous(), 0, group))
    every = x.new_empty(group.size() * len(x), *x.shape[1:])
    dist.all_gather_into_tensor(every, x.detach().contiguous())
    if not x.requires_grad:
        return every
    first = dist.get_rank() * len(x)
    return torch.cat((every[:first], x, every[first + len(x) :]))  # only `x` has a gradient


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
    """Cross entropy of similarities in both directions, averaged.

    Args:
        video_to_text: of videos to texts, a row per video, `[B, G]`.
        same: True where row and column are a pair, `[B, G]`; the positives of a row share its target. None: the
            diagonal of `[G, G]`.
        text_to_video: similarities of the other direction, a row per text, `[B, G]`; None: the transpose of `[G, G]`.

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


def sigmoid_loss(logits: Tensor, same: Tensor) -> Tensor:
    """Whether row and column are a pair, by a logistic loss of each `[B, G]`, summed over columns and averaged over
    rows (SigLIP, arXiv 2303.15343, section 3.2).

    Args:
        logits: cosines over the temperature, plus a bias.
        same: True where row and column are a pair.
    """
    return F.softplus(torch.where(same, -logits, logits)).sum(dim=1).mean()


def logit_bias(loss: ContrastLoss) -> nn.Parameter | None:
    """The learnt bias of `sigmoid_loss`, initially SigLIP's: most pairs of a batch are none. None: softmax has none."""
    if loss not in ("softmax", "sigmoid"):
        raise ValueError(f"contrast is softmax or sigmoid, not {loss}")
    return nn.Parameter(torch.tensor(-10.0)) if loss == "sigmoid" else None


def pair_loss(
    video: Tensor,
    text: Tensor,
    keys: Tensor,
    temperature: Tensor,
    local: bool = False,
    exact: bool = True,
    bias: Tensor | None = None,
) -> Tensor:
    """The contrastive loss of this rank's pairs against those of all ranks; samples with equal keys are positives.

    A rank compares its B videos with all G texts, and its B texts with all G videos: no rank holds `[G, G]`. The mean
    over ranks is the loss of all pairs, and the mean of their gradients its gradient.

    Args:
        video, text: features, `[B, D]` (or `[B, T, D]`, see `similarity`); every rank has as many.
        keys: `[B]`, from `hash_names`.
        local: this rank's pairs only, as in evaluation, where ranks may have different numbers of pairs.
        exact: the true gradient. False: that of the features divided by the number of ranks, as in the released ViCLIP
            and UMT, whose gather drops the gradients of other ranks.
        bias: None: `contrastive_loss`; else `sigmoid_loss`, with this added to the logits.
    """
    videos, texts, others = video, text, keys
    if not local and (world := _world_size()) > 1:
        if not exact:
            video, text = (scale_gradient(x, 1 / world) for x in (video, text))
        videos, texts, others = all_gather(video), all_gather(text), all_gather(keys)
    same = keys[:, None] == others
    video_to_text = similarity(video, texts, temperature)
    if bias is not None:
        return sigmoid_loss(video_to_text + bias, same)
    text_to_video = None if videos is video else similarity(videos, text, temperature).t()
    return contrastive_loss(video_to_text, same, text_to_video)


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """`x` itself, whose gradient is multiplied by `factor`."""
    if not x.requires_grad:
        return x
    x = x.view_as(x)  # the hook is for this use of `x` only
    x.register_hook(lambda gradient: gradient * factor)
    return x


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


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
