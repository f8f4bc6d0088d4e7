"""Visible patches are taken as bytes and normalised after: the same tokens, and no normalised copy of the video."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import models
from models.layers import Normalize
from pretrain.export.load_run import build
from tests.helpers.methods import METHODS, resolved

VIDEO = torch.randint(0, 256, (2, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
KEEP = torch.tensor([[0, 5, 10, 15, 18, 21, 24, 30], [1, 2, 4, 7, 9, 16, 20, 29]])[:, [0, 2, 4, 6]]
STATISTICS = Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
ENCODERS = {
    "VideoViT": lambda: models.VideoViT(16, 2, 2, 32, patch=8, tubelet=2, frames=4, size=32),
    "ViCLIPVision": lambda: models.ViCLIPVision(16, 2, 2, 32, 8, 2, frames=4, size=32, out=8),
    "UniFormerV2": lambda: models.UniFormerV2(16, 2, 2, 32, 8, frames=4, size=32, out=8, reads=(1,)),
    "UniFormerV2, overlapping": lambda: models.UniFormerV2(
        16, 2, 2, 32, 8, frames=4, size=32, out=8, reads=(1,), downsample=True
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_bytes_give_the_same_tokens(name: str) -> None:
    encoder = ENCODERS[name]().eval()
    keep = KEEP if name.startswith("Vi") else None
    right = encoder(STATISTICS(VIDEO), keep)
    with pytest.raises(ValueError, match="without their statistics"):
        encoder(VIDEO, keep)
    encoder.patch_embed.normalize = STATISTICS
    torch.testing.assert_close(encoder(VIDEO, keep), right, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(encoder(STATISTICS(VIDEO), keep), right, atol=0, rtol=0)


class LargestNormalized(TorchDispatchMode):
    """Counts the elements of the largest tensor of normalised pixels."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ == "addcmul":
            self.elements = max(self.elements, out.numel())
        return out


@pytest.mark.parametrize("method", ["videomae", *(pytest.param(m, marks=pytest.mark.slow) for m in ("viclip", "vilp"))])
def test_a_step_normalises_the_visible_patches_only(method: str, capsys: pytest.CaptureFixture) -> None:
    few = ["--data.init_args.frames=4", "--data.init_args.size=64", "--model.init_args.mask.init_args.ratio=0.9"]
    objective = build(resolved(capsys, METHODS[method], *few)["model"]).train()
    video = torch.zeros(2, 3, 4, 64, 64, dtype=torch.uint8)
    batch = {"video": video, "name": ["a", "b"], "text": ["a red circle", "a blue square"]}
    keep = {}
    objective.encoder.patch_embed.register_forward_pre_hook(lambda _, given: keep.update(tokens=given[1].shape[1]))
    with LargestNormalized() as largest:
        objective(batch)
    _, rows, columns = objective.encoder.grid
    share = keep["tokens"] / (rows * columns * objective.encoder.grid[0])
    assert 0 < largest.elements <= share * video.numel() and share < 0.3
