"""Reads the tensors of a checkpoint file or folder, without running any code that it may contain."""

import json
import pickle
from difflib import get_close_matches
from pathlib import Path

import torch
from torch import Tensor

from models.convert.claims import require_held
from models.convert.foreign import mistaken, stand_ins
from models.convert.integrity import MANIFEST, is_complete_folder, is_zip, refusal, require_undamaged
from models.convert.sharded import is_sharded, read_sharded
from models.convert.torchscript import is_script, read_script
from models.convert.zero import is_zero_step, read_zero_step
from models.fetch import local_path
from models.releases import RELEASES

# The first that is present counts: `ema` are LaVie's weights; beside `state_dict` it is our own running average.
_WRAPPERS = ("state_dict", "ema", "model", "module", "model_state_dict", "model_state")
_AVERAGES = ("model_ema", "ema_model", "state_dict_ema", "ema_state_dict", "ema_weights")  # if there is nothing else
_WEIGHT_FILES = (
    *("model.safetensors", "pytorch_model.bin"),
    *("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
)
_INDEX = ".index.json"  # of weights in several files
_PREFIXES = ("_orig_mod.", "module.", "_forward_module.", "model.", "backbone.")


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """The state dict in `path`: a `.safetensors`, a `.pt`/`.pth`/`.ckpt`/`.bin` file (TorchScript too), or a
    folder of transformers' or diffusers', the index of weights in several files, or a sharded training checkpoint; or
    one of these by a release's name or an address (see `models.fetch`).

    Wrappers (`model`, `module`, `state_dict`) and prefixes from compilation, wrappers or older code are removed.

    Raises:
        FileNotFoundError: the path does not exist, or the folder contains no weights.
        ValueError: the file is cut short or damaged (see `integrity`), contains no tensors, or contains pickled code.
    """
    path = local_path(path)
    if not path.exists():
        near = get_close_matches(str(path), RELEASES, 1, 0.75)
        raise FileNotFoundError(f"no checkpoint at {path}" + (f": did you mean the release {near[0]}?" if near else ""))
    if not path.is_file() and not path.is_dir():
        raise ValueError(f"{path} is no regular file")
    if path.is_dir() and is_sharded(path):
        if (path / MANIFEST).is_file() and not is_complete_folder(path):
            raise ValueError(f"{path} is cut or damaged: a file in it has another checksum than when it was written")
        return strip_prefixes(read_sharded(path, lambda part: part == "state_dict")["state_dict"])
    if path.is_dir() and is_zero_step(path):
        return strip_prefixes(read_zero_step(path)["state_dict"])
    if path.is_dir():
        files = _weight_files(path)
    else:
        files = [path.parent / name for name in _shard_names(path)] if path.name.endswith(_INDEX) else [path]
    state: dict[str, Tensor] = {}
    for file in files:
        state.update(_read_file(file))
    return strip_prefixes(state)


def _weight_files(folder: Path) -> list[Path]:
    # transformers' names, diffusers' names
    for name in ("model.safetensors", "pytorch_model.bin", *_WEIGHT_FILES[2:]):
        index = folder / f"{name}{_INDEX}"
        if index.exists():
            return [folder / name for name in _shard_names(index)]
    for name in _WEIGHT_FILES:
        if (folder / name).exists():
            return [folder / name]
    if (folder / "unet").is_dir():  # a pipeline of diffusers
        return _weight_files(folder / "unet")
    if checkpoint := max(folder.glob("checkpoints/*.ckpt"), default=None):
        raise FileNotFoundError(f"{folder} is the folder of a run: name one of its checkpoints, such as {checkpoint}")
    raise FileNotFoundError(
        f"{folder} has neither {', '.join(_WEIGHT_FILES[:-1])} nor {_WEIGHT_FILES[-1]}, and is no sharded training "
        "checkpoint"
    )


def _shard_names(index: Path) -> list[str]:
    """The files that an index of transformers names, which lie beside it."""
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        plain = all(Path(name).name == name for name in names)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index} is damaged or no index of weights ({type(error).__name__}: {error})") from error
    if not plain:
        raise ValueError(f"{index} names files outside its folder")
    return names


def _read_file(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise ValueError(f"{file} is no regular file, or is not there")
    if what := mistaken(file):
        raise ValueError(f"{file} {what}")
    require_undamaged(file)
    if file.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(file)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a whole safetensors file: {error}") from error
    if is_script(file):
        return read_script(file)
    try:
        with file.open("rb") as stream:
            names = require_held(stream)
        with torch.serialization.safe_globals(stand_ins(names)):
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip(file))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{file} cannot be read as weights only (cut short, or holding pickled code): {refusal(error)}"
        ) from error
    return _unwrap(found, file)


def _unwrap(found: object, file: Path) -> dict[str, Tensor]:
    while isinstance(found, dict):
        inner = next((found[key] for key in (*_WRAPPERS, *_AVERAGES) if isinstance(found.get(key), dict)), None)
        if inner is None:
            break
        found = inner
    tensors = {k: v for k, v in found.items() if isinstance(v, Tensor)} if isinstance(found, dict) else {}
    if not tensors:
        raise ValueError(f"{file} holds no state dict (searched under {', '.join(_WRAPPERS)} and at the top)")
    return tensors


def strip_prefixes(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Removes prefixes that all names share, one after another."""
    while True:
        prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in state)), None)
        if prefix is None:
            return {name.replace("_orig_mod.", ""): tensor for name, tensor in state.items()}
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
