"""Samples latents with one of our UNets; noise is a function of (seed, stage, frame, step)."""

import hashlib
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from models.diffusion.samplers import Predict, ddim, ddpm, dpm_solver, euler, final, guided
from models.diffusion.schedules import Grid, Kind
from pretrain.generation.settings import Sampler, StageSettings, grid_of
from pretrain.generation.weights import Networks
from pretrain.generation.windows import ramp

Shape = tuple[int, int, int]  # channels, height, width of a frame's latents


def frame_noise(seed: int, name: str, frames: Sequence[int], shape: Shape, step: int = -1) -> Tensor:
    """Unit noise `[1, C, F, h, w]`, drawn on the CPU for each frame by itself.

    It does not depend on the device, nor on the window that a frame is generated in.

    Args:
        name: of the stage, or of what else is noised.
        step: of the sampler; -1: what it starts from.
    """
    drawn = []
    for frame in frames:
        digest = hashlib.sha256(f"{seed}/{name}/{frame}/{step}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        drawn.append(torch.randn(shape, generator=generator))
    return torch.stack(drawn, dim=1)[None]


class Joint:
    """Makes a window's predictions agree with the previous window's on the frames that both hold.

    At each step the prediction for a shared frame is a weighted mean of both windows', so that both follow the same
    path there (MultiDiffusion, arXiv 2302.08113, one window after the other instead of all at once).

    Args:
        before: predictions `[S, 1, C, shared, h, w]` of the previous window at each step; None: there is none.
        kept: frames at the end of this window whose predictions the next one needs.
    """

    def __init__(self, before: Tensor | None, kept: int) -> None:
        self.before, self.kept = before, kept
        self.predictions: list[Tensor] = []  # of the kept frames

    def wrap(self, predict: Predict) -> Predict:
        """`predict`, which a sampler calls once a step."""
        steps = iter(range(10**9))

        def joined(x: Tensor, timestep: Tensor) -> Tensor:
            output, step = predict(x, timestep), next(steps)
            if self.before is not None:
                before = self.before[step].to(output)
                shared = before.shape[2]
                weight = ramp(shared).to(output)[:, None, None]
                mean = weight * before + (1 - weight) * output[:, :, :shared]
                output = torch.cat((mean, output[:, :, shared:]), dim=2)
            if self.kept:
                self.predictions.append(output[:, :, -self.kept :].cpu())
            return output

        return joined


@torch.no_grad()
def sample(
    networks: Networks,
    stage: str,
    settings: StageSettings,
    seed: int,
    frames: Sequence[int],
    size: tuple[int, int],
    prompt: str,
    condition: Tensor | None = None,
    joint: Joint | None = None,
    on_step: Callable[[], object] = lambda: None,
) -> Tensor:
    """Latents `[1, C, F, h, w]` of the frames with the given numbers, in float32.

    Args:
        size: (h, w) of the latents.
        condition: `[1, K, F, h, w]`; see `SpatioTemporalUNet`.
        joint: with the neighbouring windows.
        on_step: called after each step.
    """
    unet = networks.unet
    weight = unet.conv_in.weight
    shape: Shape = (unet.channels, *size)
    level = torch.tensor([settings.noise_level], device=weight.device) if unet.noise_embed is not None else None
    negative = networks.null_text if settings.negative is None else settings.negative
    text, null = (networks.texts(words).to(weight) for words in (prompt + settings.suffix, negative))
    condition = None if condition is None else condition.to(weight)

    def network(x: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
        rows = len(x)
        joined = None if condition is None else condition.expand(rows, -1, -1, -1, -1)
        levels = None if level is None else level.expand(rows)
        return unet(x.to(weight.dtype), timestep, states, condition=joined, noise_level=levels).float()

    predict = guided(network, text, null, settings.guidance)
    predict = predict if joint is None else joint.wrap(predict)

    def noise(step: int) -> Tensor:
        return frame_noise(seed, stage, frames, shape, step).to(weight.device)

    return final(
        _told(
            _steps(
                predict, noise(-1), grid_of(stage, settings, networks.alpha_bar), settings.sampler, networks.kind, noise
            ),
            on_step,
        )
    )


def _told(samples: Iterator[Tensor], on_step: Callable[[], object]) -> Iterator[Tensor]:
    for each in samples:
        yield each
        on_step()


def _steps(
    predict: Predict, x: Tensor, grid: Grid, sampler: Sampler, kind: Kind, noise: Callable[[int], Tensor]
) -> Iterator[Tensor]:
    if sampler == "ddpm":
        return ddpm(predict, x, grid, noise, kind)
    return {"ddim": ddim, "euler": euler, "dpm_solver": dpm_solver}[sampler](predict, x, grid, kind)
