"""The LightningDataModule of a benchmark: clips of the questions that are not answered yet."""

from collections.abc import Sequence

import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import Dataset

from datamodules.clips.eval_views import BicubicSquare, EvalView
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder, PyAV
from datamodules.loading import heartbeat
from datamodules.loading.defaults import cores_per_device
from datamodules.loading.failures import Failures
from datamodules.loading.loader import BatchNumbers, Loader
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
        own = self.benchmark.questions[trainer.global_rank :: trainer.world_size]
        # One is asked again if none is left: Lightning ends a run without batches before its results.
        left = [question for question in own if question.key not in self.done] or [*own[:1]]
        micro = max(1, self.global_batch // trainer.world_size)
        batches = ClipBatches(left, self.decoder, self.view, self.frames, self.size, self.control, micro)
        workers = self.workers if self.workers is not None else cores_per_device(trainer.num_devices)
        workers = 0 if self.control == "no_video" and not self.settings()["subtitles"] else workers
        return Loader(
            batches,
            batch_size=None,  # an item is a whole batch already
            sampler=BatchNumbers(lambda: 0, len(batches)),
            num_workers=workers,
            prefetch_factor=2 if workers else None,
            pin_memory=trainer.strategy.root_device.type == "cuda" and self.control != "no_video",
            limit=self.decode_seconds,
        )

    def on_before_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """Counts and logs videos that cannot be read; too many end the run."""
        skipped = batch.pop("skipped")
        self.failures.add_loaded("test", len(batch["name"]))
        if skipped:
            self.failures.add_failed("test", skipped)
        return batch


class ClipBatches(Dataset):
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
        self.shape = (3, 0 if control == "no_video" else frames, size, size)

    def __len__(self) -> int:
        return -(-len(self.questions) // self.micro)

    def __getitem__(self, index: int) -> dict:
        rows = self.questions[index * self.micro : (index + 1) * self.micro]
        video = torch.zeros(len(rows), *self.shape, dtype=torch.uint8)
        weight, skipped, spoken = torch.ones(len(rows)), [], [""] * len(rows)
        for i, question in enumerate(rows):
            try:
                with heartbeat.decoding(question.place):
                    video[i], spoken[i] = load_clip(question, *self.how)
            except DecodeError as error:
                skipped.append((error.name, error.reason))
                weight[i] = 0
        found = {"video": video, "spoken": spoken, "weight": weight, "skipped": skipped}
        return {**found, "name": [question.key for question in rows]}
