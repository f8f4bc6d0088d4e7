"""RAFT: torchvision's large model with the official weights, whose names are translated here.

torchvision's `C_T_V1` are these weights under its own names; both layouts load.

Letters in shapes: n pairs of frames, H and W pixels.
"""

import re
from collections.abc import Mapping

from torch import Tensor, nn
from torchvision.models.optical_flow import raft_large

from pretrain.metrics.vbench.flow import FramesTooSmall

ITERATIONS = 20

# Official names to torchvision's, in order: the first pattern that matches a name is used.
_RULES = [
    (r"^fnet\.", "feature_encoder."),
    (r"^cnet\.", "context_encoder."),
    (r"^update_block\.encoder\.convc(\d)\.", r"update_block.motion_encoder.convcorr\1.0."),
    (r"^update_block\.encoder\.convf(\d)\.", r"update_block.motion_encoder.convflow\1.0."),
    (r"^update_block\.encoder\.conv\.", "update_block.motion_encoder.conv.0."),
    (r"^update_block\.gru\.conv([zrq])(\d)\.", r"update_block.recurrent_block.convgru\2.conv\1."),
    (r"^update_block\.flow_head\.", "update_block.flow_head."),
    (r"^update_block\.mask\.0\.", "mask_predictor.convrelu.0."),
    (r"^update_block\.mask\.2\.", "mask_predictor.conv."),
]
_ENCODER = [
    (r"encoder\.conv1\.", "encoder.convnormrelu.0."),
    (r"encoder\.norm1\.", "encoder.convnormrelu.1."),
    (r"encoder\.conv2\.", "encoder.conv."),
    (r"(layer\d\.\d)\.conv(\d)\.", r"\1.convnormrelu\2.0."),
    (r"(layer\d\.\d)\.norm([12])\.", r"\1.convnormrelu\2.1."),
]


def torchvision_name(name: str) -> str:
    """torchvision's name of an official tensor; ValueError if it has none."""
    for pattern, replacement in _RULES:
        if re.search(pattern, name):
            name = re.sub(pattern, replacement, name)
            break
    else:
        raise ValueError(f"no tensor of RAFT's large model: {name}")
    if name.startswith(("feature_encoder.", "context_encoder.")):
        for pattern, replacement in _ENCODER:
            name = re.sub(pattern, replacement, name)
    return name


def translate(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Official weights under torchvision's names. A block's third norm is the norm of its shortcut, stored twice."""
    named = {re.sub(r"^module\.", "", name): tensor for name, tensor in weights.items()}
    return {
        torchvision_name(name): tensor for name, tensor in named.items() if not re.search(r"layer\d\.\d\.norm3\.", name)
    }


class RAFT(nn.Module):
    """The flow after 20 iterations, in pixels."""

    def __init__(self, iterations: int = ITERATIONS) -> None:
        super().__init__()
        self.net, self.iterations = raft_large(weights=None, progress=False), iterations
        self.eval().requires_grad_(False)

    def load(self, weights: Mapping[str, Tensor]) -> "RAFT":
        """Load official or torchvision's weights; every key must find its place."""
        official = any("fnet." in name for name in weights)
        self.net.load_state_dict(translate(weights) if official else dict(weights))
        return self

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Flow `[n, 2, H, W]` from `a` to `b`, `[n, 3, H, W]` in 0 to 255, sides multiples of 8 and at least 128.

        Raises:
            FramesTooSmall: smaller frames, which the correlation pyramid cannot halve three times.
        """
        if min(a.shape[-2:]) < 128:
            raise FramesTooSmall(f"RAFT needs frames of 128 x 128 pixels or more, not {a.shape[-2]} x {a.shape[-1]}")
        return self.net(a / 127.5 - 1, b / 127.5 - 1, num_flow_updates=self.iterations)[-1]
