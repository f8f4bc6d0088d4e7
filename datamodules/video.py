"""The LightningDataModule: batches of clips for a whole run, whose order depends on (seed, step) only."""

import logging
import math
from collections.abc import Callable, Iterator

from lightning.pytorch import LightningDataModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.clips.augment import Augment, RandAugment  # noqa: F401 named in recipes
from datamodules.clips.crops import Crop, MultiScaleCrop
from datamodules.clips.eval_views import EvalView, RandomResizedCrop, Squares, Squash  # noqa: F401 named in recipes
from datamodules.clips.sampling import Dense, Sampler
from datamodules.decoding.reader import Decoder, PyAV
from datamodules.loading.batches import Clip, EvalBatches, TrainBatches
from datamodules.loading.defaults import accumulation, cores_per_device, default_lanes
from datamodules.loading.loader import BatchNumbers, Loader
from datamodules.loading.survey import Survey, VideoInfo, all_ranks, assign_to_ranks
from datamodules.loading.windows import Windows, count
from datamodules.sources.annotated.annotations import Annotated  # noqa: F401 recipes name it by its short name
from datamodules.sources.mixture import Mixture  # noqa: F401 recipes name it by its short name
from datamodules.sources.source import Source

log = logging.getLogger(__name__)


class VideoData(LightningDataModule):
    """Clips of videos for training, validation, test and prediction.

    A training batch is a dict of `video` uint8 [B, C, T, H, W] (channels last in memory) and `name`, a list of B
    strings; and `text` (list of B strings) and `label` (int64 [B]) where every sample of the source has one. B =
    views * micro_batch, in view-major order: all videos' view 0, then view 1, and so on. Of several captions of a video
    training draws one. An evaluation batch has them all (a list of lists of strings then), and `weight` float [B], 0
    for rows that only pad or could not be read.

    Set `trainer.max_steps`: one Lightning epoch is the whole run. A resumed run (`--ckpt_path`) goes on with the next
    batch whatever the number of workers, and whatever the world size as long as it divides the global batch.

    Args:
        train: what `fit` trains on.
        val: what `fit` and `validate` evaluate on.
        test: what `test` evaluates on, in `test_clips` x `test_crops` views.
        predict: what `predict` goes through.
        global_batch: videos in one optimiser step, over all devices. Accumulation follows from it.
        micro_batch: videos on one device in one forward pass; by default all of its share. Where `test` looks at
            a video in more views than training does, it takes so many fewer videos at a time.
        frames: T, frames of a clip.
        stride: between them, in frames of the video.
        size: H = W of a clip, in pixels.
        views: crops of each decoded clip in training (repeated augmentation).
        sampler: rule for the frames; by default neighbouring frames at the stride.
        crop: rule for the training crop; by default the multi-scale crop.
        view: how evaluation makes a picture size x size; by default the short side to `size` and squares along the
            long one. `Squash` takes the whole picture, whatever its shape.
        flip: probability of mirroring a training view.
        augment: what else happens to a training view, after crop and flip.
        test_clips: clips of each video in `test`, spread over its length.
        test_crops: squares of each clip in `test`, spread along its long side; 1 with `Squash`.
        window_step: in `predict`, go through whole videos in windows of `frames` at `stride`, this many frames from the
            beginning of one to that of the next; null: one clip a video.
        decoder: what reads the videos; PyAV by default.
        workers: processes that load, a device; by default the cores there are for each device, 16 at most.
        prefetch: batches that each worker keeps ready.
        lanes: shards mixed at a time (see `Order`); by default 1 for single files, and for shards the largest divisor
            of `global_batch` that is no more than the shards and 256.
        seed: of order, frames, crops, flips and what else is drawn.
        failure_budget: share of the videos seen that may be unreadable before the run stops.
        failure_grace: that many unreadable ones never stop it.
        decode_seconds: a video whose decoding takes longer is given up and counts as unreadable, even where the
            decoder hangs (its process is replaced); null for no limit. Without workers there is none.
    """

    def __init__(
        self,
        train: Source | None = None,
        val: Source | None = None,
        test: Source | None = None,
        predict: Source | None = None,
        *,
        global_batch: int,
        micro_batch: int | None = None,
        frames: int = 16,
        stride: int = 4,
        size: int = 224,
        views: int = 1,
        sampler: Sampler | None = None,
        crop: Crop | None = None,
        view: EvalView | None = None,
        flip: float = 0.0,
        augment: Augment | None = None,
        test_clips: int = 1,
        test_crops: int = 1,
        window_step: int | None = None,
        decoder: Decoder | None = None,
        workers: int | None = None,
        prefetch: int = 2,
        lanes: int | None = None,
        seed: int = 0,
        failure_budget: float = 0.01,
        failure_grace: int = 16,
        decode_seconds: float | None = 60.0,
    ) -> None:
        super().__init__()
        named = {"global_batch": global_batch, "frames": frames, "stride": stride, "size": size, "views": views}
        named |= {"test_clips": test_clips, "test_crops": test_crops, "window_step": window_step}
        for name, value in named.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
        self.train, self.val, self.test, self.predict = train, val, test, predict
        self.global_batch, self.micro_batch = global_batch, micro_batch
        self.clip = Clip(
            *(frames, stride, size, views, flip),
            *(sampler or Dense(), crop or MultiScaleCrop(), decoder or PyAV(), view or Squares(), augment),
        )
        if isinstance(view, Squash) and test_crops != 1:
            raise ValueError(f"Squash sees the whole picture, once: test_crops must be 1, not {test_crops}")
        self.test_clips, self.test_crops, self.window_step = test_clips, test_crops, window_step
        self.workers, self.prefetch, self.seed = workers, prefetch, seed
        self.lanes = lanes if lanes is not None else default_lanes(train, global_batch)
        self.failure_budget, self.failure_grace = failure_budget, failure_grace
        self.decode_seconds = decode_seconds
        self.failed: dict[str, list[tuple[str, str]]] = {}
        self.seen: dict[str, int] = {}
        self.surveyed: list[VideoInfo] = []  # of `predict` in windows: every video that can be opened
        self.before_survey: Callable[[], Callable[[str], bool]] | None = (
            None  # asked before: which videos are done already
        )

    def setup(self, stage: str) -> None:
        """Fits accumulation to the world; refuses a run without a length and a batch that the world does not divide."""
        share = self.trainer.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}
        self.rank, self.world = share["rank"], share["num_replicas"]
        if stage != "fit":
            return
        if self.train is None:
            raise MisconfigurationException(
                "`fit` needs data to train on: set data.init_args.train (recipes/data/ has examples)"
            )
        self.accumulate = accumulation(self.global_batch, self.micro_batch, self.world)
        self._check_length()
        self.trainer.accumulate_grad_batches = self.accumulate
        for field, has in (("text", self.train.texts), ("label", self.train.labels)):
            if 0 < has < len(self.train):
                log.warning(
                    "%d of %d training samples have no %s: batches carry none",
                    len(self.train) - has,
                    len(self.train),
                    field,
                )

    def _check_length(self) -> None:
        trainer, a_pass = self.trainer, math.ceil(len(self.train) / self.global_batch)
        if trainer.fast_dev_run:
            return
        if trainer.max_steps < 1 or trainer.max_epochs not in (None, -1):
            raise MisconfigurationException(
                f"The length of a run is counted in steps: set trainer.max_steps and leave trainer.max_epochs alone. "
                f"One pass over these {len(self.train)} videos is {a_pass} steps of {self.global_batch}."
            )

    def train_dataloader(self) -> DataLoader:
        """Micro-batches from the trainer's step to the end of the run."""
        order = self.train.order(self.seed, self.lanes)
        micro = self.global_batch // (self.world * self.accumulate)
        batches = TrainBatches(self.train, order, self.clip, self.seed, self.rank, self.world, micro, self.accumulate)
        self._align_progress()
        position = lambda: self.trainer.global_step * self.accumulate  # noqa: E731
        return self._loader(batches, BatchNumbers(position, self.trainer.max_steps * self.accumulate), keep=True)

    def val_dataloader(self) -> DataLoader | list:
        """All of `val`: the middle clip, one picture of it."""
        return self._evaluation(self.val, 1, 1, keep=True)

    def test_dataloader(self) -> DataLoader | list:
        """All of `test`, in `test_clips` x `test_crops` views, clips outermost."""
        return self._evaluation(self.test, self.test_clips, self.test_crops)

    def predict_dataloader(self) -> DataLoader | list:
        """All of `predict`: the middle clip, one picture of it; with `window_step`, all windows of each video."""
        if self.predict is None or self.window_step is None:
            return self._evaluation(self.predict, 1, 1)
        self.surveyed = all_ranks(self._survey(self.predict))
        shares = assign_to_ranks([v for v in self.surveyed if not v.done], self.windows, self.world)
        most = max(sum(map(self.windows, share)) for share in shares)
        if most == 0:
            rank_zero_info(f"nothing to do: of {len(self.surveyed)} videos that can be read all are done")
        micro = max(1, min(self._micro(), most))
        batches = Windows(self.predict, self.clip, self.window_step, shares[self.rank], micro, math.ceil(most / micro))
        return self._loader(batches, BatchNumbers(lambda: 0, len(batches)))

    def windows(self, video: VideoInfo) -> int:
        """How many windows `predict` cuts of a video; 0 of one that is done."""
        return 0 if video.done else count(video.frames, self.clip.frames, self.clip.stride, self.window_step)

    def _survey(self, source: Source) -> Iterator[VideoInfo]:
        """This rank's share of the videos, as they are found; those that cannot be read are counted and named."""
        survey = Survey(
            source, self.clip.decoder, self.rank, self.world, self.before_survey() if self.before_survey else None
        )
        loader = self._loader(survey, BatchNumbers(lambda: 0, len(survey)))
        quiet = self.rank > 0 or self.trainer.progress_bar_callback is None
        for item in tqdm(loader, desc="lengths", unit="video", disable=quiet):
            self.seen["predict"] = self.seen.get("predict", 0) + 1
            if "skipped" in item:
                self._count("predict", [item["skipped"]])
            else:
                yield item["found"]

    def _micro(self) -> int:
        return self.micro_batch or max(1, self.global_batch // self.world)

    def once(self, source: Source) -> DataLoader | list:
        """All of any source, as `validate` would see it."""
        return self._evaluation(source, 1, 1)

    def _evaluation(self, source: Source | None, clips: int, crops: int, keep: bool = False) -> DataLoader | list:
        if source is None:
            return []
        micro = max(1, self._micro() * self.clip.views // max(clips * crops, self.clip.views))  # clips as in training
        micro = max(1, min(micro, math.ceil(len(source) / self.world)))  # a small set needs no padding to a large batch
        batches = EvalBatches(source, self.clip, clips, crops, self.rank, self.world, micro)
        return self._loader(batches, BatchNumbers(lambda: 0, len(batches)), keep)

    def _loader(self, batches: Dataset, numbers: BatchNumbers, keep: bool = False) -> DataLoader:
        workers = self.workers if self.workers is not None else cores_per_device(self.trainer.num_devices)
        return Loader(
            batches,
            batch_size=None,  # a number is a whole micro-batch already
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=self.prefetch if workers else None,
            persistent_workers=keep and workers > 0,
            pin_memory=self.trainer.strategy.root_device.type == "cuda",
            limit=self.decode_seconds,
        )

    def _align_progress(self) -> None:
        """Tells Lightning, on resume, how many micro-batches the steps done make in this world (another one had
        others).

        `completed` keeps its distance: a checkpoint of on_train_batch_end is one short, which Lightning makes up for
        itself.
        """
        loop = self.trainer.fit_loop.epoch_loop
        if self.trainer.global_step == 0 or self.trainer.limit_train_batches != 1.0:
            return
        done = self.trainer.global_step * self.accumulate
        for progress in (loop.batch_progress.current, loop.batch_progress.total):
            short = progress.processed - progress.completed
            progress.ready = progress.started = progress.processed = done
            progress.completed = done - short

    def on_before_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """Takes `skipped` out of a batch, counts and names what is in it, and stops the run over the budget."""
        stage = self.trainer.state.stage.value if self.trainer and self.trainer.state.stage else "train"
        skipped = batch.pop("skipped", [])
        if "window" in batch:  # videos were counted when they were looked at, and come in many batches
            known = {name for name, _ in self.failed.get(stage, [])}
            skipped = [(name, reason) for name, reason in skipped if name not in known]
        else:
            self.seen[stage] = self.seen.get(stage, 0) + len(set(batch["name"]))  # a video's views share its name
        if skipped:
            self._count(stage, skipped)
        return batch

    def _count(self, stage: str, skipped: list[tuple[str, str]]) -> None:
        failed = self.failed.setdefault(stage, [])
        for name, reason in skipped:
            failed.append((name, reason))
            log.warning("skipped %s: %s (%d unreadable of %d seen)", name, reason, len(failed), self.seen[stage])
        if len(failed) > max(self.failure_grace, self.failure_budget * self.seen[stage]):
            raise RuntimeError(
                f"{len(failed)} of {self.seen[stage]} videos could not be read, more than the budget of "
                f"{self.failure_budget:.2%} (and of {self.failure_grace} in all). The last ones:\n"
                + "\n".join(f"  {name}: {reason}" for name, reason in failed[-5:])
                + "\nMend or leave out these files (tools/prepare.py checks each), or raise "
                "data.init_args.failure_budget."
            )

    def state_dict(self) -> dict:
        """What the order of samples depends on; where it stands is the trainer's step."""
        return self._order_state() if self.train is not None else {}

    def _order_state(self) -> dict:
        order = {"seed": self.seed, "global_batch": self.global_batch, "lanes": self.lanes, "samples": len(self.train)}
        return {**order, **self.train.state()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Refuses to resume with another order: samples would be lost or come twice."""
        if self.train is None or (self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING):
            return
        now = self._order_state()
        other = [f"{key} {state_dict[key]}, now {now[key]}" for key in now if state_dict.get(key, now[key]) != now[key]]
        if other:
            raise MisconfigurationException(
                f"The checkpoint was trained with {'; '.join(other)}: its order of samples cannot go on. Restore these "
                "settings to resume, or start a new run from its weights (without --ckpt_path)."
            )
