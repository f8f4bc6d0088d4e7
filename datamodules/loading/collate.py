"""Batches of their rows: pixels in view-major order, and the names, texts and labels of the samples."""

from dataclasses import replace
from typing import Any

import torch

from datamodules.sources.source import Sample, Source


def without_content(sample: Sample) -> Sample:
    """What a batch needs of a sample besides its pixels, to be sent between processes."""
    return replace(sample, content="", chat=None, regions=None)


def all_skipped(made: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Names and reasons of the samples that could not be read for any row, in the order of the rows."""
    return [entry for row in made for entry in row["skipped"]]


def collate(video: torch.Tensor, source: Source, samples: list[Sample]) -> dict:
    """Batch with rows in view-major order. `video` [B, C, T, H, W] is a view of the buffer, channels-last in memory."""
    return {"video": video.flatten(0, 1).permute(0, 4, 1, 2, 3), **annotations(source, samples, len(video))}


def annotations(source: Source, samples: list[Sample], views: int = 1) -> dict:
    """`name`, `origin` if it is another one, and `text` and `label` if the source has them."""
    total = len(source)
    batch: dict[str, object] = {"name": [s.name for s in samples] * views}
    if any(s.origin for s in samples):
        batch["origin"] = [s.origin or s.name for s in samples] * views
    if source.texts == total:
        batch["text"] = [s.text for s in samples] * views
    if source.labels == total:
        batch["label"] = torch.tensor([s.label for s in samples] * views)
    return batch
