"""Windows cover a video, agree on the frames that they share, and give what one window gives where frames are apart."""

import itertools
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.interpolation import copied_frames
from models.diffusion.schedules import alpha_bar_of, linear_betas
from models.diffusion.unet import UNET_SIZES, SpatioTemporalUNet
from pretrain.generation.pieces import Pieces
from pretrain.generation.sampling import Joint
from pretrain.generation.settings import LAVIE, StageSettings
from pretrain.generation.streaming import interpolation_condition, interpolation_windows, stream, vsr_windows
from pretrain.generation.weights import Networks
from pretrain.generation.windows import ramp, windows

SIZE = (4, 4)  # of the latents
FRAMES = 13  # also of four frames, interpolated


LAYOUTS = [(61, 8, 2, 1), (9, 8, 0, 1), (8, 8, 2, 1), (3, 8, 2, 1), (77, 61, 5, 4), (125, 61, 5, 4)]


@pytest.mark.parametrize(("frames", "length", "overlap", "unit"), LAYOUTS)
def test_each_frame_is_finished_once_and_windows_have_one_length(
    frames: int, length: int, overlap: int, unit: int
) -> None:
    layout = windows(frames, length, overlap, unit)
    finished = [frame for window in layout for frame in range(window.start, window.final)]
    assert finished == list(range(frames))
    assert {window.stop - window.start for window in layout} == {min(length, frames)}
    assert all(window.start % unit == 0 for window in layout)
    for before, window in itertools.pairwise(layout):
        assert window.shared == before.stop and before.stop - window.start >= overlap


def test_windows_of_interpolation_are_conditioned_as_the_whole_clip() -> None:
    layout = interpolation_windows(24, LAVIE["interpolation"])
    assert len(layout) == 2 and layout[-1].stop == 93
    for window in layout:  # as for a clip of its own that starts there
        local = copied_frames(16) + window.start // 4
        assert torch.equal(copied_frames(24)[window.start : window.stop], local)


def test_windows_of_interpolation_must_share_a_frame() -> None:
    apart = StageSettings(window=16, overlap=0)
    with pytest.raises(ValueError, match="overlap of 1 or more"):
        interpolation_windows(20, apart)
    assert len(interpolation_windows(16, apart)) == 1
    with pytest.raises(ValueError, match="nothing to interpolate"):
        interpolation_windows(1, apart)
    with pytest.raises(ValueError, match="overlap of 9 frames"):
        StageSettings(window=16, overlap=9)


def test_the_previous_window_fades_out() -> None:
    assert ramp(3).tolist() == [0.75, 0.5, 0.25] and ramp(0).tolist() == []


class Codec:
    """Latents as pixels, for networks of four channels."""

    def decode(self, latents: Tensor) -> Tensor:
        return (latents[0, :3].permute(1, 2, 3, 0) * 32 + 128).clamp(0, 255).round().byte()

    def encode(self, video: Tensor) -> Tensor:
        latents = video.permute(3, 0, 1, 2)[None].float() / 128 - 1
        return torch.cat((latents, latents[:, :1]), dim=1)


def networks(stage: str, over_time: bool) -> Any:
    """Random networks of a stage; a fresh one adds nothing over time, and then treats each frame by itself."""
    torch.manual_seed(0)
    options = {**UNET_SIZES[f"tiny_{stage}"], "norm_over_frames": False, "buckets": 0, "rotary": 0}
    if stage == "interpolation":
        options["spatial"] = "self"
    unet = SpatioTemporalUNet(**options).eval().requires_grad_(False)
    if over_time:
        for name, parameter in unet.named_parameters():
            if "temporal" in name and not parameter.any():
                nn.init.normal_(parameter, std=0.02)
    texts: Any = lambda prompt: torch.full((1, 3, 32), float(len(prompt)))  # noqa: E731
    return Networks(unet, cast(Any, Codec()), texts, "v", alpha_bar_of(linear_betas()), "")


def run(parts: Any, stage: str, folder: Path, window: int, overlap: int, frames: int = FRAMES) -> Tensor:
    """The frames of a stage in windows."""
    settings = StageSettings(steps=4, guidance=2.0, sampler="ddim", window=window, overlap=overlap)
    drawn = torch.Generator().manual_seed(1)
    if stage == "interpolation":
        video = torch.randint(0, 256, (4, *SIZE, 3), generator=drawn, dtype=torch.uint8)
        source = type("Clip", (), {"__len__": lambda self: 4, "read": lambda self, a, b: video[a:b]})()
        layout, condition = interpolation_windows(4, settings), interpolation_condition(parts, source)
    else:
        low = torch.randn(1, 3, frames, *SIZE, generator=drawn)
        layout, condition = vsr_windows(frames, settings), lambda a, b: low[:, :, a:b]
    pieces = Pieces(folder, 8.0)
    stream(stage, parts, settings, 5, SIZE, "a prompt", layout, condition, pieces, lambda steps: None)
    assert not list(folder.glob("joint-*")) or len(layout) == 1
    assert len(pieces.starts) == len(layout)
    return pieces.read(0, frames).float()


@pytest.mark.parametrize(
    ("stage", "whole", "window", "overlap"), [("vsr", 13, 6, 2), ("vsr", 13, 6, 0), ("interpolation", 4, 3, 1)]
)
def test_one_window_and_many_agree(stage: str, whole: int, window: int, overlap: int, tmp_path: Path) -> None:
    """Where frames do not depend on each other, windows change nothing but rounding."""
    parts = networks(stage, over_time=False)
    one = run(parts, stage, tmp_path / "one", whole, min(overlap, whole // 2))
    many = run(parts, stage, tmp_path / "many", window, overlap)
    assert one.std() > 5 and (one - many).abs().max() <= 1


def test_shared_frames_leave_no_seam(tmp_path: Path) -> None:
    """With a network that works over time, what windows change moves evenly from frame to frame if they overlap."""
    parts = networks("vsr", over_time=True)
    one = run(parts, "vsr", tmp_path / "one", 14, 0, 14)
    jumps = {}
    for overlap in (0, 3):
        change = run(parts, "vsr", tmp_path / f"overlap{overlap}", 7, overlap, 14) - one
        jumps[overlap] = float((change[1:] - change[:-1]).abs().mean(dim=(1, 2, 3)).max())
    assert jumps[0] > 1 and jumps[3] < 0.6 * jumps[0], jumps


def test_a_joint_of_windows_follows_the_previous_one() -> None:
    steps, before = 3, torch.randn(3, 1, 2, 2, 1, 1)
    joint = Joint(before, kept=1)
    predict = joint.wrap(lambda x, timestep: cast(Tensor, x) * 0)
    for step in range(steps):
        output = predict(torch.ones(1, 2, 4, 1, 1), torch.zeros(1))
        weight = torch.tensor([2 / 3, 1 / 3])[:, None, None]
        assert torch.allclose(output[:, :, :2], before[step] * weight) and not output[:, :, 2:].any()
    assert [tuple(kept.shape) for kept in joint.predictions] == [(1, 2, 1, 1, 1)] * steps
