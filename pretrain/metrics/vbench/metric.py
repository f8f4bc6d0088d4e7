"""VBench as a metric of this project: clips of a batch through scorers, means over all ranks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torchmetrics import Metric

from pretrain.learning.batch import Batch
from pretrain.metrics.vbench.frames import TensorVideo
from pretrain.metrics.vbench.prompts import Prompt
from pretrain.metrics.vbench.scorer import Scorer
from pretrain.metrics.vbench.scoring import Means, score_video
from pretrain.metrics.vbench.totals import DIMENSIONS, totals
from pretrain.metrics.vbench.video_score import VideoFacts, VideoScore

_VIDEOS, _MISSING = 3, 4  # columns of the state, after the sums of totals, counts and values


class VBench(Metric):
    """Scores by dimension as VBench means them on one GPU, and under `NAME/videos` and `NAME/units` both means.

    The state is five sums a dimension, so any number of ranks gives the same scores, with or without videos of their
    own. `quality`, `semantic` and `total` are reported under these names only if no dimension is missing, else as
    `partial/quality` and so on. A dimension that scored no video is NaN; `facts` counts the videos without a score.

    Args:
        scorers: one a dimension (see `dimensions.build_scorers`).
        prompts: VBench's prompts by their text (`prompts.by_text`), for what dimensions ask of a prompt.
        fps: of the clips, where the batch has no `fps`.
        video: name of the model's output or the batch's entry with the clips, uint8 `[B, 3, T, H, W]`.
    """

    full_state_update = False
    facts: dict[str, str | int] = {}  # noqa: RUF012 set by `compute` for the table of results
    sums: Tensor

    def __init__(
        self,
        scorers: Sequence[Scorer],
        prompts: Mapping[str, Prompt] | None = None,
        fps: float | None = None,
        video: str = "video",
    ) -> None:
        super().__init__()
        names = [scorer.dimension for scorer in scorers]
        if not names or len(set(names)) < len(names):
            raise ValueError(f"VBench needs one scorer a dimension, and was given {names}")
        # A list is no submodule: the models are frozen and no part of a checkpoint.
        self.scorers: list[Scorer] = list(scorers)
        self.prompts, self.fps, self.video = dict(prompts or {}), fps, video
        self.reasons: list[str] = []  # of this rank's videos without a score
        self.add_state("sums", torch.zeros(len(names), 5, dtype=torch.float64), dist_reduce_fx="sum")

    def reset(self) -> None:
        super().reset()
        self.reasons = []

    def update(self, outputs: dict[str, Tensor], batch: Batch) -> None:
        rows: Any = batch
        clips = outputs[self.video] if self.video in outputs else rows.get(self.video)
        if not isinstance(clips, Tensor) or clips.dtype != torch.uint8 or clips.ndim != 5:
            raise MisconfigurationException(
                f"VBench scores uint8 clips [B, 3, T, H, W] under `{self.video}`, and neither the model's outputs nor "
                "the batch has them"
            )
        rates, texts = rows.get("fps"), rows.get("text")
        for i, (name, clip) in enumerate(zip(rows["name"], clips, strict=True)):
            rate = float(rates[i]) if rates is not None else self.fps or 0.0
            text = None if texts is None else texts[i] if isinstance(texts[i], str) else texts[i][0]
            known = self.prompts.get(text or "", Prompt("", ()))
            facts = VideoFacts(name, clip.shape[1], rate, text, known.auxiliary)
            scores = score_video(TensorVideo(name, clip, rate), facts, self.scorers)
            self.sums += torch.stack([_row(score) for score in scores.values()]).to(self.sums.device)
            self.reasons += [score.reason for score in scores.values() if score.reason]

    def compute(self) -> dict[str, Tensor]:
        found, official = {}, {}
        for scorer, row in zip(self.scorers, self.sums.double().cpu().tolist(), strict=True):
            name, (total, count, values, videos, missing) = scorer.dimension, row
            both = Means.of_sums(total, count, values, int(videos), int(missing))
            official[name] = both.official(name)
            found |= {name: official[name], f"{name}/units": both.units, f"{name}/videos": both.videos}
        self.facts = {
            "videos": int(self.sums[:, _VIDEOS].max()),
            "videos without a score in a dimension": int(self.sums[:, _MISSING].max()),
        }
        known = {name: value for name, value in official.items() if name in DIMENSIONS}
        if known:
            for name, total in totals(known).items():
                found[f"partial/{name}" if total.partial else name] = total.value
        return {name: torch.tensor(value, dtype=torch.float32, device=self.device) for name, value in found.items()}


def _row(score: VideoScore) -> Tensor:
    """A score as a row of the state; one that is missing adds to the last column only."""
    scored = float(bool(score.count))
    value = score.value if score.count else 0.0
    return torch.tensor([score.total, score.count, value, scored, 1 - scored], dtype=torch.float64)
