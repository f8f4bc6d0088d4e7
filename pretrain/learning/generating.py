"""How a denoiser samples: the sampler, its steps and the guidance, as one record."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.diffusion.samplers import Predict, ddim, ddpm, dpm_solver, euler, final
from models.diffusion.schedules import Kind, leading_grid, linspace_grid, trailing_grid


@dataclass
class Sampling:
    """Settings of a sampler; the defaults are LaVie's base.

    Args:
        sampler: of LaVie's base DDPM, of its other networks DDIM.
        steps: of the sampler.
        guidance: scale of classifier-free guidance; 1: none.
    """

    sampler: Literal["ddpm", "ddim", "euler", "dpm_solver"] = "ddpm"
    steps: int = 50
    guidance: float = 7.5

    @torch.no_grad()
    def run(self, predict: Predict, x: Tensor, alpha_bar: Tensor, kind: Kind, noise: Callable[[int], Tensor]) -> Tensor:
        """The sample that starts from unit noise `x`.

        Args:
            predict: as samplers take it, under guidance already.
            alpha_bar: `[S]`, of the schedule.
            noise: unit noise of step i.
        """
        if float(alpha_bar[-1]) == 0:  # zero terminal SNR: the last step must be among the sampler's
            grid = trailing_grid(alpha_bar, self.steps)
            return final(
                ddpm(predict, x, grid, noise, kind) if self.sampler == "ddpm" else ddim(predict, x, grid, kind)
            )
        if self.sampler == "ddpm":
            return final(ddpm(predict, x, leading_grid(alpha_bar, self.steps), noise, kind))
        if self.sampler == "ddim":
            return final(ddim(predict, x, leading_grid(alpha_bar, self.steps, 1, "first"), kind))
        run = euler if self.sampler == "euler" else dpm_solver
        return final(run(predict, x, linspace_grid(alpha_bar, self.steps), kind))
