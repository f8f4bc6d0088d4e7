"""Video against text: features of all ranks, similarities, and the losses that pull pairs together.

Letters in shapes: B pairs of a rank, G pairs of all ranks, D channels, T frames (or texts) of one sample.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from models.tokenizers import Words
from models.uniformerv2 import UniFormerV2
from models.viclip import ViCLIPVision


def gather(x: Tensor, exact: bool = True) -> Tensor:
    """`x` of all ranks, `[B, ...]` to `[G, ...]`, in order of rank; `x` itself where there is one process.

    Args:
        exact: the gradient of a rank's own rows is the sum of what all ranks ask of them, so that gradients averaged
            over ranks are those of one process with the whole batch. False keeps what the rank itself asks of them, as
            the released ViCLIP and UMT do: averaged, that is 1 / world of the gradient.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return x
    return _Gather.apply(x, exact)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, exact: bool) -> Tensor:
        ctx.rows, ctx.exact = len(x), exact
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        if ctx.exact:
            gradient = gradient.contiguous().clone()
            dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows], None


def similarity(video: Tensor, text: Tensor, temperature: Tensor | float, pool: str = "mean") -> Tensor:
    """Cosines over the temperature, `[videos, texts]`.

    Args:
        video: `[videos, D]`, or `[videos, T, D]` with a feature a frame.
        text: `[texts, D]`, or `[texts, T, D]` with several wordings.
        pool: mean or max, over the similarities of a sample's frames or wordings.

    Source: InternVideo1 `Pretrain/ViCLIP/models/criterions.py: get_sim`.
    """
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
    """Cross entropy of similarities `[G, G]` both ways, the mean of the two.

    Args:
        same: True where row and column are a pair, `[G, G]`; those of a row share its target. None: the diagonal.
        text_to_video: where it is not the transpose.

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
    video: Tensor, text: Tensor, keys: Tensor, temperature: Tensor, alone: bool = False, exact: bool = True
) -> Tensor:
    """The contrastive loss of pairs over all ranks; samples of one key are positives of each other.

    Args:
        video, text: features, `[B, D]` (or `[B, T, D]`, see `similarity`).
        keys: `[B]`, from `keys`.
        alone: this rank's pairs only, as in evaluation, where ranks may have different numbers of them.
        exact: see `gather`.
    """
    if not alone:
        video, text, keys = gather(video, exact), gather(text, exact), gather(keys)
    return contrastive_loss(similarity(video, text, temperature), same_pairs(keys))


def hard_negatives(similar: Tensor, same: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """One column for each row, drawn by the softmax of its similarities but never one of the same pair.

    Args:
        similar: over the temperature, `[B, G]`.
        same: True where row and column are a pair, `[B, G]`.
        noise: uniform `[B, G]`: the largest of weight / exponential is the draw, as in `masking.Attention`.

    Returns:
        The columns, `[B]`, and 1.0 where a row has any other pair (else its column says nothing), `[B]`.

    Source: unmasked_teacher `multi_modality/models/criterions.py: VTC_VTM_Loss.vtm_loss`, whose softmax runs over the
    pairs too before they are set to 0: the same draw. It replaces what is no number by a small weight; here it shows.
    """
    exponential = -torch.log1p(-noise.float()).clamp(max=-torch.finfo(torch.float32).tiny)
    drawn = (similar.float() - exponential.log()).masked_fill(same, -torch.inf)
    return drawn.argmax(dim=1), (~same.all(dim=1)).float()


def global_masked_mean(values: Tensor, counts: Tensor, alone: bool = False) -> Tensor:
    """The mean of `values` where `counts` is 1: over all ranks, so that what ranks give averages to the mean of all,
    however many each of them counts; 0 where nothing counts. `alone`: over this rank's."""
    total = counts.sum()
    if not alone:
        total = gather(total[None]).mean()
    return (values * counts).sum() / total.clamp(min=1e-6)


def same_pairs(keys: Tensor) -> Tensor:
    """True where two samples have one key, `[G, G]` of keys `[G]`."""
    return keys[:, None] == keys


def keys(names: Sequence[str], device: torch.device | None = None) -> Tensor:
    """A number for each name, int64 `[B]`: equal on every rank and in every run, and different for different names."""
    digests = [hashlib.blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest() for name in names]
    return torch.tensor([int.from_bytes(digest, "little", signed=True) for digest in digests], device=device)


def read(words: Words, texts: Sequence[str], device: torch.device) -> Tensor:
    """Ids `[B, L]` of CLIP's texts, no longer than the longest of them: what comes after the end cannot be seen."""
    ids = words(texts)
    return ids[:, : int(ids.argmax(dim=1).max()) + 1].to(device)


def first_if_still(video: Tensor, alone: bool = False) -> Tensor:
    """`video` `[B, C, T, H, W]`, or its first frame where no frame differs from it: a batch of pictures, on all ranks.

    Args:
        alone: ask this rank's batch alone, as in evaluation.
    """
    if video.shape[2] == 1:
        return video
    still = (video == video[:, :, :1]).all().int()[None]
    return video[:, :, :1] if (still if alone else gather(still)).all() else video


@torch.no_grad()
def unit_videos(encoder: ViCLIPVision | UniFormerV2, video: Tensor) -> Tensor:
    """Features `[B, out]` of `video` `[B, 3, T, H, W]`, normalised, all of whose patches are seen."""
    return F.normalize(encoder.feature(video).float(), dim=-1)


@torch.no_grad()
def unit_texts(embed: Callable[[Sequence[str]], Tensor], texts: Sequence[str], chunk_size: int = 256) -> Tensor:
    """Features `[n, out]` of any number of texts, `chunk_size` at a time."""
    parts = [embed(texts[i : i + chunk_size]) for i in range(0, len(texts), chunk_size)]
    return F.normalize(torch.cat(parts).float(), dim=-1)
