"""Images beside the videos of training micro-batches, for methods that learn from both together."""

from typing import Any

import numpy as np
import torch

from datamodules.clips.crops import Crop
from datamodules.decoding.reader import Decoder
from datamodules.loading.batches import read_or_substitute
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.read_ahead import Read
from datamodules.loading.rows import Memory, RowBatches
from datamodules.sources.order import SampleRng, mix
from datamodules.sources.source import Sample, Source

_STREAM = 1 << 32  # keeps the order and the crops of images apart from those of videos


class WithImages(RowBatches):
    """Training micro-batches with `images` uint8 [B, C, I, H, W] and `image_text`, a list of I texts for each video.

    The images of a video depend on its number in the run, and not on the number of ranks or micro-batches. An image is
    a sample of one frame; of a video it is a frame at random.

    Args:
        batches: micro-batches of videos.
        images: their source; each has a text.
        per_video: I.
        crop, decoder: as for videos.
        seed, lanes: of the order.
        part: see `TrainBatches`.
    """

    def __init__(
        self,
        batches: RowBatches,
        images: Source,
        per_video: int,
        crop: Crop,
        decoder: Decoder,
        seed: int,
        lanes: int,
        part: GlobalBatch,
    ) -> None:
        if images.texts < len(images):
            raise ValueError(f"{len(images) - images.texts} of {len(images)} images have no text: leave them out")
        self.seed = mix(seed, _STREAM)
        self.batches, self.images, self.per_video = batches, images, per_video
        self.order = images.order(self.seed, lanes)
        self.crop, self.decoder = crop, decoder
        self.part = part

    def __len__(self) -> int:
        return len(self.batches)  # pyrefly: ignore[bad-argument-type] all of ours have a length

    def rows(self, index: int) -> int:
        return self.batches.rows(index)

    def shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        inner = self.batches.shapes(index)
        size = inner["video"][3:]  # H, W, C
        return {**inner, "images": (self.rows(index), self.per_video, *size)}

    def reads(self, index: int, row: int) -> list[Read]:
        first = self.part.numbers(index)[row] * self.per_video
        own = [Read(self.images, self.order(first + j)[1]) for j in range(self.per_video)]
        return [*self.batches.reads(index, row), *own]

    def make(self, index: int, row: int, memory: Memory) -> dict[str, Any]:
        made, video = self.batches.make(index, row, memory), self.part.numbers(index)[row]
        images, texts, skipped = memory["images"][row], [], []
        height, width = (int(side) for side in images.shape[1:3])
        for j in range(self.per_video):
            n = video * self.per_video + j
            sample, frame = read_or_substitute(self.images, self.order, self.seed, n, self._frame, skipped)
            rng = SampleRng(self.seed, n, 1)
            images[j] = torch.from_numpy(np.ascontiguousarray(self.crop(frame, (height, width), rng)))[0]
            text = sample.text or ""
            texts.append(text if isinstance(text, str) else text[mix(self.seed, n, -1) % len(text)])
        return {**made, "image_text": texts, "skipped_images": skipped}

    def batch(self, index: int, memory: Memory, made: list[dict[str, Any]]) -> dict:
        batch = self.batches.batch(index, memory, made)
        skipped = [*batch.get("skipped", []), *(entry for row in made for entry in row["skipped_images"])]
        texts = [row["image_text"] for row in made]
        return {**batch, "images": memory["images"].permute(0, 4, 1, 2, 3), "image_text": texts, "skipped": skipped}

    def _frame(self, sample: Sample, n: int) -> np.ndarray:
        """uint8 [1, H, W, 3]."""
        with sample.open(self.decoder) as video:
            return video.frames(np.array([SampleRng(self.seed, n, 0).python.randrange(*sample.part(video))]))
