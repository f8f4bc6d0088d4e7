"""Reads DeepSpeed's checkpoints of ZeRO stages 1, 2 and 3 without DeepSpeed: flat partitions to named tensors."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.convert.claims import require_held
from models.convert.foreign import stand_ins


class _Record:
    """Replaces DeepSpeed's classes: the fields of an object, ignoring its constructor's arguments."""

    def __init__(self, *_: Any) -> None:
        pass


_SAFE: list[Callable | tuple[Callable, str]] = [
    (_Record, "deepspeed.utils.tensor_fragment.fragment_address"),
    (_Record, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Record, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Record, "deepspeed.runtime.zero.config.ZeroStageEnum"),
]


def is_zero(folder: Path) -> bool:
    """Whether a folder is a DeepSpeed checkpoint."""
    return (folder / "latest").is_file()


def is_zero_step(folder: Path) -> bool:
    """Whether a folder is that of one step of a DeepSpeed checkpoint, such as `global_step100`."""
    return bool(_files(folder, "model_states"))


def read_zero(folder: Path) -> dict[str, Any]:
    """The run's own entries, and `state_dict` with full tensors in the optimiser's precision (float32).

    Raises:
        KeyError, RuntimeError: a partition is missing, or DeepSpeed has changed its layout.
    """
    return read_zero_step(folder / _latest(folder), whole=True)


def read_zero_step(step: Path, whole: bool = False) -> dict[str, Any]:
    """As `read_zero`, of the folder of one step.

    Without states of the optimiser, as of stage 0, the weights are those of the model, in its own precision; with
    `whole` that is an error at other stages.
    """
    models, optimizers = _files(step, "model_states"), _files(step, "optim_states")
    if not models:
        raise RuntimeError(f"{step} lacks model_states")
    first = _load(models[0], foreign=True)
    if not optimizers and whole and first.get("param_shapes"):
        raise RuntimeError(f"{step} lacks optim_states")
    if not optimizers:
        return _without_optimizer(step, first)
    world = first["dp_world_size"]
    if len(optimizers) != world:
        raise RuntimeError(f"only {len(optimizers)} of {world} optim_states exist")
    partitions = [_load(file, foreign=True)["optimizer_state_dict"] for file in optimizers]
    shapes = [dict(group) for group in first["param_shapes"]]
    _check_once_each(step, [*shapes, dict(first.get("frozen_param_shapes") or {})])
    if "fp32_flat_groups" in partitions[0]:
        frozen = (
            dict(_frozen(first, [_load(file, foreign=True) for file in models])) if first["frozen_param_shapes"] else {}
        )
        buffers = {name: first["module"][name] for name in first["buffer_names"]}
        state = {**buffers, **frozen, **dict(_stage_3(shapes, partitions))}
    else:
        state = {**first["module"], **dict(_stage_1_2(shapes, partitions))}
    state |= {name: state[same] for name, same in dict(first["shared_params"]).items()}
    own = {name: first[name] for name in first if name not in _DEEPSPEED}
    for name in own.pop("scalars", []):
        state[name] = state[name].reshape(())
    return {"state_dict": {name: tensor.detach() for name, tensor in state.items()}, **own}


def _without_optimizer(step: Path, first: dict[str, Any]) -> dict[str, Any]:
    shapes = {name: shape for group in first.get("param_shapes") or [] for name, shape in group.items()}
    lost = [
        name for name, shape in shapes.items() if name not in first["module"] or first["module"][name].shape != shape
    ]
    if lost:
        raise RuntimeError(f"{step} lacks optim_states, which hold the weights of stage 3 ({lost[0]} and others)")
    own = {name: first[name] for name in first if name not in _DEEPSPEED}
    return {"state_dict": first["module"], **own}


def require_plain_files(folder: Path) -> None:
    """Raise UnpicklingError if a file holds more than tensors, plain values and the classes above.

    DeepSpeed unpickles whatever they name when a run is resumed.
    """
    _latest(folder)
    for file in folder.rglob("*.pt"):
        _load(file)


def _latest(folder: Path) -> str:
    """The name of the subfolder that holds the newest step."""
    name = (folder / "latest").read_text().strip()
    if not name or Path(name).name != name:
        raise ValueError(f"its file `latest` names {name!r}, which is no folder in it")
    return name


# DeepSpeed's own entries in a file of model states.
_DEEPSPEED = {
    "module",
    "buffer_names",
    "optimizer",
    "param_shapes",
    "frozen_param_shapes",
    "shared_params",
    "frozen_param_fragments",
    "lr_scheduler",
    "data_sampler",
    "random_ltd",
    "sparse_tensor_module_names",
    "skipped_steps",
    "global_steps",
    "global_samples",
    "dp_world_size",
    "mp_world_size",
    "checkpoint_parallel_dimensions",
    "ds_config",
    "ds_version",
}


def _files(folder: Path, kind: str) -> list[Path]:
    """Files of a kind sorted by rank, which their names contain without leading zeros."""
    return sorted(folder.glob(f"*{kind}.pt"), key=lambda file: [int(n) for n in re.findall(r"\d+", file.name)])


def _load(file: Path, foreign: bool = False) -> dict[str, Any]:
    """The contents of a file; with `foreign`, inert stand-ins for the objects of other packages in it."""
    if not file.is_file():
        raise ValueError(f"{file.name} is no regular file")
    with file.open("rb") as stream:
        names = require_held(stream)
    with torch.serialization.safe_globals([*_SAFE, *(stand_ins(names, _SAFE) if foreign else [])]):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def _check_once_each(folder: Path, shapes: list[dict[str, torch.Size]]) -> None:
    """ValueError if the parameters claim more bytes than the files have: many names may be given to the same ones."""
    held = sum(file.stat().st_size for file in folder.glob("*.pt"))
    claimed = 2 * sum(size.numel() for group in shapes for size in group.values())
    if claimed > held:
        raise ValueError(f"its parameters claim {claimed} bytes or more, and its files have {held}")


def _stage_1_2(shapes: list[dict[str, torch.Size]], partitions: list[dict]) -> Iterator[tuple[str, Tensor]]:
    """Each group of parameters is one flat tensor, split over ranks: a parameter may span several ranks."""
    for i, group in enumerate(shapes):
        for name, shape in group.items():
            parts = []
            for partition in partitions:
                if name in partition["param_slice_mappings"][i]:
                    at = partition["param_slice_mappings"][i][name]
                    parts.append(partition["single_partition_of_fp32_groups"][i][at.start : at.start + at.numel])
            yield name, torch.cat(parts).view(shape)


def _stage_3(shapes: list[dict[str, torch.Size]], partitions: list[dict]) -> Iterator[tuple[str, Tensor]]:
    """Each parameter is split over ranks, the last slice padded; a rank's slices are concatenated."""
    flat = [torch.cat([group.flatten() for group in partition["fp32_flat_groups"]]) for partition in partitions]
    start = 0
    for group in shapes:
        for name, shape in group.items():
            length = -(-shape.numel() // len(partitions))
            yield name, torch.cat([rank[start : start + length] for rank in flat])[: shape.numel()].view(shape)
            start += length
    if not 0 <= len(flat[0]) - start < 2 * len(partitions) * sum(len(group) for group in shapes):
        raise RuntimeError(f"a flat partition has {len(flat[0])} elements, and its parameters have {start}")


def _frozen(first: dict, files: list[dict]) -> Iterator[tuple[str, Tensor]]:
    for name, shape in first["frozen_param_shapes"].items():
        parts = [file["frozen_param_fragments"][name].flatten() for file in files]
        yield name, torch.cat(parts)[: shape.numel()].view(shape)
