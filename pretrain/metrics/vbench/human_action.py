"""Human action: whether a Kinetics-400 classifier sees the action of the prompt.

1 if the label is among the five classes of the largest sigmoid, with 0.85 or more (rounded to four decimals), of UMT
ViT-L/16 on 16 frames (`middle_frames`), else 0. A model's score is the share of videos. The label stands in the prompt
after "person is ". Source: VBench `human_action.py`.
"""

from collections.abc import Sequence
from pathlib import PurePath

import torch
from torch import Tensor, nn

from pretrain.metrics.vbench.device import run_on
from pretrain.metrics.vbench.frame_mean import FrameMean
from pretrain.metrics.vbench.frames import Block
from pretrain.metrics.vbench.object_class import MIDDLE_16
from pretrain.metrics.vbench.transforms import for_umt
from pretrain.metrics.vbench.video_score import NotScored, VideoFacts


def label_of(path: str) -> str:
    """The action in a file's name, as VBench cuts it: lower case, to the first "-" and "_", after "person is "."""
    return PurePath(path).name.lower().split("-")[0].split("person is ")[-1].split("_")[0]


def recognised(logits: Tensor, classes: Sequence[str]) -> list[str]:
    """The names of the classes that count as seen, of logits `[classes]`."""
    best, index = logits.float().sigmoid().topk(5)
    pairs = zip(best.tolist(), index.tolist(), strict=True)
    return [classes[i].lower() for score, i in pairs if round(score, 4) >= 0.85]


class HumanAction:
    """Args: model: clips `[1, 3, 16, 224, 224]`, normalised, to logits. classes: the names of the logits, in order."""

    dimension, version, selection = "human_action", 1, MIDDLE_16

    def __init__(self, model: nn.Module, classes: Sequence[str]) -> None:
        self.model, self.classes = model, list(classes)

    def start(self, video: VideoFacts) -> FrameMean:
        label = label_of(video.prompt or PurePath(video.name).stem)
        if label not in {name.lower() for name in self.classes}:
            raise NotScored(
                f"{video.name}: the action {label!r} is no class of Kinetics-400: give a prompt 'A person is ...'"
            )

        def right(block: Block) -> Tensor:
            logits = run_on(self.model, for_umt(block.frames).transpose(0, 1)[None])[0]
            return torch.tensor([float(label in recognised(logits, self.classes))])

        details = lambda total, count: {"video_results": total > 0, "cor_num_per_video": int(total)}  # noqa: E731
        return FrameMean(video, right, details)
