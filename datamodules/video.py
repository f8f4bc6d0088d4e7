"""The LightningDataModule: batches of clips for a whole run, in an order that depends on (seed, step) only."""

import logging
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datamodules.clips.augment import Augment, RandAugment  # noqa: F401 named in recipes
from datamodules.clips.crops import Crop, MultiScaleCrop, sides
from datamodules.clips.eval_views import EvalView, RandomResizedCrop, Squares, Squash  # noqa: F401 named in recipes
from datamodules.clips.rectangles import CentrePatch, CentreRectangle, Patch, Rectangle  # noqa: F401 named in recipes
from datamodules.clips.sampling import Dense, Sampler
from datamodules.decoding.reader import Decoder, PyAV
from datamodules.loading.batches import Clip, Encode, EvalBatches, TrainBatches
from datamodules.loading.bucket_batches import BucketBatches, Division, bucket_clip, check_batches, divide
from datamodules.loading.defaults import accumulation, cores_per_device, default_lanes
from datamodules.loading.failures import Failures
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.image_batches import WithImages
from datamodules.loading.latent_batches import EvalLatents, latent_buckets
from datamodules.loading.loader import BatchNumbers, Loader, align_progress
from datamodules.loading.pack_batches import PackedBatches, token_counts
from datamodules.loading.run_length import StepIntervals, apply_passes, check_length, steps_of_pass
from datamodules.loading.sample_names import changed_names, joined_names
from datamodules.loading.size_table import size_table
from datamodules.loading.survey import Survey, VideoInfo, all_ranks, assign_to_ranks
from datamodules.loading.token_batches import Tokenize, WithTokens
from datamodules.loading.windows import Windows, count
from datamodules.sources.annotated.annotations import Annotated  # noqa: F401 recipes name it by its short name
from datamodules.sources.annotated.instructions import Instructions  # noqa: F401 recipes name it by its short name
from datamodules.sources.buckets import parse_buckets
from datamodules.sources.mixture import Mixture  # noqa: F401 recipes name it by its short name
from datamodules.sources.shape_questions import ShapeQuestions  # noqa: F401 recipes name it by its short name
from datamodules.sources.source import Source

log = logging.getLogger(__name__)


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
        sizes: an npz file that keeps the sizes of all training videos, by which buckets are filled; without one, each
            start of a run opens all of them.
        views: crops of each decoded clip in training (repeated augmentation).
        sampler: rule for the frames; by default consecutive frames at the stride.
        crop: rule for the training crop; by default the multi-scale crop, and for other clips than squares `Rectangle`.
        view: how evaluation makes a picture of the clip's size; by default it scales the short side to `size` and cuts
            squares along the long side, and for other clips than squares it is `CentreRectangle`. `Squash` scales the
            whole picture.
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
        decode_seconds: time limit for reading a sample, for decoding it, and for processing it. A slower one counts as
            unreadable, even if it hangs (its process is replaced); a remote read that makes progress is not slow. null
            for no limit; without workers there is none.
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
        named = {"global_batch": global_batch, "frames": frames, "stride": stride, "size": min(sides(size))}
        named |= {
            "pack_steps": pack_steps,
            "views": views,
            "test_clips": test_clips,
            "test_crops": test_crops,
            "window_step": window_step,
            "prefetch": prefetch,
        }
        for name, value in named.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, not {value}")
        self.train, self.val, self.test, self.predict = train, val, test, predict
        self.val_sets = {"": val, **(val_sets or {})} if val is not None else dict(val_sets or {})
        if any("/" in name for name in self.val_sets):
            raise ValueError(
                f"val_sets: a name is a part of those of logged figures, without a slash: {list(self.val_sets)}"
            )
        self._number_like(train.classes if train is not None else None)
        if passes is not None and not passes > 0:
            raise ValueError(f"passes must be above 0, not {passes}")
        self.global_batch, self.micro_batch, self.passes = global_batch, micro_batch, passes
        height, width = sides(size)
        crop = crop or (MultiScaleCrop() if height == width else Rectangle())
        own_view = view or (Squares() if height == width else CentreRectangle())
        size = height if height == width else (height, width)
        self.clip = Clip(
            *(frames, stride, size, views, flip),
            *(sampler or Dense(), crop, decoder or PyAV(), own_view, augment),
        )
        self.images, self.images_per_video = images, images_per_video
        if images is not None and (buckets is not None or views > 1 or (train is not None and train.latents)):
            raise ValueError("images go with videos of one size in one view: omit buckets, views and latents")
        if pack_steps is not None and (buckets is not None or images is not None or views > 1):
            raise ValueError("pack_steps goes with clips of one size in one view: omit buckets, images and views")
        if pack_steps is not None and micro_batch is None:
            raise ValueError(
                "pack_steps needs micro_batch, the conversations of a pack: else they depend on the devices"
            )
        self.pack_steps, self.token_counts = pack_steps, token_counts
        self.buckets, self.sizes = parse_buckets(buckets) if buckets is not None else [], sizes
        self.division: Division | None = None  # the training samples by bucket
        self._resumed: str | None = None  # the digest of the division in the checkpoint
        if self.buckets:
            check_batches(self.buckets, global_batch, micro_batch)
            self.clip = bucket_clip(self.clip, self.buckets[0])  # of evaluation
        if isinstance(view, Squash) and test_crops != 1:
            raise ValueError(f"Squash makes one view, of the whole picture: test_crops must be 1, not {test_crops}")
        self.test_clips, self.test_crops, self.window_step = test_clips, test_crops, window_step
        self.workers, self.prefetch, self.seed = workers, prefetch, seed
        self.lanes = lanes if lanes is not None else default_lanes(train, global_batch)
        self.decode_seconds, self.intervals = decode_seconds, StepIntervals()
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
    def _encode(self) -> Encode | None:
        """What the method makes of texts in the loading processes; None: it takes the texts."""
        method: Any = self._attached.lightning_module
        return getattr(method, "row_encoder", None)

    @property
    def _tokenize(self) -> Tokenize | None:
        """What the method makes ids of texts by, in the loading processes; None: it takes no ids."""
        method: Any = self._attached.lightning_module
        return getattr(method, "token_encoder", lambda: None)()

    @property
    def _train_source(self) -> Source:
        if self.train is None:
            raise MisconfigurationException("`fit` needs data to train on: set data.train (recipes/data/ has examples)")
        return self.train

    def setup(self, stage: str) -> None:
        """Sets gradient accumulation; errors if the world does not divide the batch or max_steps is not set."""
        share = self._attached.distributed_sampler_kwargs or {"num_replicas": 1, "rank": 0}
        self.rank, self.world = share["rank"], share["num_replicas"]
        if stage != "fit":
            return
        train = self._train_source
        self.accumulate = accumulation(self.global_batch, self.micro_batch, self.world)
        if self.passes is not None:
            apply_passes(self._attached, self.passes, len(train), self.global_batch)
        check_length(self._attached, len(train), self.global_batch)
        self._attached.accumulate_grad_batches = self.accumulate
        self.intervals.apply(self._attached, self.accumulate)
        needed: Any = getattr(self._attached.lightning_module, "needs", ())
        for field, has in (("text", train.texts), ("label", train.labels)):
            if 0 < has < len(train):
                first = train.lacks(field)
                lack = f"{len(train) - has} of {len(train)} training samples have no {field}"
                lack += f", the first is {first}" if first else ""
                remedy = f"`require: [{field}]` of Files or Shards leaves them out"
                if field in needed:
                    raise MisconfigurationException(f"{lack}: write one for each, or leave them out ({remedy})")
                log.warning("%s: batches have none (%s)", lack, remedy)

    @property
    def pass_steps(self) -> int:
        """Optimiser steps of a pass over the training data; MisconfigurationException if a step is longer."""
        return steps_of_pass(len(self._train_source), self.global_batch)

    def train_dataloader(self) -> DataLoader:
        """Micro-batches from the trainer's step to the end of the run."""
        train, trainer = self._train_source, self._attached
        micro = self.global_batch // (self.world * self.accumulate)
        part = GlobalBatch(self.rank, self.world, micro, self.accumulate)
        batches: TrainBatches | BucketBatches | WithImages
        if buckets := self.buckets or latent_buckets(train):
            sizes = size_table(train, self.sizes, lambda: self._survey(train, "train"))
            self.division = divide(train, buckets, sizes, self.clip, self._resumed)
            folder = trainer.log_dir if trainer.loggers else None  # on all ranks: a collective call
            if self.rank == 0:
                self.division.report(folder)
            batches = self.division.batches(self.seed, self.lanes, part, self._encode)
        else:
            order = train.order(self.seed, self.lanes)
            batches = TrainBatches(train, order, self.clip, self.seed, part, self._encode)
            if self.pack_steps is not None:
                if self._encode is None:
                    raise MisconfigurationException("pack_steps is for chat models: leave it out of this recipe")
                counts = token_counts(train, self._encode, self.clip, self.token_counts)
                packed = part, self._encode, counts, self.pack_steps
                batches = PackedBatches(train, order, self.clip, self.seed, *packed)
        if self.images is not None:
            lanes = default_lanes(self.images, self.global_batch)
            crop, decoder = self.clip.crop, self.clip.decoder
            batches = WithImages(batches, self.images, self.images_per_video, crop, decoder, self.seed, lanes, part)
        align_progress(trainer, self.accumulate)

        def position() -> int:
            return trainer.global_step * self.accumulate

        return self._loader(batches, BatchNumbers(position, trainer.max_steps * self.accumulate), keep=True)

    def val_dataloader(self) -> DataLoader | list:
        """All of `val`, and of each of `val_sets` after it: the middle clip of each video, in one view."""
        loaders = [self._evaluation(source, 1, 1, keep=True) for source in self.val_sets.values()]
        return loaders[0] if len(loaders) == 1 else loaders

    def test_dataloader(self) -> DataLoader | list:
        """All of `test`, in `test_clips` x `test_crops` views, clips outermost."""
        return self._evaluation(self.test, self.test_clips, self.test_crops)

    def predict_dataloader(self) -> DataLoader | list:
        """All of `predict`: the middle clip of each video in one view, or with `window_step` all windows."""
        if self.predict is None or self.window_step is None:
            return self._evaluation(self.predict, 1, 1)
        self.surveyed = all_ranks(self._survey(self.predict))
        shares = assign_to_ranks([v for v in self.surveyed if not v.done], self.windows, self.world)
        most = max(sum(map(self.windows, share)) for share in shares)
        if most == 0:
            rank_zero_info(f"nothing to do: all {len(self.surveyed)} readable videos are done")
        micro = max(1, min(self._micro(), most))
        batches = Windows(self.predict, self.clip, self.window_step, shares[self.rank], micro, math.ceil(most / micro))
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
        for item in tqdm(loader, desc="lengths", unit="video", disable=quiet):
            self.failures.add_loaded(stage, 1)
            if "skipped" in item:
                self.failures.add_failed(stage, [item["skipped"]])
            else:
                yield item["found"]

    def _micro(self) -> int:
        return self.micro_batch or max(1, self.global_batch // self.world)

    def once(self, source: Source) -> DataLoader | list:
        """All of any source, in batches as `validate` gets them."""
        return self._evaluation(source, 1, 1)

    def _evaluation(self, source: Source | None, clips: int, crops: int, keep: bool = False) -> DataLoader | list:
        if source is None:
            return []
        # As many clips as in training; a small set needs no padding to a large batch.
        micro = max(1, self._micro() * self.clip.views // max(clips * crops, self.clip.views))
        micro = max(1, min(micro, math.ceil(len(source) / self.world)))
        batches: EvalBatches | EvalLatents
        if source.latents:
            batches = EvalLatents(source, self.rank, self.world, micro)
        else:
            batches = EvalBatches(source, self.clip, clips, crops, self.rank, self.world, micro, self._encode)
        return self._loader(batches, BatchNumbers(lambda: 0, len(batches)), keep)

    def _loader(self, batches: Dataset, numbers: BatchNumbers, keep: bool = False) -> DataLoader:
        if (tokenize := self._tokenize) is not None:
            batches = WithTokens(batches, tokenize)
        workers = self.workers if self.workers is not None else cores_per_device(self._attached.num_devices)
        return Loader(
            batches,
            batch_size=None,  # an item is a whole micro-batch already
            sampler=numbers,
            num_workers=workers,
            prefetch_factor=self.prefetch if workers else None,
            persistent_workers=keep and workers > 0,
            pin_memory=self._attached.strategy.root_device.type == "cuda",
            limit=self.decode_seconds,
        )

    def on_before_batch_transfer(self, batch: dict, dataloader_idx: int) -> dict:
        """Counts and logs `skipped` videos, stops the run over the failure budget; the model then checks the batch."""
        stage = self.trainer.state.stage.value if self.trainer and self.trainer.state.stage else "train"
        skipped = batch.pop("skipped", [])
        for field in {"ids", "image_ids"} & batch.keys():
            batch[field] = np.asarray(batch[field])  # a tensor, as torch's loader makes it, would go to the device
        if "window" in batch:  # the survey has counted the videos, and one has many batches
            known = {name for name, _ in self.failures.failed.get(stage, [])}
            skipped = [(name, reason) for name, reason in skipped if name not in known]
        else:
            self.failures.add_loaded(stage, len(set(batch["name"])))  # views share a name
        if skipped:
            self.failures.add_failed(stage, skipped)
        on_host = getattr(self.trainer and self.trainer.lightning_module, "on_host", None)
        return batch if on_host is None or stage == "predict" else on_host(batch)

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
        self._resumed, before = state_dict.get("division"), state_dict.get("names")
        now, state_dict = self._order_state(self.train), {"buckets": [], "packs": None, **state_dict}
        other = [f"{key} {state_dict[key]}, now {now[key]}" for key in now if state_dict.get(key, now[key]) != now[key]]
        changed = changed_names(before, joined_names(self.train))
        if changed and not other:
            log.warning("as many training videos as before, but others, which take the places of the old: %s", changed)
        if other:
            videos = f" ({changed})" if changed else ""
            raise MisconfigurationException(
                f"The checkpoint was trained with {'; '.join(other)}{videos}: its order of samples cannot continue. "
                "Restore these settings to resume, or start a new run from its weights (without --ckpt_path)."
            )
