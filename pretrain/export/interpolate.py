"""WiSE-FT: interpolates between fine-tuned weights and the weights that fine-tuning started from (2109.01903)."""

from collections.abc import Sequence
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch import Tensor, nn

from datamodules.storage.whole_files import whole_file
from models import load_weights


def interpolate(tuned: dict[str, Tensor], start: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """alpha * tuned + (1 - alpha) * start for tensors that both have, `tuned` for the others.

    Raises:
        ValueError: alpha is not between 0 and 1, or the shapes of a tensor differ.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is the share of the tuned weights, from 0 to 1, not {alpha}")
    state = dict(tuned)
    for name in tuned.keys() & start.keys():
        if tuned[name].shape != start[name].shape:
            raise ValueError(
                f"{name} is {tuple(tuned[name].shape)} in the tuned weights and {tuple(start[name].shape)} in the "
                "others: they are not of one architecture"
            )
        if tuned[name].is_floating_point():
            mean = alpha * tuned[name].double() + (1 - alpha) * start[name].to(tuned[name].device).double()
            state[name] = mean.to(tuned[name].dtype)
    return state


def interpolate_into(model: nn.Module, start: str, alpha: float) -> list[str]:
    """Interpolate a model's weights with a checkpoint of any layout that `load_weights` reads; returns the names of the
    tensors that only the model has, which stay: for ViCLIP and CLIP the temporal table and the temperature.

    Source: the released runs named `wiseft05` (InternVid, 2307.06942): alpha 0.5, and CLIP.
    """
    tuned = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = load_weights(model, start)
    loaded = {name: model.state_dict()[name] for name in report.loaded}
    try:
        state = interpolate(tuned, loaded, alpha)
    except ValueError:
        model.load_state_dict(tuned)
        raise
    model.load_state_dict(state)
    return [name for name in tuned if name not in loaded]


def write_interpolated(tuned: str, start: str, alpha: float, out: Path, trust: Sequence[str] = ()) -> list[str]:
    """Write a checkpoint with interpolated weights and without optimiser states; returns as `interpolate_into`.

    Args:
        trust: as in `load_objective`.

    Raises:
        FileNotFoundError, ValueError: a checkpoint is missing, damaged or of another architecture; `out` exists.
    """
    from pretrain.export.load_run import load_objective, read_checkpoint

    if out.exists():
        raise ValueError(f"{out} exists already: choose another --out")
    model, facts = load_objective(tuned, trust=trust)
    only_tuned = interpolate_into(model, start, alpha)
    saved = read_checkpoint(facts["checkpoint"])
    for part in ("optimizer_states", "lr_schedulers", "loops", "callbacks", "ema"):
        saved.pop(part, None)
    with whole_file(out, "wb") as file:
        torch.save({**saved, "state_dict": model.state_dict()}, file)
    return only_tuned


class WiseFT(pl.Callback):
    """Tests or predicts with weights interpolated between the run's and those of a checkpoint; nothing is written.

    Args:
        start: the checkpoint that fine-tuning started from, such as CLIP's.
        alpha: weight of the run's own weights; 0.5 in ViCLIP's and InternVideo's zero-shot results.
    """

    def __init__(self, start: str, alpha: float = 0.5) -> None:
        self.start, self.alpha = start, alpha
        self.fact = ""  # the change of weights, for the tables of results and the index

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        with torch.no_grad():
            only_tuned = interpolate_into(pl_module, self.start, self.alpha)
        kept = f"{len(only_tuned)} tensors that are not in it as they were" if only_tuned else "all tensors"
        self.fact = f"WiSE-FT {self.alpha:g} with {self.start}, {kept}"

    on_predict_start = on_test_start
