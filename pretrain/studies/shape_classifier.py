"""A classifier of moving shapes, trained on real ones: the colour, the shape and the direction of a clip."""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datamodules.decoding.contract import Video
from datamodules.sources.synthetic import COLOURS, DIRECTIONS, SHAPES, Synthetic

QUESTIONS: dict[str, tuple[str, ...]] = {"colour": tuple(COLOURS), "shape": SHAPES, "direction": tuple(DIRECTIONS)}
# Of the tiny recipes: frames of a clip, frames of the video from one to the next, pixels; and what the videos show.
FRAMES, STRIDE, SIZE = 4, 8, 16
SHOWN: dict[str, Any] = {"length": 26, "noise": 0, "texture": 0, "radius": (0.28, 0.34), "spread": 0.125}
_NOISE = 0.05  # added to pixels in -1 to 1 while training, so that traces of a generator are no clue


class ShapeClassifier(nn.Module):
    """Logits `[B, 4]` for each of `QUESTIONS` of clips `[B, 3, T, H, W]` in -1 to 1, by convolutions on a torus.

    Colour and shape are asked of single frames, and the answers averaged; the direction is asked of the clip at half
    its resolution.
    """

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        w = width
        self.frame = nn.Sequential(
            _layer(nn.Conv2d, 3, w, 1),
            _layer(nn.Conv2d, w, 2 * w, 2),
            _layer(nn.Conv2d, 2 * w, 4 * w, 2),
            _layer(nn.Conv2d, 4 * w, 4 * w, 1),
        )
        self.clip = nn.Sequential(_layer(nn.Conv3d, 3, w, 1), _layer(nn.Conv3d, w, 2 * w, 2))
        self.frame_heads = nn.Linear(8 * w, 8)
        self.clip_head = nn.Linear(4 * w, 4)

    def forward(self, video: Tensor) -> dict[str, Tensor]:
        frames = video.shape[2]
        if self.training:  # one frame of each clip is enough to learn from
            chosen = torch.randint(frames, (len(video),))
            pictures = video[torch.arange(len(video)), :, chosen]
        else:
            pictures = video.transpose(1, 2).flatten(0, 1)
        logits = self.frame_heads(_pooled(self.frame(pictures))).unflatten(0, (len(video), -1)).mean(dim=1)
        colour, shape = logits.chunk(2, dim=1)
        direction = self.clip_head(_pooled(self.clip(F.avg_pool3d(video, (1, 2, 2)))))
        return {"colour": colour, "shape": shape, "direction": direction}


def _layer(kind: type[nn.Conv2d] | type[nn.Conv3d], inputs: int, outputs: int, stride: int) -> nn.Module:
    conv = kind(inputs, outputs, 3, stride, padding=1, padding_mode="circular")
    return nn.Sequential(conv, (nn.BatchNorm2d if kind is nn.Conv2d else nn.BatchNorm3d)(outputs), nn.ReLU())


def _pooled(x: Tensor) -> Tensor:
    """Mean and maximum of `[B, C, ...]` over places, `[B, 2C]`."""
    return torch.cat((x.flatten(2).mean(dim=2), x.flatten(2).amax(dim=2)), dim=1)


def real_clips(count: int, seed: int) -> tuple[Tensor, list[str]]:
    """uint8 clips `[count, 3, FRAMES, SIZE, SIZE]` of moving shapes, drawn at twice the size, and their captions."""
    source = Synthetic(count, size=2 * SIZE, seed=seed, **SHOWN)
    starts = np.random.RandomState(seed).randint(source.length - (FRAMES - 1) * STRIDE, size=count)
    clips, texts = [], []
    for i, start in enumerate(starts):
        sample = source[i]
        video = cast(Video, sample.content)
        clip = torch.from_numpy(video.frames(start + STRIDE * np.arange(FRAMES)))  # [T, 2H, 2W, 3]
        clips.append(F.avg_pool2d(clip.permute(3, 0, 1, 2).float(), 2).round().to(torch.uint8))
        texts.append(cast(str, sample.text))
    return torch.stack(clips), texts


def answers(texts: list[str]) -> dict[str, Tensor]:
    """The right answers, `[n]` each, of captions such as "a red circle moves left"."""
    words = [text.split() for text in texts]
    return {
        question: torch.tensor([next(options.index(word) for word in own if word in options) for own in words])
        for question, options in QUESTIONS.items()
    }


def train_classifier(clips: int = 3000, epochs: int = 8, seed: int = 11) -> ShapeClassifier:
    """A classifier trained on `clips` real clips, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ShapeClassifier()
        video, texts = real_clips(clips, seed)
        labels = answers(texts)
        optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
        batches = max(1, clips // 32)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=epochs * batches)
        for rows in _batches(clips, batches, epochs):
            x = _scaled(video[rows])
            logits = model(x + _NOISE * torch.randn_like(x))
            loss = torch.stack([F.cross_entropy(logits[name], labels[name][rows]) for name in QUESTIONS]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracies(model: ShapeClassifier, video: Tensor, texts: list[str]) -> dict[str, float]:
    """Percentages of uint8 clips `[n, 3, T, H, W]` whose colour, shape and direction are those of their texts."""
    labels = answers(texts)
    logits = [model(_scaled(part)) for part in video.split(64)]
    found = {name: torch.cat([part[name] for part in logits]).argmax(dim=1) for name in QUESTIONS}
    return {name: 100 * float((found[name] == labels[name]).float().mean()) for name in QUESTIONS}


def _scaled(video: Tensor) -> Tensor:
    return video.float() / 127.5 - 1


def _batches(count: int, batches: int, epochs: int) -> Iterator[Tensor]:
    for _ in range(epochs):
        yield from torch.randperm(count)[: batches * 32].split(32)
