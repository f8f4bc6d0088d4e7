"""Runs interpolation and super-resolution over a video window by window, from file to file, with constant memory."""

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from datamodules.storage.whole_files import remove_drafts, whole_path
from models.diffusion.interpolation import copied_frames, interpolated_length
from models.diffusion.schedules import add_noise, alpha_bar_of, level_at, scaled_linear_betas
from pretrain.generation.pieces import FrameSource, Pieces
from pretrain.generation.sampling import Joint, frame_noise, sample
from pretrain.generation.settings import FACTOR, StageSettings
from pretrain.generation.weights import Networks
from pretrain.generation.windows import Window, windows

Condition = Callable[[int, int], Tensor]  # of the output's frames from one number to another, `[1, K, F, h, w]`


def interpolation_windows(frames: int, settings: StageSettings) -> list[Window]:
    """Windows over the interpolated clip of a clip of `frames` frames.

    Raises:
        ValueError: the clip is too short, or the windows do not share a frame, without which frames between two
            windows would be missing.
    """
    total = interpolated_length(frames, FACTOR)
    if settings.overlap < 1 and frames > settings.window:
        raise ValueError(
            "windows of interpolation share at least one frame of their input: set an overlap of 1 or more"
        )
    length, shared = ((each - 1) * FACTOR + 1 for each in (settings.window, settings.overlap))
    return windows(total, length, shared, FACTOR)


def vsr_windows(frames: int, settings: StageSettings) -> list[Window]:
    """Windows of super-resolution; a clip that is shorter than one is a window by itself."""
    return windows(frames, settings.window, settings.overlap)


def interpolation_condition(networks: Networks, source: FrameSource) -> Condition:
    """Latents of the low-rate frames, copied to the high rate."""
    copies = copied_frames(len(source), FACTOR)

    def condition(start: int, stop: int) -> Tensor:
        wanted = copies[start:stop]
        first = int(wanted[0])
        latents = networks.codec.encode(source.read(first, int(wanted[-1]) + 1))
        return latents[:, :, (wanted - first).to(latents.device)]

    return condition


def vsr_condition(networks: Networks, source: FrameSource, settings: StageSettings, seed: int) -> Condition:
    """Pixels of the low resolution from -1 to 1, noised to the level in `settings`.

    The level is one of the x4 upscaler's schedule of low resolutions, linear in the square root from 1e-4 to 0.02.
    """
    alpha_bar = alpha_bar_of(scaled_linear_betas(first=1e-4, last=0.02))
    level = level_at(alpha_bar, torch.tensor([settings.noise_level]))

    def condition(start: int, stop: int) -> Tensor:
        pixels = networks.codec.pixels(source.read(start, stop))
        noise = frame_noise(seed, "vsr condition", range(start, stop), (3, *source.size))
        return add_noise(pixels, noise.to(pixels), level.to(pixels.device))

    return condition


def stream(
    stage: str,
    networks: Networks,
    settings: StageSettings,
    seed: int,
    size: tuple[int, int],
    prompt: str,
    layout: list[Window],
    condition: Condition,
    pieces: Pieces,
    on_step: Callable[[int], object],
) -> None:
    """Generate the windows that are not in `pieces` yet.

    A window's finished frames are a piece, written whole. The predictions for the frames that it shares with the next
    window lie beside the pieces until that one is written, so that a killed run goes on with the next window.

    Args:
        size: (h, w) of the latents.
        on_step: receives the number of sampling steps that are done.
    """
    remove_drafts(pieces.folder)
    for number, window in enumerate(layout):
        if window.start in pieces.starts:
            on_step(settings.steps)
            continue
        before = layout[number - 1] if number else window
        joint = Joint(_read(pieces, before) if window.shared > window.start else None, window.stop - window.final)
        latents = sample(
            networks,
            stage,
            settings,
            seed,
            range(window.start, window.stop),
            size,
            prompt,
            condition(window.start, window.stop),
            joint,
            lambda: on_step(1),
        )
        frames = networks.codec.decode(latents[:, :, : window.final - window.start])
        if joint.predictions:
            pieces.folder.mkdir(parents=True, exist_ok=True)
            with whole_path(_joint_file(pieces, window)) as draft:
                save_file({"predictions": torch.stack(joint.predictions).contiguous()}, draft)
        pieces.add(window.start, frames)
        if number:
            _joint_file(pieces, before).unlink(missing_ok=True)


def _read(pieces: Pieces, window: Window) -> Tensor:
    file = _joint_file(pieces, window)
    try:
        return load_file(file)["predictions"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{file} is damaged ({error}): delete its folder, to make the frames again") from None


def _joint_file(pieces: Pieces, window: Window) -> Path:
    return pieces.folder / f"joint-{window.start:08d}.safetensors"
