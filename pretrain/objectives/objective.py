"""Objective: the one base class of every method. A method adds `__init__`, `forward` and perhaps `predict`."""

from typing import ClassVar

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torchmetrics import Metric

from models import load_weights
from models.layers import Normalize, use_flash
from pretrain.learning import parallel
from pretrain.learning.optim import AdamW
from pretrain.learning.randomness import _STREAMS, RandomKey
from pretrain.learning.teachers import Frozen

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Batch = dict[str, Tensor | list[str]]


class Objective(pl.LightningModule):
    """Steps, optimiser, schedule, logging and generator; closed to methods, which only say what their losses are.

    `forward(batch)` returns named losses, and needs no Trainer. `batch["video"]` is uint8 `[B, C, T, H, W]`
    (or float, if it is normalised already).

    Args:
        optim: the optimiser and its schedule.
        global_batch: videos an optimiser step over all ranks, which rates are scaled to; the command line takes it and
            `seed` from where the recipe states them.
        weights: a checkpoint to start from (official, transformers' or ours), or several, each of which fills a part;
            a resumed run has its own.
        seed: of the masks, which depend on the seed and the step alone.
        metrics: by name, what validation and test make of `predict`'s outputs and the batch: a number, or a dict of
            them. One with a method `attach` is told the objective before the first batch.
        recompute: recompute activations in the backward pass; compile: compile the blocks; flash: take flash-attn's
            kernel where it is installed and serves, in all models of the process. None changes a result.
        mean, std: statistics that videos are normalised with.
    """

    # Methods that callbacks and metrics call past `forward`: a strategy that holds weights in parts gathers them there.
    forward_methods: ClassVar[tuple[str, ...]] = ("predict", "reconstruct", "encode_video", "encode_text", "match")

    def __init__(
        self,
        optim: AdamW | None = None,
        global_batch: int = 256,
        weights: str | list[str] | None = None,
        seed: int = 0,
        metrics: dict[str, Metric] | None = None,
        recompute: bool = False,
        compile: bool = False,
        flash: bool = True,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.optim = optim or AdamW()
        self.global_batch = global_batch
        self.weights = weights
        self.seed = seed
        self.recompute, self.compile_blocks, self.flash = recompute, compile, flash
        self.normalize = Normalize(mean, std)
        self.metrics = nn.ModuleDict(metrics or {})
        self.needs: tuple[str, ...] = ("video",)  # what of a batch the losses are made of; a method may need more
        self.bounds: dict[str, tuple[float | None, float | None]] = {}  # of parameters, by name; see `keep_in_bounds`
        self.random_key = RandomKey()
        self._norm: tuple[int, Tensor | None] = (-1, None)  # of the gradient, and at which step

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch, by name; they are summed."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """What `python -m pretrain predict` writes, a row a video."""
        raise MisconfigurationException(f"{type(self).__name__} has no `predict`")

    # Steps

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        parts = self.trainer.accumulate_grad_batches
        self.random_key = RandomKey("train", self.global_step, batch_idx % parts, parts)
        for field in self.needs:
            if field not in batch:
                raise MisconfigurationException(
                    f"{type(self).__name__} learns from {' and '.join(self.needs)}, and the training data have no "
                    f"`{field}`, or not for every sample: add it to the list or the shards, or leave out those without"
                )
        torch.manual_seed(
            self.derive_seed(self.random_key.part, self.global_rank)
        )  # what layers drop, such as stochastic depth
        losses = self(batch)
        total = torch.stack(list(losses.values())).sum()
        self._log_losses("train", losses, total, on_step=True, prog_bar=True)
        return total

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch, batch_idx)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch, batch_idx)

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[list[str], dict[str, Tensor]]:
        """Names and what `predict` makes of them, without the rows that only fill up a batch."""
        self.random_key = RandomKey("predict", batch_idx)
        batch, rows = _without_padding(batch)
        return batch["name"][:rows], {name: made[:rows] for name, made in self.predict(batch).items()}

    def _evaluate(self, stage: str, batch: Batch, batch_idx: int) -> None:
        self.random_key = RandomKey(stage, batch_idx)
        batch, rows = _without_padding(batch)
        outputs = self.predict(batch) if self.metrics else None
        if all(field in batch and not _several(batch[field]) for field in self.needs):
            once = outputs is not None and hasattr(self, "losses_of")  # then the model need not look twice
            losses = self.losses_of(outputs, batch) if once else self(batch)
            for name, loss in losses.items():
                self._sums[name] = self._sums.get(name, 0.0) + rows * loss.detach().float()
            self._videos += rows
        if outputs is not None:
            real = [{key: value[:rows] for key, value in part.items()} for part in (outputs, batch)]
            for metric in self.metrics.values():
                metric.update(*real)

    def on_validation_epoch_start(self) -> None:
        self._open_metrics()

    def on_test_epoch_start(self) -> None:
        self._open_metrics()

    def on_validation_epoch_end(self) -> None:
        self._close_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._close_metrics("test")

    def _open_metrics(self) -> None:
        self._sums: dict[str, Tensor] = {}  # of each loss over videos
        self._videos = 0
        for metric in self.metrics.values():
            metric.reset()
            if hasattr(metric, "attach"):
                metric.attach(self)  # one that asks the model for more than `predict` gives

    def _close_metrics(self, stage: str) -> None:
        if self._sums:
            self._log_means(stage)
        for name, metric in self.metrics.items():
            found = metric.compute()
            parts = found.items() if isinstance(found, dict) else [("", found)]
            values = {f"{stage}/{name}/{part}".rstrip("/"): value for part, value in parts}
            self.log_dict(values, prog_bar=len(values) == 1, sync_dist=True)

    def _log_means(self, stage: str) -> None:
        """Losses over the videos of all ranks. (Lightning's own means round the ranks' mean number of videos.)"""
        videos = torch.tensor(float(self._videos), device=self.device)
        *sums, videos = self.trainer.strategy.reduce(torch.stack([*self._sums.values(), videos]), reduce_op="sum")
        means = {name: total / videos.clamp(min=1) for name, total in zip(self._sums, sums, strict=True)}
        self._log_losses(stage, means, torch.stack(list(means.values())).sum(), sync_dist=True, prog_bar=True)

    def _log_losses(self, stage: str, losses: dict[str, Tensor], total: Tensor, **how) -> None:
        self.log(f"{stage}/loss", total.detach(), **how)
        if len(losses) > 1:
            how["prog_bar"] = False
            self.log_dict({f"{stage}/{name}": loss.detach() for name, loss in losses.items()}, **how)

    # Dice

    def generator(self, device: torch.device) -> torch.Generator:
        """A generator for the masks of this step, a function of (seed, stage, step): a resume draws the same."""
        return torch.Generator(device).manual_seed(self.derive_seed())

    def derive_seed(self, *more: int) -> int:
        """A seed made of (seed, stage, step) and what else it is to depend on."""
        words = self.seed, _STREAMS[self.random_key.stage], self.random_key.step, *more
        return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0]) >> 1

    def numbers(self, *words: int) -> np.random.RandomState:
        """numpy's generator for one thing of this step, told apart by `words`: what is drawn on the CPU."""
        return np.random.RandomState(self.derive_seed(*words) & 0xFFFFFFFF)

    @property
    def position(self) -> tuple[int, int]:
        """This process's rank, and how many there are."""
        return (self.global_rank, self._trainer.world_size) if self._trainer is not None else (0, 1)

    def places(self, rows: int, rank: int | None = None, of_part: bool = False) -> Tensor:
        """Where the rows of this batch stand in the step's global batch, `[rows]`, or in this part of it.

        Rows are as the data deals them: video (part * m + i) * world + rank is row i of a rank's part, views outermost.

        Args:
            rank: of another process.
            of_part: count within the accumulated part.
        """
        own, world = self.position
        _, _, part, parts = self.random_key
        m = self.global_batch // (world * parts) if self.training else rows
        m = m if m and rows % m == 0 else rows
        part, parts = (0, 1) if of_part else (part, parts)
        every = torch.arange(rows * parts * world).view(rows // m, parts, m, world)
        return every[:, part, :, own if rank is None else rank].flatten()

    def noise(self, generator: torch.Generator, rows: int, width: int) -> Tensor:
        """Uniform noise `[rows, width]` for the rows of this batch.

        The noise of the step's global batch is drawn and this batch's rows are taken: so a global batch meets the same
        masks however it is divided among ranks and accumulated parts.
        """
        total = rows * self.random_key.parts * self.position[1]
        noise = torch.rand(total, width, generator=generator, device=generator.device)
        return noise if total == rows else noise[self.places(rows).to(noise.device)]

    # Optimiser

    @torch.no_grad()
    def keep_in_bounds(self) -> None:
        """Bring each parameter that has `bounds` back between them: a method's `forward` does, before it uses them."""
        for name, (low, high) in self.bounds.items():
            getattr(self, name).clamp_(low, high)

    def setup(self, stage: str) -> None:
        for path in [self.weights] if isinstance(self.weights, str) else self.weights or []:
            rows = self.rows_of_head() if hasattr(self, "rows_of_head") else None
            report = load_weights(self, path, rows)
            rank_zero_info(f"{path}: {report}")
        self.weights = None
        for module in self.modules():
            if isinstance(module, Frozen) and stage != "predict":
                module.load()

    def configure_model(self) -> None:
        use_flash(self.flash)
        if self.recompute:
            parallel.recompute(self)
        if self.compile_blocks:
            parallel.compile_blocks(self)
        self.recompute = self.compile_blocks = False  # Lightning may ask more than once

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # With float16's scaler the fused kernel divides gradients after clipping and the guard have looked at them.
        scaler = getattr(getattr(self._trainer, "precision_plugin", None), "scaler", None)
        return self.optim.build(self, self.global_batch, fused=scaler is None)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        total = self.trainer.max_steps
        if total < 1:
            raise MisconfigurationException("the schedule needs the length of the run: set trainer.max_steps")
        lr, decay = self.optim.set_rates(self.trainer.optimizers[0], self.global_step, total, self.global_batch)
        self.log_dict({"lr": lr, "weight_decay": decay})

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
            return
        if self.trainer.strategy.handles_gradient_accumulation:
            return  # DeepSpeed, which clips the whole step's gradient; this may be that of a part
        norm = self.gradient_norm()
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        if not gradients:
            return  # the guard has taken them away
        if gradient_clip_val:
            parallel.scale_gradients(gradients, norm, gradient_clip_val)
        self.log("grad_norm", norm)

    def gradient_norm(self) -> Tensor:
        """The norm of the step's whole gradient, which is reckoned once a step: it is the guard's to know as well."""
        step, norm = self._norm
        if step != self.global_step or norm is None:
            norm = parallel.gradient_norm(p.grad for p in self.parameters() if p.grad is not None)
            self._norm = self.global_step, norm
        return norm


def _several(values: Tensor | list) -> bool:
    """Whether samples have lists of a field, such as several captions: there is no one loss of those."""
    return isinstance(values, list) and any(isinstance(value, list) for value in values)


def _without_padding(batch: Batch) -> tuple[Batch, int]:
    """An evaluation batch without the rows of weight 0, and how many are left; one row stays so that shapes hold."""
    weight = batch.get("weight")
    if weight is None:
        return batch, batch["video"].shape[0]
    index = weight.nonzero()[:, 0]
    rows = len(index)
    index = index if rows else torch.zeros(1, dtype=torch.long, device=weight.device)
    kept = {}
    for name, value in batch.items():
        kept[name] = value[index] if isinstance(value, Tensor) else [value[i] for i in index.tolist()]
    return kept, rows
