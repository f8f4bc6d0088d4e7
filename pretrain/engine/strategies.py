"""Strategies that recipes name: FSDP2 and DeepSpeed's ZeRO, on GPUs and, for tests, on CPUs."""

import argparse
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.fabric.utilities.seed import reset_seed
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from models.convert.zero import is_zero
from pretrain.engine.sharded_checkpoint import save_together
from pretrain.learning import parallel


class FSDP2Strategy(ModelParallelStrategy):
    """Parameters, gradients and optimiser states in parts over all processes; see `parallel.shard`.

    Args:
        group: processes that share one copy of the model; None: all. With one node's GPUs, weights travel inside nodes
            only, and gradients between them (hybrid sharding).
        param_dtype: type in which parameters are gathered; bfloat16 needs trainer.precision bf16-mixed.
        reshard: see `parallel.shard`.
        timeout_s: seconds that a process waits for the others.
    """

    def __init__(
        self,
        group: int | None = None,
        param_dtype: Literal["float32", "bfloat16"] = "float32",
        reshard: bool = True,
        timeout_s: int = 1800,
    ) -> None:
        super().__init__(timeout=timedelta(seconds=timeout_s))
        self.group, self.param_dtype, self.reshard = group, getattr(torch, param_dtype), reshard

    def setup_environment(self) -> None:
        self._data_parallel_size, self._tensor_parallel_size = self.num_nodes * self.num_processes, 1
        super().setup_environment()

    def setup(self, trainer: pl.Trainer) -> None:
        if self.param_dtype == torch.bfloat16 and trainer.precision != "bf16-mixed":
            raise MisconfigurationException("param_dtype: bfloat16 needs trainer.precision bf16-mixed")
        mesh = self.mesh()
        parallel.shard(self.model, mesh, self.param_dtype, self.reshard, self.model.forward_methods)
        super().setup(trainer)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any | None = None) -> None:
        """Each process writes its parts into one folder, which is there whole or not at all."""
        import torch.distributed.checkpoint as dcp  # a third of a second that other commands need not wait

        state = {"state_dict": checkpoint.pop("state_dict")}
        state |= {f"optimizer_{i}": part for i, part in enumerate(checkpoint.pop("optimizer_states", []))}
        if "ema" in checkpoint:
            state["ema"] = checkpoint.pop("ema")

        def write(draft: Path) -> None:
            dcp.save(state, storage_writer=dcp.FileSystemWriter(draft, single_file_per_rank=True))
            if self.is_global_zero:
                torch.save(checkpoint, draft / "meta.pt")

        save_together(Path(self.broadcast(filepath)), write)

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """From a folder written by any number of processes, or from a file of another strategy."""
        import torch.distributed.checkpoint as dcp

        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir() and is_zero(path):
            raise MisconfigurationException(
                f"{path} is of a run with DeepSpeed: go on with the same trainer/deepspeed_zero*.yaml, or start a new "
                "run from its weights by --model.init_args.weights"
            )
        parallel.to_parts(self.model)
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
        """Processes as `[copies, parts]`, or `[parts]` where there is one copy."""
        world, group = self.world_size, self.group or self.world_size
        if world % group:
            raise MisconfigurationException(f"{world} processes are not whole groups of {group}: set strategy's group")
        if group == world:
            return init_device_mesh(self.root_device.type, (world,), mesh_dim_names=("parts",))
        return init_device_mesh(self.root_device.type, (world // group, group), mesh_dim_names=("copies", "parts"))


class ZeROStrategy(DeepSpeedStrategy):
    """DeepSpeed's ZeRO: optimiser states in parts (stage 1), gradients too (2), weights too (3).

    DeepSpeed clips gradients itself, by norm; a checkpoint goes on with as many processes as wrote it.

    Args:
        stage: 1, 2 or 3.
        offload: keep optimiser states in the host's memory.
        universal: the checkpoint to resume from was converted for another number of processes (see `load_checkpoint`).
        timeout_s: seconds that a process waits for the others.
    """

    def __init__(self, stage: int = 2, offload: bool = False, universal: bool = False, timeout_s: int = 1800) -> None:
        super().__init__(
            stage=stage,
            offload_optimizer=offload,
            logging_batch_size_per_gpu=1,  # of DeepSpeed's own log alone
            timeout=timedelta(seconds=timeout_s),
        )
        if universal:
            self.config["checkpoint"] = {"load_universal": True}

    def setup_environment(self) -> None:
        DDPStrategy.setup_environment(self)  # past Lightning's refusal of anything but CUDA

    def setup_distributed(self) -> None:
        import deepspeed

        if self.root_device.type == "cpu":
            os.environ["DS_ACCELERATOR"] = "cpu"
            self._process_group_backend = "gloo"
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a kernel that is compiled first; gloo does
        reset_seed()
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(
        self, model: pl.LightningModule, optimizer: torch.optim.Optimizer | None, lr_scheduler: Any = None
    ) -> tuple[Any, Any]:
        """As Lightning has it; but a CPU has no number, and buffers stay as exact as they were."""
        import deepspeed

        self.scalars = [name for name, parameter in model.named_parameters() if parameter.ndim == 0]
        for name in self.scalars:
            parameter = model.get_parameter(name)
            parameter.data = parameter.data.view(1)  # DeepSpeed cannot send a scalar; `read_zero` makes it one again
        exact = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
        engine, optimizer, _, _ = deepspeed.initialize(
            args=argparse.Namespace(device_rank=self.local_rank),
            config=self.config,
            model=model,
            model_parameters=[parameter for parameter in model.parameters() if parameter.requires_grad],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        for name, buffer in model.named_buffers():
            buffer.data = exact[name].to(buffer.device)  # pixels are normalised, and targets made, in float32
        return engine, optimizer

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> None:
        """Lightning has divided the loss by the number of accumulated parts; DeepSpeed is not to do it again."""
        super().backward(closure_loss, optimizer, *args, scale_wrt_gas=False, **kwargs)

    def optimizer_step(
        self,
        optimizer: torch.optim.Optimizer,
        closure: Callable[[], Any],
        model: Any = None,
        **options: Any,
    ) -> Any:
        """One of the step's accumulated parts, the last of which takes the step."""
        engine = self.deepspeed_engine
        if engine.micro_steps % engine.gradient_accumulation_steps() == 0:
            self._keep_in_bounds()
        taken = engine.is_gradient_accumulation_boundary()
        result = super().optimizer_step(optimizer, closure, model, **options)
        if taken:
            self.lightning_module.log("grad_norm", engine.get_global_grad_norm())  # before clipping
        return result

    def _keep_in_bounds(self) -> None:
        """What the objective's forward pass does to its weights, done to those that DeepSpeed's optimiser keeps."""
        from deepspeed import utils

        for name, bounds in self.lightning_module.bounds.items():
            parameter = self.lightning_module.get_parameter(name)
            if not parameter.requires_grad:
                continue
            if self.deepspeed_engine.zero_optimization_stage() == 3:
                utils.safe_set_local_fp32_param(parameter, utils.safe_get_local_fp32_param(parameter).clamp(*bounds))
            else:
                utils.safe_set_full_fp32_param(parameter, utils.safe_get_full_fp32_param(parameter).clamp(*bounds))

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: _PATH, storage_options: Any | None = None) -> None:
        """Each process writes its parts into one folder, which is there whole or not at all."""
        checkpoint["scalars"] = self.scalars
        write = super().save_checkpoint
        save_together(Path(self.broadcast(filepath)), lambda draft: write(checkpoint, draft))

    def load_checkpoint(self, checkpoint_path: _PATH, weights_only: bool | None = None) -> dict[str, Any]:
        """From a folder that DeepSpeed wrote with as many processes.

        With another number of them: `python -m deepspeed.checkpoint.ds_to_universal --input_folder CKPT/checkpoint
        --output_folder OUT/checkpoint --inject_missing_state`, then `--ckpt_path OUT` and `universal: true`.
        """
        path = Path(self.broadcast(checkpoint_path))
        if not path.is_dir() or not is_zero(path):
            raise MisconfigurationException(
                f"{path} was not written by DeepSpeed: go on with it by trainer/ddp.yaml or trainer/fsdp.yaml, or "
                "start a new run from its weights by --model.init_args.weights"
            )
        parts = len(list((path / "checkpoint").glob("*optim_states.pt")))
        if "checkpoint" not in self.config and parts != self.world_size:
            raise MisconfigurationException(
                f"{path} is of {parts} processes and here are {self.world_size}: go on with {parts}, or convert it "
                f"(python -m deepspeed.checkpoint.ds_to_universal --input_folder {path}/checkpoint --output_folder "
                "OUT/checkpoint --inject_missing_state; then --ckpt_path OUT --trainer.strategy.universal true)"
            )
        return super().load_checkpoint(path, weights_only)
