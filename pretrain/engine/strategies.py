"""Sharding strategies for recipes: FSDP2 and DeepSpeed's ZeRO, on GPUs and, for tests, on CPUs."""

import argparse
import io
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from lightning.fabric.utilities.seed import reset_seed
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from models.convert.sharded import read_sharded
from models.convert.zero import is_zero
from pretrain.engine.background_checkpoint import BackgroundCheckpointIO
from pretrain.engine.sharded_checkpoint import complete_draft, create_draft, save_sharded
from pretrain.learning import parallel


class _Objective(Protocol):
    """What the strategies use of an objective."""

    forward_methods: Sequence[str]
    bounds: dict[str, tuple[float | None, float | None]]


class FSDP2Strategy(ModelParallelStrategy):
    """Shards parameters, gradients and optimiser states over all processes; see `parallel.shard`.

    Args:
        group: processes that share one copy of the model; None: all. With the number of GPUs of a node, weights are
            gathered inside nodes only, and gradients reduced between them (hybrid sharding).
        param_dtype: type in which parameters are gathered; bfloat16 needs trainer.precision bf16-mixed; auto: that of
            the computation, bfloat16 or float32.
        reshard: see `parallel.shard`.
        timeout_s: seconds that a process waits for the others; then it ends with an error.
    """

    _data_parallel_size: Literal["auto"] | int
    _tensor_parallel_size: Literal["auto"] | int

    def __init__(
        self,
        group: int | None = None,
        param_dtype: Literal["auto", "float32", "bfloat16"] = "auto",
        reshard: bool = True,
        timeout_s: int = 600,
    ) -> None:
        super().__init__(timeout=timedelta(seconds=timeout_s))
        self.group, self.param_dtype, self.reshard = group, param_dtype, reshard
        self._writers: dist.ProcessGroup | None = None  # all processes, for messages of the background writers

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def setup(self, trainer: pl.Trainer) -> None:
        half = trainer.precision == "bf16-mixed"
        if self.param_dtype == "bfloat16" and not half:
            raise MisconfigurationException("param_dtype: bfloat16 needs trainer.precision bf16-mixed")
        param_dtype = torch.bfloat16 if half and self.param_dtype != "float32" else torch.float32
        assert self.model is not None  # Lightning has connected it
        methods = cast(_Objective, self.model).forward_methods
        parallel.shard(self.model, self.mesh(), param_dtype, self.reshard, methods)
        super().setup(trainer)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any | None = None) -> None:
        """Each process writes its shards into one folder, which is complete or absent; in the background, where the
        run's writer does."""
        import torch.distributed.checkpoint as dcp  # takes a third of a second, which other commands save
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        state = {"state_dict": checkpoint.pop("state_dict")}
        state |= {f"optimizer_{i}": part for i, part in enumerate(checkpoint.pop("optimizer_states", []))}
        if "ema" in checkpoint:
            state["ema"] = checkpoint.pop("ema")
        rest = io.BytesIO()  # now: later steps change it
        torch.save(checkpoint, rest)
        path, writer = Path(self.broadcast(filepath)), self.checkpoint_io

        def write_rest(draft: Path) -> None:
            if self.is_global_zero:
                (draft / "meta.pt").write_bytes(rest.getbuffer())

        if not isinstance(writer, BackgroundCheckpointIO):

            def write(draft: Path) -> None:
                dcp.save(state, storage_writer=dcp.FileSystemWriter(draft))
                write_rest(draft)

            return save_sharded(path, write)
        writer.wait()  # no more than one copy is held
        if self._writers is None:
            group = dist.new_group(backend="gloo", timeout=self._timeout)
            self._writers = cast(dist.ProcessGroup, group)  # every process is a member
        group = self._writers
        draft = create_draft(path, group)
        files = dcp.FileSystemWriter(draft, per_thread_copy_ahead=0)  # all tensors will be on the host
        # Copies before it returns. The copy that torch's writer makes by default leaves out DTensors that are scalars.
        stager = DefaultStager(StagingOptions(False, False, False, False))
        written = dcp.async_save(state, storage_writer=files, process_group=group, async_stager=stager)
        assert isinstance(written, Future)  # staging is over

        def finish() -> None:
            written.result()
            write_rest(draft)

        writer.submit(complete_draft, path, finish, group)

    def teardown(self) -> None:
        """Lightning's does not wait for checkpoints in the background; the first failed one is raised."""
        super().teardown()
        self.checkpoint_io.teardown()

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads a folder written by any number of processes, or a file of another strategy."""
        import torch.distributed.checkpoint as dcp

        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir() and is_zero(path):
            raise MisconfigurationException(
                f"{path} was written by DeepSpeed: go on with the same trainer/deepspeed_zero*.yaml, or start a new "
                "run from its weights by --model.weights"
            )
        assert self.model is not None
        parallel.reshard(self.model)
        saved = super().load_checkpoint(path, True)
        if path.is_dir():
            names = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
            parameters = dict(self.model.named_parameters())
            ema = {name: torch.empty_like(p) for name, p in parameters.items() if f"ema.{name}" in names}
            if ema:
                dcp.load({"ema": ema}, storage_reader=dcp.FileSystemReader(path))
                saved["ema"] = ema
        return saved

    def mesh(self) -> DeviceMesh:
        """Processes as `[replicas, shards]`, or `[shards]` with one replica."""
        world, group = self.world_size, self.group or self.world_size
        if world % group:
            raise MisconfigurationException(f"{world} processes are no multiple of strategy.group {group}")
        if group == world:
            return init_device_mesh(self.root_device.type, (world,), mesh_dim_names=("shards",))
        return init_device_mesh(self.root_device.type, (world // group, group), mesh_dim_names=("replicas", "shards"))


class ZeROStrategy(DeepSpeedStrategy):
    """DeepSpeed's ZeRO: shards optimiser states (stage 1), gradients too (2), weights too (3).

    DeepSpeed clips gradients itself, by norm; a checkpoint is resumed with as many processes as wrote it. In evaluation
    each process, of any number, holds the whole weights, in float32, without DeepSpeed.

    Args:
        stage: 1, 2 or 3.
        universal: the checkpoint to resume from was converted for another number of processes (see `load_checkpoint`).
        timeout_s: seconds that a process waits for the others; then it ends with an error.
    """

    def __init__(self, stage: int = 2, universal: bool = False, timeout_s: int = 600) -> None:
        super().__init__(
            stage=stage,
            logging_batch_size_per_gpu=1,  # only for DeepSpeed's own log
            timeout=timedelta(seconds=timeout_s),
        )
        assert isinstance(self.config, dict)  # made by Lightning from the arguments above
        if universal:
            self.config["checkpoint"] = {"load_universal": True}

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)  # skips Lightning's check for CUDA

    def setup_distributed(self) -> None:
        import deepspeed

        if self.root_device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
            self._process_group_backend = "gloo"
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # its kernel needs a compiler; gloo does not
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(
        self, model: nn.Module, optimizer: torch.optim.Optimizer | None, lr_scheduler: Any = None
    ) -> tuple[Any, Any]:
        """As Lightning's, except that it works without a device index (CPU) and keeps buffers in their precision."""
        import deepspeed

        self.scalars = [name for name, parameter in model.named_parameters() if parameter.ndim == 0]
        for name in self.scalars:
            parameter = model.get_parameter(name)
            parameter.data = parameter.data.view(1)  # DeepSpeed cannot send scalars; `read_zero` restores them
        buffers = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        engine, zero_optimizer, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.local_rank),
            config=self.config,
            model=model,
            # pyrefly: ignore[bad-argument-type] DeepSpeed annotates the parameters as a module
            model_parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        for name, buffer in model.named_buffers():
            buffer.data = buffers[name].to(buffer.device)  # pixels are normalised, and targets computed, in float32
        return engine, zero_optimizer

    def _initialize_deepspeed_inference(self, model: nn.Module) -> None:
        """Lightning's needs as many processes as trained, and a device index, which a CPU has not."""
        self.model = model.to(self.root_device)

    @property
    def _fitting(self) -> bool:
        return self.lightning_module is not None and self.lightning_module.trainer.state.fn == TrainerFn.FITTING

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Without DeepSpeed's division of the loss by the number of micro-batches, which Lightning has done."""
        return super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def optimizer_step(
        self,
        optimizer: torch.optim.Optimizer,
        closure: Callable[[], Any],
        model: Any = None,
        **options: Any,
    ) -> Any:
        """Called for each micro-batch; the last one of a step takes the step."""
        engine = self.deepspeed_engine
        if engine.micro_steps % engine.gradient_accumulation_steps() == 0:
            self._clamp_parameters()
        taken = engine.is_gradient_accumulation_boundary()
        result = super().optimizer_step(optimizer, closure, model, **options)
        norm = engine.get_global_grad_norm()  # before clipping
        if taken and norm is not None and self.lightning_module is not None:
            self.lightning_module.log("grad_norm", norm)
        return result

    def _clamp_parameters(self) -> None:
        """Clamps the float32 weights of DeepSpeed's optimiser as the objective's forward pass clamps its own."""
        from deepspeed import utils

        if self.deepspeed_engine.zero_optimization_stage() == 3:
            read, write = utils.safe_get_local_fp32_param, utils.safe_set_local_fp32_param
        else:
            read, write = utils.safe_get_full_fp32_param, utils.safe_set_full_fp32_param
        assert self.lightning_module is not None
        for name, bounds in cast(_Objective, self.lightning_module).bounds.items():
            parameter = self.lightning_module.get_parameter(name)
            if not parameter.requires_grad:
                continue
            value = read(parameter)
            assert value is not None  # None only for parameters outside the optimiser
            write(parameter, value.clamp(*bounds))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any | None = None) -> None:
        """Each process writes its shards into one folder, which is complete or absent."""
        checkpoint["scalars"] = self.scalars
        write = super().save_checkpoint
        save_sharded(Path(self.broadcast(filepath)), lambda draft: write(checkpoint, draft))

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """Loads a folder that DeepSpeed wrote with as many processes.

        For another number of processes: `python -m deepspeed.checkpoint.ds_to_universal --input_folder CKPT/checkpoint
        --output_folder OUT/checkpoint --inject_missing_state`, then `--ckpt_path OUT` and `universal: true`.
        """
        path = Path(self.broadcast(checkpoint_path))
        if not path.is_dir() or not is_zero(path):
            raise MisconfigurationException(
                f"{path} was not written by DeepSpeed: go on with it by trainer/ddp.yaml or trainer/fsdp.yaml, or "
                "start a new run from its weights by --model.weights"
            )
        if not self._fitting:
            return read_sharded(path)
        parts = len(list((path / "checkpoint").glob("*optim_states.pt")))
        assert isinstance(self.config, dict)
        if "checkpoint" not in self.config and parts != self.world_size:
            raise MisconfigurationException(
                f"{path} is of {parts} processes, this run has {self.world_size}: go on with {parts}, or convert it "
                f"(python -m deepspeed.checkpoint.ds_to_universal --input_folder {path}/checkpoint --output_folder "
                "OUT/checkpoint --inject_missing_state; then --ckpt_path OUT --trainer.strategy.universal true)"
            )
        return super().load_checkpoint(path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """In training DeepSpeed has loaded them in `load_checkpoint`."""
        if not self._fitting:
            assert self.lightning_module is not None
            self.lightning_module.load_state_dict(checkpoint["state_dict"], strict=strict)
