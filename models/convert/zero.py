"""DeepSpeed's checkpoints of ZeRO stages 1, 2 and 3, read without DeepSpeed: flat pieces back to named tensors."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


class _Record:
    """A record of DeepSpeed's, by its fields; of those that are not needed here, nothing but that they are there."""

    def __init__(self, *_: Any) -> None:
        pass


_SAFE = [
    (_Record, "deepspeed.utils.tensor_fragment.fragment_address"),
    (_Record, "deepspeed.runtime.fp16.loss_scaler.LossScaler"),
    (_Record, "deepspeed.runtime.fp16.loss_scaler.DynamicLossScaler"),
    (_Record, "deepspeed.runtime.zero.config.ZeroStageEnum"),
]


def is_zero(folder: Path) -> bool:
    """Whether a folder is a checkpoint of DeepSpeed."""
    return (folder / "latest").is_file()


def read_zero(folder: Path) -> dict[str, Any]:
    """The run's own entries, and `state_dict` with whole tensors in the precision that the optimiser keeps (float32).

    Raises:
        KeyError, RuntimeError: a piece is missing, or DeepSpeed has changed its layout.
    """
    place = folder / (folder / "latest").read_text().strip()
    models, optimizers = _files(place, "model_states"), _files(place, "optim_states")
    if not models or not optimizers:
        raise RuntimeError(f"{place} lacks model_states or optim_states")
    first = _load(models[0])
    world = first["dp_world_size"]
    if len(optimizers) != world:
        raise RuntimeError(f"{len(optimizers)} of {world} optim_states are there")
    pieces = [_load(file)["optimizer_state_dict"] for file in optimizers]
    shapes = [dict(group) for group in first["param_shapes"]]
    if "fp32_flat_groups" in pieces[0]:
        frozen = dict(_frozen(first, [_load(file) for file in models])) if first["frozen_param_shapes"] else {}
        buffers = {name: first["module"][name] for name in first["buffer_names"]}
        state = {**buffers, **frozen, **dict(_stage_3(shapes, pieces))}
    else:
        state = {**first["module"], **dict(_stage_1_2(shapes, pieces))}
    state |= {name: state[same] for name, same in dict(first["shared_params"]).items()}
    own = {name: first[name] for name in first if name not in _DEEPSPEED}
    for name in own.pop("scalars", []):
        state[name] = state[name].reshape(())
    return {"state_dict": {name: tensor.detach() for name, tensor in state.items()}, **own}


# What DeepSpeed itself keeps in a file of model states.
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


def _files(place: Path, kind: str) -> list[Path]:
    """Files of a kind in order of rank, which their names tell without leading zeros."""
    return sorted(place.glob(f"*{kind}.pt"), key=lambda file: [int(n) for n in re.findall(r"\d+", file.name)])


def _load(file: Path) -> dict[str, Any]:
    with torch.serialization.safe_globals(_SAFE):
        return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def _stage_1_2(shapes: list[dict[str, torch.Size]], pieces: list[dict]) -> Iterator[tuple[str, Tensor]]:
    """Each group of parameters is one flat tensor, cut over the ranks: a parameter may go on in the next rank's."""
    for number, group in enumerate(shapes):
        for name, shape in group.items():
            parts = []
            for piece in pieces:
                if name in piece["param_slice_mappings"][number]:
                    at = piece["param_slice_mappings"][number][name]
                    parts.append(piece["single_partition_of_fp32_groups"][number][at.start : at.start + at.numel])
            yield name, torch.cat(parts).view(shape)


def _stage_3(shapes: list[dict[str, torch.Size]], pieces: list[dict]) -> Iterator[tuple[str, Tensor]]:
    """Each parameter is cut over the ranks, the last piece filled up; a rank's pieces lie one after the other."""
    flat = [torch.cat([group.flatten() for group in piece["fp32_flat_groups"]]) for piece in pieces]
    start = 0
    for group in shapes:
        for name, shape in group.items():
            share = -(-shape.numel() // len(pieces))
            yield name, torch.cat([one[start : start + share] for one in flat])[: shape.numel()].view(shape)
            start += share
    if not 0 <= len(flat[0]) - start < 2 * len(pieces) * sum(len(piece) for piece in shapes):
        raise RuntimeError(f"flat pieces of {len(flat[0])} numbers hold parameters of {start}")


def _frozen(first: dict, files: list[dict]) -> Iterator[tuple[str, Tensor]]:
    for name, shape in first["frozen_param_shapes"].items():
        parts = [file["frozen_param_fragments"][name].flatten() for file in files]
        yield name, torch.cat(parts)[: shape.numel()].view(shape)
