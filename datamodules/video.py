"""The LightningDataModule: batches of clips for a whole run, in an order that depends on (seed, step) only."""

from collections.abc import Callable, Iterator

import numpy as np
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.clips.augment import Augment
from datamodules.clips.crops import Crop
from datamodules.clips.eval_views import EvalView
from datamodules.clips.sampling import Sampler
from datamodules.decoding.reader import Decoder
from datamodules.loading import argument_checks, method_needs, resumed_order, run_length
from datamodules.loading.batches import TrainBatches
from datamodules.loading.bucket_batches import BucketBatches, Division, bucket_clip, check_batches, divide
from datamodules.loading.clip import make_clip
from datamodules.loading.defaults import accumulation, default_lanes
from datamodules.loading.device_loader import device_loader
from datamodules.loading.evaluation import evaluation_batches
from datamodules.loading.failures import Failures
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.image_batches import WithImages
from datamodules.loading.latent_batches import latent_buckets
from datamodules.loading.loader import BatchNumbers, Loader, align_progress
from datamodules.loading.pack_batches import train_batches
from datamodules.loading.sample_names import joined_names
from datamodules.loading.size_table import size_table
from datamodules.loading.survey import Survey, VideoInfo, all_ranks, readable
from datamodules.loading.token_batches import WithTokens
from datamodules.loading.windows import count, windows_of_rank
from datamodules.sources.buckets import parse_buckets
from datamodules.sources.source import Source


class VideoData(LightningDataModule):
    """Clips of videos for training, validation, test and prediction.

    A training batch is a dict of `video` uint8 [B, C, T, H, W] (channels last in memory) and `name`, a list of B
    strings; and `text` (list of B strings) and `label` (int64 [B]) if every sample of the source has one; a method with
    a tokenizer gets `ids` (numpy int64 [B, L]) of the texts too, and `image_ids` [B, I, L] of those of images. B =
    views * micro_batch, in view-major order: view 0 of all videos, then view 1, and so on. If a video has several
    captions, training draws one; an evaluation batch has all of them (a list of lists of strings). An evaluation batch
    also has `weight` float [B], 0 for padding and unreadable rows.

    Set `passes` or `trainer.max_steps`: one Lightning epoch is the whole run. A resumed run (`--ckpt_path`) continues
    with the next batch for any number of workers, and for any world size that divides the global batch.

    Args:
        train: source for `fit`.
        val: source for validation in `fit` and for `validate`.
        val_sets: further sources for validation, by name; their figures are logged under `val/NAME/`.
        test: source for `test`, in `test_clips` x `test_crops` views.
        predict: source for `predict`.
        global_batch: videos per optimizer step, over all devices; it determines gradient accumulation.
        passes: length of the run in passes over the training videos, each of which has as many whole steps as fit;
            null: `trainer.max_steps`, which takes precedence.
        micro_batch: videos per forward pass on one device; by default the device's share of `global_batch`. If `test`
            has more views per video than training, its batches have proportionally fewer videos.
        frames: T, frames per clip.
        stride: between the frames of a clip, in frames of the video.
        size: H = W of a clip, in pixels; or [H, W].
        buckets: sizes and lengths of training clips that take turns, instead of `frames` and `size`: rows of [frames,
            height, width, weight, micro_batch], the last two optional. A step has clips of one bucket; the weights are
            the buckets' shares of the steps. A video is used by buckets for which it has the frames and the pixels, of
            these by those of the nearest aspect ratio; videos of no bucket are counted and named in buckets.json of
            the run. Evaluation uses the first bucket. Latents (see `Latents`) of several sizes need buckets, too.
        sizes: an npz file that keeps the sizes of all training videos for `buckets`; without one, each start opens all.
        views: crops of each decoded clip in training (repeated augmentation).
        sampler: rule for the frames; by default consecutive frames at the stride.
        crop: rule for the training crop; by default the multi-scale crop, and for other clips than squares `Rectangle`.
        view: how evaluation makes a picture of the clip's size; by default `Squares`, which scale the short side and
            are cut along the long one, and for other clips than squares `CentreRectangle`.
        flip: probability of a horizontal flip of a training view.
        augment: further augmentation of a training view, after crop and flip.
        images: source of images for training, each with a text; null: none. images_per_video: so many with each clip.
        pack_steps: of a chat model: the conversations of so many steps are divided among their micro-batches so that
            these have about equally many tokens; null: every micro-batch has as many conversations. token_counts: an
            npz file that keeps the tokens of each sample.
        test_clips: clips of each video in `test`, spread over its length.
        test_crops: squares of each clip in `test`, spread along its long side; 1 with `Squash`.
        window_step: `predict` covers whole videos by sliding windows of `frames` at `stride` that start so many frames
            apart; null: one clip per video.
        decoder: by default PyAV.
        workers: loading processes per device; by default the number of cores per device, at most 16.
        prefetch: batches that all workers of a device together make ahead, or more if they have fewer than two rows for
            each worker. The host holds these and those of the step and the next one.
        lanes: shards mixed at a time (see `Order`); by default 1 for single files, and for shards the largest divisor
            of `global_batch` that is at most the number of shards and 256.
        seed: of the order, frames, crops, flips and all other random draws.
        failure_budget: the run stops if a larger share of the loaded videos is unreadable.
        failure_grace: number of unreadable videos that never stop the run.
        decode_seconds: time limit for each of reading, decoding and processing a sample. A slower one counts as
            unreadable, even if it hangs; a remote read that makes progress is not slow. null: none, as without workers.
    """

    def __init__(
        self,
        train: Source | None = None,
        val: Source | None = None,
        test: Source | None = None,
        predict: Source | None = None,
        *,
        val_sets: dict[str, Source] | None = None,
        global_batch: int,
        passes: float | None = None,
        micro_batch: int | None = None,
        frames: int = 16,
        stride: int = 4,
        size: int | tuple[int, int] = 224,
        buckets: list[list[float]] | None = None,
        sizes: str | None = None,
        views: int = 1,
        sampler: Sampler | None = None,
        crop: Crop | None = None,
        view: EvalView | None = None,
        flip: float = 0.0,
        augment: Augment | None = None,
        images: Source | None = None,
        images_per_video: int = 1,
        pack_steps: int | None = None,
        token_counts: str | None = None,
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
        argument_checks.check_numbers(global_batch=global_batch, window_step=window_step, prefetch=prefetch)
        argument_checks.check_numbers(pack_steps=pack_steps, test_clips=test_clips, test_crops=test_crops)
        self.train, self.val, self.test, self.predict = train, val, test, predict
        self.val_sets = {"": val, **(val_sets or {})} if val is not None else dict(val_sets or {})
        argument_checks.check_set_names(self.val_sets)
        self._number_like(train.classes if train is not None else None)
        argument_checks.check_passes(passes)
        self.global_batch, self.micro_batch, self.passes = global_batch, micro_batch, passes
        self.clip = make_clip(frames, stride, size, views, flip, sampler, crop, decoder, view, augment)
        self.images, self.images_per_video = images, images_per_video
        argument_checks.check_together(views, buckets, images, train, pack_steps, micro_batch)
        self.pack_steps, self.token_counts = pack_steps, token_counts
        self.buckets, self.sizes = parse_buckets(buckets) if buckets is not None else [], sizes
        self.division: Division | None = None  # the training samples by bucket
        self._resumed: str | None = None  # the digest of the division in the checkpoint
        if self.buckets:
            check_batches(self.buckets, global_batch, micro_batch)
            self.clip = bucket_clip(self.clip, self.buckets[0])  # of evaluation
        argument_checks.check_crops(view, test_crops)
        self.test_clips, self.test_crops, self.window_step = test_clips, test_crops, window_step
        self.workers, self.prefetch, self.seed = workers, prefetch, seed
        self.lanes = lanes if lanes is not None else default_lanes(train, global_batch)
        self.decode_seconds, self.intervals = decode_seconds, run_length.StepIntervals()
        self.failures = Failures(failure_budget, failure_grace)
        self.surveyed: list[VideoInfo] = []  # for `predict` in windows: all videos that can be opened
        # Called before the survey; returns a function of a video's name that says whether it is done already.
        self.before_survey: Callable[[], Callable[[str], bool]] | None = None

    def _number_like(self, classes: list[str] | None) -> None:
        """Numbers the classes of evaluated videos as the training data do."""
        for source in [*self.val_sets.values(), self.test, self.predict]:
            if classes and source is not None:
                source.number_like(classes)

    @property
    def _attached(self) -> Trainer:
        assert self.trainer is not None  # Lightning attaches it before it calls any hook
        return self.trainer

    @property
    def _train_source(self) -> Source:
        if self.train is None:
            raise MisconfigurationException("`fit` needs data to train on: set data.train (recipes/data/ has examples)")
        return self.train

    def setup(self, stage: str) -> None:
        """Sets gradient accumulation; errors if the world does not divide the batch or max_steps is not set."""
        share = self._attached.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}
        self.rank, self.world = share["rank"], share["num_replicas"]
        self.micro = self.micro_batch or max(1, self.global_batch // self.world)  # of evaluation
        if stage != "fit":
            return
        train = self._train_source
        self.accumulate = accumulation(self.global_batch, self.micro_batch, self.world)
        run_length.apply_length(self._attached, self.passes, len(train), self.global_batch)
        self._attached.accumulate_grad_batches = self.accumulate
        self.intervals.apply(self._attached, self.accumulate)
        method_needs.require_fields(self._attached.lightning_module, train)

    @property
    def pass_steps(self) -> int:
        """Optimiser steps of a pass over the training data; MisconfigurationException if a step is longer."""
        return run_length.steps_of_pass(len(self._train_source), self.global_batch)

    def train_dataloader(self) -> DataLoader:
        """Micro-batches from the trainer's step to the end of the run."""
        train, trainer = self._train_source, self._attached
        part = GlobalBatch(self.rank, self.world, self.global_batch // (self.world * self.accumulate), self.accumulate)
        encode = method_needs.row_encoder(trainer.lightning_module)
        batches: TrainBatches | BucketBatches | WithImages
        if buckets := self.buckets or latent_buckets(train):
            sizes = size_table(train, self.sizes, lambda: self._survey(train, "train"))
            self.division = divide(train, buckets, sizes, self.clip, self._resumed)
            folder = trainer.log_dir if trainer.loggers else None  # on all ranks: a collective call
            if self.rank == 0:
                self.division.report(folder)
            batches = self.division.batches(self.seed, self.lanes, part, encode)
        else:
            how = train, train.order(self.seed, self.lanes), self.clip, self.seed, part, encode
            batches = train_batches(*how, self.pack_steps, self.token_counts)
        if self.images is not None:
            crop, decoder, lanes = self.clip.crop, self.clip.decoder, default_lanes(self.images, self.global_batch)
            batches = WithImages(batches, self.images, self.images_per_video, crop, decoder, self.seed, lanes, part)
        align_progress(trainer, self.accumulate)
        total = trainer.max_steps * self.accumulate
        return self._loader(batches, BatchNumbers(lambda: trainer.global_step * self.accumulate, total), keep=True)

    def val_dataloader(self) -> DataLoader | list:
        """All of `val`, and of each of `val_sets` after it: the middle clip of each video, in one view."""
        loaders = [self.once(source, keep=True) for source in self.val_sets.values()]
        return loaders[0] if len(loaders) == 1 else loaders

    def test_dataloader(self) -> DataLoader | list:
        """All of `test`, in `test_clips` x `test_crops` views, clips outermost."""
        return self.once(self.test, self.test_clips, self.test_crops)

    def predict_dataloader(self) -> DataLoader | list:
        """All of `predict`: the middle clip of each video in one view, or with `window_step` all windows."""
        if self.predict is None or self.window_step is None:
            return self.once(self.predict)
        self.surveyed = all_ranks(self._survey(self.predict))
        how = self.predict, self.clip, self.window_step
        batches = windows_of_rank(*how, self.surveyed, self.rank, self.world, self.micro)
        return self._loader(batches, BatchNumbers(lambda: 0, len(batches)))

    def windows(self, video: VideoInfo) -> int:
        """Number of windows that `predict` cuts of a video; 0 if it is done."""
        assert self.window_step is not None  # the caller predicts in windows
        return 0 if video.done else count(video.frames, self.clip.frames, self.clip.stride, self.window_step)

    def _survey(self, source: Source, stage: str = "predict") -> Iterator[VideoInfo]:
        """Yields this rank's share of the videos; unreadable ones are counted and logged."""
        done = self.before_survey() if self.before_survey and stage == "predict" else None
        survey = Survey(source, self.clip.decoder, self.rank, self.world, done)
        loader = self._loader(survey, BatchNumbers(lambda: 0, len(survey)))
        quiet = self.rank > 0 or self._attached.progress_bar_callback is None
        yield from readable(tqdm(loader, desc="lengths", unit="video", disable=quiet), self.failures, stage)

    def once(self, source: Source | None, clips: int = 1, crops: int = 1, keep: bool = False) -> DataLoader | list:
        """All of any source, in batches as `validate` gets them; without a source, no batch."""
        if source is None:
            return []
        encode = method_needs.row_encoder(self._attached.lightning_module)
        batches = evaluation_batches(source, self.clip, clips, crops, self.rank, self.world, self.micro, encode)
        return self._loader(batches, BatchNumbers(lambda: 0, len(batches)), keep)

    def _loader(self, batches: Dataset, numbers: BatchNumbers, keep: bool = False) -> Loader:
        tokenize = method_needs.tokenizer(self._attached.lightning_module)
        batches = batches if tokenize is None else WithTokens(batches, tokenize)
        how = self.workers, self.prefetch, self.decode_seconds
        return device_loader(batches, numbers, self._attached, *how, keep)

    def on_before_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """Counts and logs `skipped` videos, stops the run over the failure budget; the model then checks the batch."""
        stage = self.trainer.state.stage.value if self.trainer and self.trainer.state.stage else "train"
        self.failures.count(stage, batch)
        for field in {"ids", "image_ids"} & batch.keys():
            batch[field] = np.asarray(batch[field])  # a tensor, as torch's loader makes it, would go to the device
        model = self.trainer.lightning_module if self.trainer else None
        return batch if stage == "predict" else method_needs.on_host(model, batch)

    def state_dict(self) -> dict:
        """The settings that determine the order of samples; the position in it is the trainer's step."""
        if self.train is None:
            return {}
        state = {**self._order_state(self.train), "division": self.division.digest() if self.division else None}
        state["names"] = joined_names(self.train)
        return {**state, "classes": self.train.classes} if self.train.numbered_here else state

    def _order_state(self, train: Source) -> dict:
        order = {"seed": self.seed, "global_batch": self.global_batch, "lanes": self.lanes, "samples": len(train)}
        buckets = check_batches(self.buckets, self.global_batch, self.micro_batch)
        packs = None if self.pack_steps is None else [self.pack_steps, self.micro_batch]
        return {**order, "buckets": buckets, "packs": packs, **train.state()}

    def load_state_dict(self, state_dict: dict) -> None:
        """Errors if a resumed run has another order, in which samples would be lost or repeated."""
        if self.train is None or (self.trainer is not None and self.trainer.state.fn != TrainerFn.FITTING):
            self._number_like(state_dict.get("classes"))
            return
        self._resumed = state_dict.get("division")
        resumed_order.check_order(state_dict, self._order_state(self.train), self.train)
