"""A baseline for loading speed: the common way to load a clip (decord, PIL, float normalization)."""

import io

import numpy as np
import torch

from datamodules.clips.crops import side
from datamodules.decoding.contract import Video
from datamodules.loading.batches import TrainBatches
from datamodules.sources.order import SampleRng
from datamodules.sources.source import Sample

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def baseline_views(sample: Sample, loader: TrainBatches, n: int) -> torch.Tensor:
    """Float [V, C, T, H, W] of a sample, with the same frames and crop boxes as the loader.

    decord's `get_batch` at full resolution, PIL crop and resize of each frame for each view, scaling to [0, 1] and
    normalization in float on the CPU (VideoMAE V2 29eab1e: `dataset/pretrain_datasets.py`, `dataset/transforms.py`).
    """
    import decord
    from PIL import Image

    clip = loader.clip
    if isinstance(sample.content, Video):
        raise TypeError(f"{sample.name} is not a file, which decord needs")
    source = sample.content if isinstance(sample.content, str) else io.BytesIO(sample.content)
    reader = decord.VideoReader(source, num_threads=1, ctx=decord.cpu(0))
    indices = clip.sampler.draw(len(reader), clip.frames, clip.stride, SampleRng(loader.seed, n, 0))
    frames = [Image.fromarray(frame) for frame in reader.get_batch(indices.tolist()).asnumpy()]
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    out, length = [], side(clip.size, clip.crop)
    for view in range(clip.views):
        rng = SampleRng(loader.seed, n, 1 + view)
        w, h, left, top = clip.crop.box(*frames[0].size, length, rng.python)
        box, size = (left, top, left + w, top + h), (length, length)
        cut = [np.asarray(f.crop(box).resize(size, Image.Resampling.BILINEAR)) for f in frames]
        video = torch.from_numpy(np.stack(cut)).permute(3, 0, 1, 2).contiguous().float().div(255)
        out.append((video - mean) / std)
    return torch.stack(out)
