"""Images beside videos: those of a video are the same for any number of ranks and micro-batches."""

import pytest
import torch

from datamodules.clips.crops import MultiScaleCrop
from datamodules.clips.rectangles import Patch
from datamodules.clips.sampling import Dense
from datamodules.decoding.reader import PyAV
from datamodules.loading.batches import TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.image_batches import WithImages
from datamodules.sources.synthetic import Synthetic


def batches(rank: int, world: int, micro: int, accumulate: int, images: Synthetic | None = None) -> WithImages:
    source, part = Synthetic(12, size=24, length=20), GlobalBatch(rank, world, micro, accumulate)
    clip = Clip(4, 1, 16, 1, 0.0, Dense(), MultiScaleCrop(), PyAV())
    videos = TrainBatches(source, source.order(0, 1), clip, 0, part)
    return WithImages(videos, images or Synthetic(7, size=24, seed=5), 3, Patch(), PyAV(), 0, 1, part)


def by_video(made: list[dict]) -> dict[str, tuple[bytes, tuple[str, ...]]]:
    return {
        name: (batch["images"][i].numpy().tobytes(), tuple(batch["image_text"][i]))
        for batch in made
        for i, name in enumerate(batch["name"])
    }


def test_a_videos_images_do_not_depend_on_ranks_and_micro_batches() -> None:
    whole = batches(0, 1, 4, 1)[1]
    assert whole["images"].shape == (4, 3, 3, 16, 16) and whole["images"].dtype == torch.uint8
    assert [len(texts) for texts in whole["image_text"]] == [3] * 4
    ranks = by_video([batches(rank, 2, 2, 1)[1] for rank in range(2)])
    parts = by_video([batches(0, 1, 2, 2)[k] for k in (2, 3)])
    assert by_video([whole]) == ranks == parts
    assert len(set(by_video([whole]).values())) == 4


def test_images_without_texts_are_refused() -> None:
    images = Synthetic(7, size=24)
    images.texts = 6
    with pytest.raises(ValueError, match="1 of 7 images have no text"):
        batches(0, 1, 4, 1, images)
