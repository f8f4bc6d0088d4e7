"""The LightningDataModule of a benchmark: clips of the questions that are not answered yet."""

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules.clips.eval_views import BicubicSquare, EvalView
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder, PyAV
from datamodules.loading import reading
from datamodules.loading.collate import all_skipped
from datamodules.loading.device_loader import device_loader
from datamodules.loading.failures import Failures
from datamodules.loading.loader import BatchNumbers, Loader
from datamodules.loading.rows import Memory, RowBatches
from pretrain.questions.clips import CONTROLS, Control, load_clip
from pretrain.questions.question import Benchmark, Question
from pretrain.questions.sets import QuestionSet


class Questions(pl.LightningDataModule):
    """Clips and keys of questions, each process's share of them.

    A batch is a dict of `video` uint8 `[B, C, T, H, W]` (T is 0 without a video), `name`, the questions' keys,
    `spoken`, the subtitles at the clips' frames, if there are any, and `weight`, 0 for a video that cannot be read.

    Args:
        questions: what is asked.
        frames: of a clip, in the middle of equal parts of the video.
        global_batch: questions that are answered at once, over all devices.
        partial: ask what is there although tasks or videos are missing; the report then gives no average.
        control: what is taken away from the videos, see `Control`.
        view: how a frame becomes a square.
        decoder: by default PyAV.
        workers: loading processes per device; by default the number of cores per device, at most 16.
        seed: nothing here is random; the command line sets it.
        failure_budget: the run stops if a larger share of the videos is unreadable. failure_grace: so many never stop
            it.
        decode_seconds: time limit for each video; None for none.
    """

    def __init__(
        self,
        questions: QuestionSet,
        frames: int = 16,
        global_batch: int = 8,
        partial: bool = False,
        control: Control = "none",
        view: EvalView | None = None,
        decoder: Decoder | None = None,
        workers: int | None = None,
        seed: int = 0,
        failure_budget: float = 0.01,
        failure_grace: int = 16,
        decode_seconds: float | None = 60.0,
    ) -> None:
        super().__init__()
        if frames < 1 or global_batch < 1:
            raise ValueError(f"frames and global_batch must be 1 or more, not {frames} and {global_batch}")
        if control not in CONTROLS:
            raise ValueError(f"there is no control {control!r}: choose one of {', '.join(CONTROLS)}")
        self.questions, self.frames, self.global_batch, self.partial = questions, frames, global_batch, partial
        self.control: Control = control
        self.view, self.decoder = view or BicubicSquare(), decoder or PyAV()
        self.workers, self.decode_seconds = workers, decode_seconds
        self.failures = Failures(failure_budget, failure_grace)
        self.size: int | None = None  # of the clips in pixels; the model sets it
        self.done: set[str] = set()  # keys of questions that are answered; the model sets it
        self._benchmark: Benchmark | None = None

    @property
    def benchmark(self) -> Benchmark:
        """The questions, read once."""
        if self._benchmark is None:
            self._benchmark = self.questions.read()
        return self._benchmark

    def setup(self, stage: str) -> None:
        """Prints the manifest; FileNotFoundError if something is missing and `partial` is not set."""
        if stage != "test":
            raise MisconfigurationException(f"questions are answered by `test`, not by `{stage}`")
        if self.trainer is None or self.trainer.is_global_zero:
            print(self.benchmark.manifest())
        if not self.partial:
            self.benchmark.require_all()
        if not self.benchmark.questions:
            raise FileNotFoundError(f"{self.benchmark.manifest()}\nNo question can be asked")

    def settings(self) -> dict[str, object]:
        """What of the videos changes an answer, for the protocol."""
        view = {"view": type(self.view).__name__, **vars(self.view)}
        spoken = any(question.subtitles is not None for question in self.benchmark.questions)
        return {"frames": self.frames, "size": self.size, "control": self.control, "subtitles": spoken, **view}

    def test_dataloader(self) -> Loader:
        trainer = self.trainer
        assert trainer is not None and self.size is not None  # the model's `setup` runs before this
        own = share_by_video(self.benchmark.questions, trainer.global_rank, trainer.world_size)
        # One is asked again if none is left: Lightning ends a run without batches before its results.
        left = [question for question in own if question.key not in self.done] or [*own[:1]]
        micro = max(1, self.global_batch // trainer.world_size)
        batches = ClipBatches(left, self.decoder, self.view, self.frames, self.size, self.control, micro)
        reads = self.control != "no_video"
        return device_loader(
            batches,
            BatchNumbers(lambda: 0, len(batches)),
            trainer,
            workers=self.workers if reads or self.settings()["subtitles"] else 0,
            limit=self.decode_seconds,
            pin=reads,
        )

    def on_before_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """Counts and logs videos that cannot be read; too many end the run."""
        self.failures.count("test", batch)
        return batch


def share_by_video(questions: Sequence[Question], rank: int, ranks: int) -> list[Question]:
    """A process's share of the questions. Those about one part of a video follow each other, so that a batch has them
    together: its model then sees the part once."""
    ordered = sorted(questions, key=lambda question: (question.place, question.bound or ()))
    return ordered[len(ordered) * rank // ranks : len(ordered) * (rank + 1) // ranks]


class ClipBatches(RowBatches):
    """Batches of clips; item i has the questions from `i * micro` on."""

    def __init__(
        self,
        questions: Sequence[Question],
        decoder: Decoder,
        view: EvalView,
        frames: int,
        size: int,
        control: Control,
        micro: int,
    ) -> None:
        self.questions, self.micro = questions, micro
        self.how = decoder, view, frames, size, control
        self.shape = (0 if control == "no_video" else frames, size, size, 3)

    def __len__(self) -> int:
        return -(-len(self.questions) // self.micro)

    def rows(self, index: int) -> int:
        return len(self.questions[index * self.micro : (index + 1) * self.micro])

    def shapes(self, index: int) -> dict[str, tuple[int, ...]]:
        return {"video": (self.rows(index), *self.shape)}

    def make(self, index: int, row: int, memory: Memory) -> dict[str, Any]:
        question = self.questions[index * self.micro + row]
        made: dict[str, Any] = {"name": question.key, "spoken": "", "weight": 0.0, "skipped": []}
        file = None if question.fps is not None else question.place
        try:
            clip, made["spoken"] = reading.decode(question.place, file, lambda: load_clip(question, *self.how))
            made["weight"] = 1.0
        except DecodeError as error:
            made["skipped"] = [(error.name, error.reason)]
            clip = torch.zeros(3, *self.shape[:3], dtype=torch.uint8)
        if "video" in memory:  # without a video there is none
            memory["video"][row] = clip.permute(1, 2, 3, 0)
        return made

    def batch(self, index: int, memory: Memory, made: list[dict[str, Any]]) -> dict:
        nothing = torch.empty(len(made), *self.shape, dtype=torch.uint8)
        video = memory.get("video", nothing).permute(0, 4, 1, 2, 3)  # [B, C, T, H, W], channels last in memory
        named = {field: [row[field] for row in made] for field in ("name", "spoken")}
        weight = torch.tensor([row["weight"] for row in made])
        return {"video": video, **named, "weight": weight, "skipped": all_skipped(made)}
