"""Evaluation batches of one rank over all of a source, of videos or of latents."""

import math

from datamodules.loading.batches import EvalBatches
from datamodules.loading.clip import Clip
from datamodules.loading.latent_batches import EvalLatents
from datamodules.loading.text_rows import Encode
from datamodules.sources.source import Source


def evaluation_batches(
    source: Source,
    clip: Clip,
    clips: int,
    crops: int,
    rank: int,
    world: int,
    micro: int,
    encode: Encode | None = None,
) -> EvalBatches | EvalLatents:
    """The batches, with `clips` x `crops` views of each video.

    Args:
        micro: videos of a training batch, which has `clip.views` of each. With more views here, a batch has fewer
            videos, so that it has as many clips; a small set needs no padding to a large batch.
        encode: makes a row of each sample's texts; None: the batch has the texts themselves.
    """
    micro = max(1, micro * clip.views // max(clips * crops, clip.views))
    micro = max(1, min(micro, math.ceil(len(source) / world)))
    if source.latents:
        return EvalLatents(source, rank, world, micro)
    return EvalBatches(source, clip, clips, crops, rank, world, micro, encode)
