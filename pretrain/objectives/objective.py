"""Objective: the one base class of every method. A method adds `__init__`, `forward` and perhaps `predict`."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, TypeVar

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info
from torch import Tensor, nn
from torchmetrics import Metric

from models.encoder import Encoder
from models.layers import IMAGENET_MEAN, IMAGENET_STD, Normalize, use_flash
from pretrain.learning import parallel, randomness
from pretrain.learning.batch import Batch, require_fields, without_padding
from pretrain.learning.ema_teacher import EMATeacher
from pretrain.learning.evaluation import EvaluationSums
from pretrain.learning.optim import Optim
from pretrain.learning.randomness import RandomKey
from pretrain.learning.starting_weights import load_starting_weights
from pretrain.learning.state_difference import explained
from pretrain.learning.teachers import Frozen
from pretrain.learning.transfer import to_device

AnyEncoder = TypeVar("AnyEncoder", bound=Encoder)


class Objective(pl.LightningModule):
    """Training and evaluation steps, optimiser, schedule, logging and random numbers; a method defines its losses.

    `forward(batch)` returns named losses and needs no Trainer.

    Args:
        optim: the optimiser and its schedule.
        global_batch: videos per optimiser step over all ranks, to which rates for 256 are scaled; the command line
            copies it and `seed` from the recipe's other sections.
        weights: a checkpoint to start from (official, transformers' or ours), or several, each for a part of the model;
            a resumed run ignores it.
        seed: of masks and augmentations, which depend on the seed and the step only.
        metrics: by name; validation and test update them with `predict`'s outputs and the batch, and log the number or
            dict of numbers that they compute. A metric with a method `attach` receives the objective before the first
            batch.
        recompute: activation checkpointing of the blocks; compile: compile the blocks; flash: use flash-attn's kernels
            if they are installed and applicable, in all models of the process. None of them changes a result.
        mean, std: statistics for the normalisation of videos.
    """

    # Methods that callbacks and metrics call besides `forward`; a sharding strategy gathers the weights for them.
    forward_methods: ClassVar[tuple[str, ...]] = ("predict", "reconstruct", "encode_video", "encode_text", "match")

    def __init__(
        self,
        optim: Optim | None = None,
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
        self.optim, self.global_batch, self.weights, self.seed = optim or Optim(), global_batch, weights, seed
        self.recompute, self.compile_blocks, self.flash = recompute, compile, flash
        self.normalize = Normalize(mean, std)
        self.metrics = nn.ModuleDict(metrics or {})
        self.needs: tuple[str, ...] = ("video",)  # fields of a batch that the losses need; a method may add some
        self.figures: frozenset[str] = frozenset()  # values of `forward` that are logged and are no part of the loss
        self.bounds: dict[str, tuple[float | None, float | None]] = {}  # of parameters, by name; see `clamp_parameters`
        self.row_encoder: Any = None  # of texts, in the loading processes: `datamodules.loading.text_rows.Encode`
        # What the files of `weights` may lack together, and what each may have too much: patterns of names (ours, and
        # theirs); None: any of them, which is only reported.
        self.may_lack: list[str] | None = None
        self.may_leave: list[str] | None = None
        self.skips: list[str] = []  # names in the files of `weights` that are not read
        self.random_key = RandomKey()
        self.shown_in_training: set[str] = set()  # names of logged values that the progress bar shows
        self.evaluated = EvaluationSums()
        self._norm = parallel.StepNorm()

    def with_statistics(self, encoder: AnyEncoder) -> AnyEncoder:
        """`encoder` itself, which from now on takes uint8 videos and normalises the patches that it sees: with a tenth
        of them visible, a tenth of the traffic."""
        encoder.patch_embed.normalize = self.normalize
        return encoder

    # What a method may define

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a batch, by name; their sum is minimised."""
        raise NotImplementedError

    def predict(self, batch: Batch) -> dict[str, Tensor]:
        """The outputs that metrics and `python -m pretrain predict` receive, a row per video."""
        raise MisconfigurationException(f"{type(self).__name__} has no `predict`")

    def on_host(self, batch: Batch) -> Batch:
        """A batch of training or evaluation before it is copied to the device; the data module calls this. What depends
        on its values is done here: checks, which raise a ValueError that names the sample, and decisions on shapes. On
        the device each of them would make the host wait."""
        return batch

    def token_encoder(self) -> Callable[[list[str]], np.ndarray] | None:
        """What makes the token ids `[B, L]` of texts, in the loading processes; batches then have them as `ids`. None:
        the method takes no ids. A batch without ids, such as one of several texts per sample, has its `text` only."""
        return None

    def losses_from_outputs(self, outputs: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The losses in evaluation, given the outputs of `predict`. By default `forward`, which encodes the video
        again; a method whose losses follow from its outputs overrides it."""
        return self(batch)

    def head_rows_to_load(self) -> list[int] | Literal["none"] | None:
        """Rows of the checkpoint's classification head to load, as `load_weights` takes them. By default None: all."""
        return None

    def log(self, name: str, value: Any, *args: Any, **options: Any) -> None:
        """Lightning's, without what makes the host wait for the device: Lightning would copy a number there, and after
        each batch read what the progress bar shows. The bar itself reads `shown_in_training`, at intervals."""
        if isinstance(value, int | float) and not options.get("sync_dist"):
            value = torch.tensor(float(value))
        if options.get("prog_bar") and self.trainer.training:
            options["prog_bar"] = False
            self.shown_in_training.add(name)
        super().log(name, value, *args, **options)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        parts = self.trainer.accumulate_grad_batches
        self.random_key = RandomKey("train", self.global_step, batch_idx % parts, parts)
        require_fields(batch, self.needs, type(self).__name__)
        torch.manual_seed(self.derive_seed(self.random_key.part, self.global_rank))  # for dropout in layers
        losses = self(batch)
        total = self._total(losses)
        self._log_losses("train", losses, total, on_step=True, prog_bar=True)
        return total

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.evaluated.move_to(self, dataloader_idx)
        self.random_key = RandomKey("val", batch_idx)
        self.evaluated.update(self, batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.random_key = RandomKey("test", batch_idx)
        self.evaluated.update(self, batch)

    def predict_step(self, batch: Batch, batch_idx: int) -> tuple[list[str], dict[str, Tensor]]:
        """Names and outputs of `predict`, without the rows that only fill up a batch."""
        self.random_key = RandomKey("predict", batch_idx)
        batch, rows = without_padding(batch)
        return batch["name"][:rows], {name: output[:rows] for name, output in self.predict(batch).items()}

    def on_validation_epoch_start(self) -> None:
        parallel.share_statistics(self)
        self.evaluated.open(self)

    def on_test_epoch_start(self) -> None:
        self.evaluated.open(self)

    def on_validation_epoch_end(self) -> None:
        self.close_metrics("val")

    def on_test_epoch_end(self) -> None:
        self.close_metrics("test")

    def close_metrics(self, stage: str) -> None:
        """Log the losses and metrics of the evaluated batches under `stage`, and those of a named validation set under
        its name in it; on all ranks."""
        self.evaluated.finish(self)
        names = getattr(getattr(self.trainer, "datamodule", None), "val_sets", {})
        names = list(names) if stage.startswith("val") and names else [""]
        for place, losses, metrics in self.evaluated.results(stage, names):
            if losses:
                self._log_losses(place, losses, self._total(losses), sync_dist=True, prog_bar=True)
            for values in metrics:
                self.log_dict(values, prog_bar=len(values) == 1, sync_dist=True)

    def _total(self, losses: dict[str, Tensor]) -> Tensor:
        return torch.stack([loss for name, loss in losses.items() if name not in self.figures]).sum()

    def _log_losses(self, stage: str, losses: dict[str, Tensor], total: Tensor, **options: Any) -> None:
        self.log(f"{stage}/loss", total.detach(), **options)
        if len(losses) > 1:
            options["prog_bar"] = False
            self.log_dict({f"{stage}/{name}": loss.detach() for name, loss in losses.items()}, **options)

    # Random numbers: functions of the seed, `random_key` and a row's index in the step's global batch

    def derive_seed(self, *more: int) -> int:
        """A seed that depends on (seed, stage, step) and on `more` numbers."""
        return randomness.derive_seed(self.seed, self.random_key, *more)

    def generator(self, device: torch.device) -> torch.Generator:
        """A generator for the masks of this step; a resumed run draws the same."""
        return torch.Generator(device).manual_seed(self.derive_seed())

    def numpy_rng(self, *more: int) -> np.random.RandomState:
        """A numpy generator for this step and `more` numbers, for what is drawn on the CPU."""
        return np.random.RandomState(self.derive_seed(*more) & 0xFFFFFFFF)

    @property
    def position(self) -> tuple[int, int]:
        """This process's rank and the world size."""
        return (self.global_rank, self._trainer.world_size) if self._trainer is not None else (0, 1)

    def places(self, rows: int, rank: int | None = None, of_part: bool = False, videos: int | None = None) -> Tensor:
        """The indices of this batch's rows in the step's global batch, `[rows]`; see `randomness.global_rows`.

        Args:
            rank: of another process.
            of_part: indices within the accumulated micro-batch.
            videos: of this training batch; by default the share of the global batch.
        """
        own, world = self.position
        _, _, part, parts = self.random_key
        if not self.training or videos is None:
            videos = self.global_batch // (world * parts) if self.training else rows
        part, parts = (0, 1) if of_part else (part, parts)
        return randomness.global_rows(rows, videos, own if rank is None else rank, world, part, parts)

    def noise(self, generator: torch.Generator, rows: int, width: int) -> Tensor:
        """Uniform noise `[rows, width]` for the rows of this batch, by the generator and a row's index in the step's
        global batch: masks do not depend on how that is divided among ranks and micro-batches."""
        key = torch.randint(2**63 - 1, (1,), generator=generator, device=generator.device)
        return randomness.uniform(key, to_device(self.places(rows), generator.device), width, generator.device)

    # Weights and optimiser

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """torch's, with one sentence for weights of another model."""
        with explained(self, state_dict):
            return super().load_state_dict(state_dict, strict=strict, assign=assign)

    @torch.no_grad()
    def clamp_parameters(self) -> None:
        """Clamp each parameter with `bounds` to them. A method's `forward` calls this before it uses the parameters."""
        for name, (low, high) in self.bounds.items():
            self.get_parameter(name).clamp_(low, high)

    def setup(self, stage: str) -> None:
        rows = self.head_rows_to_load() if self.weights else None
        load_starting_weights(self, self.weights, rows, self.skips, self.may_lack, self.may_leave)
        self.weights = None
        if stage == "fit" and self.optim.warmup_passes is not None:
            self.optim.resolve_warmup(getattr(self.trainer.datamodule, "pass_steps", None))  # pyrefly: ignore[missing-attribute]
            rank_zero_info(f"warm-up steps of the learning rate: {self.optim.warmup_steps:,}")
        for module in self.modules():
            if isinstance(module, Frozen) and stage != "predict":
                module.load()

    def configure_model(self) -> None:
        use_flash(self.flash)
        if self.compile_blocks:
            for model in (self, *(part.model for part in self.modules() if isinstance(part, Frozen))):
                parallel.compile_blocks(model)
        if self.recompute:
            parallel.recompute(self)
        self.recompute = self.compile_blocks = False  # Lightning may call this more than once

    def configure_optimizers(self) -> torch.optim.Optimizer:
        # With a float16 scaler, the fused kernel would unscale gradients only after clipping and the guard read them.
        scaler = getattr(getattr(self._trainer, "precision_plugin", None), "scaler", None)
        optimizer = self.optim.build(self, self.global_batch, fused=scaler is None)
        for module in self.modules():
            if isinstance(module, EMATeacher):
                module.follow(optimizer)
        return optimizer

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        total = self.trainer.max_steps
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
            return  # DeepSpeed clips the whole step's gradient; this may be a micro-batch's
        norm = self.gradient_norm()
        trained = [parameter for parameter in self.parameters() if parameter.grad is not None]
        if not trained:
            return  # the guard has removed them
        if gradient_clip_val:
            torch.nn.utils.clip_grads_with_norm_(trained, gradient_clip_val, norm)
        self.log("grad_norm", norm)

    def gradient_norm(self) -> Tensor:
        """The norm of the step's whole gradient, computed once per step; the guard uses it too."""
        return self._norm.of(self.parameters(), self.global_step)
