"""Noise schedules and samplers: closed forms, diffusers' schedulers, and samples of a known distribution."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from models.diffusion import interpolation, samplers, schedules
from models.diffusion.schedules import Grid, Kind

KINDS: tuple[Kind, ...] = ("eps", "v", "x0")
ALPHA_BAR = schedules.alpha_bar_of(schedules.linear_betas())
MEAN, STD = 1.5, 0.5  # of the data of `gaussian`


def draws(*shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator).double(), torch.randn(shape, generator=generator).double()


@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_prediction_gives_data_and_noise_back(kind: Kind) -> None:
    x0, noise = draws(4, 3, 2, 5, 5)
    level = schedules.level_at(ALPHA_BAR, torch.tensor([0, 10, 500, 999]))
    xt = schedules.add_noise(x0, noise, level)
    found = schedules.data_and_noise(kind, schedules.target(kind, x0, noise, level), xt, level)
    assert_close(found[0], x0, atol=1e-9, rtol=1e-9)
    assert_close(found[1], noise, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("weight", [schedules.min_snr_weight, schedules.soft_min_snr_weight])
def test_weighted_errors_agree_for_all_targets(weight) -> None:
    """An error of one prediction, as an error of another one, weighs the same."""
    x0, noise = draws(5, 8)
    level = schedules.level_at(ALPHA_BAR, torch.tensor([1, 50, 200, 600, 990]))
    xt = schedules.add_noise(x0, noise, level)
    wrong = x0 + 0.1  # predicted data, and what is then predicted as noise and velocity
    implied = (xt - schedules.per_sample(level.sqrt(), x0) * wrong) / schedules.per_sample((1 - level).sqrt(), x0)
    output = {"x0": wrong, "eps": implied, "v": schedules.velocity(wrong, implied, level)}
    losses = [
        weight(kind, level) * (output[kind] - schedules.target(kind, x0, noise, level)).square().mean(1)
        for kind in KINDS
    ]
    assert_close(losses[0], losses[2], atol=0, rtol=1e-8)
    assert_close(losses[1], losses[2], atol=0, rtol=1e-8)


def test_min_snr_weights_are_the_papers() -> None:
    level = torch.tensor([0.9, 0.5, 0.0], dtype=torch.float64)  # SNR 9, 1, 0
    assert_close(schedules.min_snr_weight("x0", level), torch.tensor([5.0, 1.0, 0.0]).double())
    assert_close(schedules.min_snr_weight("eps", level), torch.tensor([5 / 9, 1.0, 1.0]).double())
    assert_close(schedules.min_snr_weight("v", level), torch.tensor([0.5, 0.5, 0.0]).double())
    assert_close(schedules.soft_min_snr_weight("x0", level), torch.tensor([36 / 13, 0.8, 0.0]).double())


def test_zero_terminal_snr_keeps_the_first_step_and_ends_in_noise() -> None:
    moved = schedules.zero_terminal_snr(ALPHA_BAR)
    assert moved[-1] == 0 and moved[0].item() == pytest.approx(ALPHA_BAR[0].item(), rel=1e-12)
    assert (moved.diff() < 0).all()
    theirs = ddim_of_diffusers(rescale_betas_zero_snr=True).alphas_cumprod.double()
    assert_close(moved, theirs, atol=1e-5, rtol=0)


def test_noise_predictions_at_zero_snr_are_refused() -> None:
    x, level = torch.ones(2, 3), torch.tensor([0.5, 0.0])
    with pytest.raises(ValueError, match="use a network for `v` or `x0`"):
        schedules.data_and_noise("eps", x, x, level)
    x0, _ = schedules.data_and_noise("v", x, x, level)
    assert_close(x0[1], -x[1])  # at pure noise the velocity is the data, negated


def gaussian(level_of: dict[float, float], kind: Kind) -> samplers.Predict:
    """The exact prediction for data that are normal with `MEAN` and `STD`, given the level of each time step."""

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        level = torch.tensor([level_of[round(float(t), 3)] for t in timestep], dtype=torch.float64)
        a, s = schedules.per_sample(level.sqrt(), x), schedules.per_sample((1 - level).sqrt(), x)
        x0 = MEAN + a * STD**2 / (a**2 * STD**2 + s**2) * (x - a * MEAN)
        if kind == "x0":
            return x0
        return (x - a * x0) / s if kind == "eps" else (a * x - x0) / s

    return predict


def run(name: str, grid: Grid, kind: Kind, x: Tensor, noise: Tensor) -> Tensor:
    levels = {round(float(t), 3): float(a) for t, a in zip(grid.timesteps, grid.alpha_bar, strict=False)}
    predict = gaussian(levels, kind)
    runs: dict[str, Iterator[Tensor]] = {
        "ddpm": samplers.ddpm(predict, x, grid, noise.__getitem__, kind),
        "ddim": samplers.ddim(predict, x, grid, kind),
        "ddim_eta": samplers.ddim(predict, x, grid, kind, 1.0, noise.__getitem__),
        "euler": samplers.euler(predict, x, grid, kind),
        "dpm_solver": samplers.dpm_solver(predict, x, grid, kind),
    }
    return samplers.final(runs[name])


@pytest.mark.parametrize("name", ["ddpm", "ddim", "ddim_eta", "euler", "dpm_solver"])
def test_samplers_draw_from_the_data_whatever_is_predicted(name: str) -> None:
    steps, count = 100, 4000
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, count, generator=generator).double()
    noise = torch.randn(steps, 1, count, generator=generator).double()
    grid = schedules.linspace_grid(ALPHA_BAR, steps) if name == "euler" else schedules.leading_grid(ALPHA_BAR, steps)
    samples = [run(name, grid, kind, x, noise) for kind in KINDS]
    for other in samples[1:]:
        assert_close(other, samples[0], atol=1e-6, rtol=1e-6)
    assert samples[0].mean().item() == pytest.approx(MEAN, abs=0.05)
    assert samples[0].std().item() == pytest.approx(STD, abs=0.05)


@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("dpm_solver", 2)])
def test_errors_fall_with_the_order_of_the_sampler(name: str, order: int) -> None:
    """Twice the steps, even in log SNR: the distance to the exact flow falls to a half or to a quarter."""
    x, _ = draws(1, 200)
    errors = []
    for steps in (40, 80):
        ends = schedules.sigma_of(ALPHA_BAR[[-1, 0]]).log()
        sigma = torch.linspace(float(ends[0]), float(ends[1]), steps + 1, dtype=torch.float64).exp()
        grid = Grid(torch.arange(steps).flip(0), 1 / (1 + sigma**2))
        first, last = grid.alpha_bar[0], grid.alpha_bar[-1]
        spread = ((last * STD**2 + 1 - last) / (first * STD**2 + 1 - first)).sqrt()
        exact = last.sqrt() * MEAN + spread * (x - first.sqrt() * MEAN)
        errors.append((run(name, grid, "eps", x, x) - exact).abs().max().item())
    assert errors[0] / errors[1] == pytest.approx(2**order, rel=0.2)


def test_ddim_with_eta_1_is_ddpm() -> None:
    x, noise = draws(1, 50)[0], torch.randn(20, 1, 50, generator=torch.Generator().manual_seed(4)).double()
    grid = schedules.leading_grid(ALPHA_BAR, 20)
    assert_close(run("ddim_eta", grid, "v", x, noise), run("ddpm", grid, "v", x, noise), atol=1e-9, rtol=1e-9)


def ddim_of_diffusers(**options):
    from diffusers import DDIMScheduler

    return DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False, **options)


@pytest.mark.parametrize(("kind", "theirs"), [("eps", "epsilon"), ("v", "v_prediction"), ("x0", "sample")])
def test_dpm_solver_is_diffusers(kind: Kind, theirs: str) -> None:
    from diffusers import DPMSolverMultistepScheduler

    options = {"prediction_type": theirs, "timestep_spacing": "trailing", "final_sigmas_type": "zero"}
    scheduler = DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=0.02, beta_schedule="linear", euler_at_final=False, **options
    )
    scheduler.set_timesteps(12)
    grid = schedules.trailing_grid(ALPHA_BAR, 12)
    assert torch.equal(grid.timesteps, scheduler.timesteps)
    levels = {float(t): float(a) for t, a in zip(grid.timesteps, grid.alpha_bar, strict=False)}
    predict, (x, _) = gaussian(levels, kind), draws(1, 100)
    expected = x
    for ours, t in zip(samplers.dpm_solver(predict, x, grid, kind), scheduler.timesteps, strict=True):
        expected = scheduler.step(predict(expected, t[None].float()), t, expected).prev_sample
        assert_close(ours, expected, atol=2e-4, rtol=1e-4)


def test_trailing_steps_begin_at_the_last() -> None:
    scheduler = ddim_of_diffusers(timestep_spacing="trailing")
    for steps in (1, 7, 50, 1000):
        scheduler.set_timesteps(steps)
        assert torch.equal(schedules.trailing_grid(ALPHA_BAR, steps).timesteps, scheduler.timesteps)


@pytest.mark.parametrize("kind", ["v", "x0"])
def test_zero_terminal_snr_is_sampled_by_ddim_and_refused_where_sigma_is_infinite(kind: Kind) -> None:
    grid = schedules.trailing_grid(schedules.zero_terminal_snr(ALPHA_BAR), 100)
    x, noise = draws(1, 2000)
    sample = run("ddim", grid, kind, x, noise)
    assert sample.mean().item() == pytest.approx(MEAN, abs=0.05) and sample.std().item() == pytest.approx(STD, abs=0.05)
    for name in ("euler", "dpm_solver"):
        with pytest.raises(ValueError, match="take ddim or ddpm"):
            run(name, grid, kind, x, noise)


def test_steps_beyond_the_schedule_are_refused() -> None:
    with pytest.raises(ValueError, match="choose 1 to 1000"):
        schedules.leading_grid(ALPHA_BAR, 1001)
    with pytest.raises(ValueError, match="begin after step 999"):
        schedules.leading_grid(ALPHA_BAR, 1000, offset=1)
    assert torch.equal(schedules.respaced_grid(ALPHA_BAR, 1).timesteps, torch.tensor([0]))


def test_dropped_texts_are_exactly_what_guidance_uses() -> None:
    seen = []

    def network(x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        seen.append((len(timestep), text))
        return x * text.mean((1, 2))[:, None]

    text, null = torch.randn(3, 5, 4), torch.randn(5, 4)
    dropped = samplers.replace_texts(text, null, torch.tensor([False, True, False]))
    assert torch.equal(dropped[1], null) and torch.equal(dropped[0], text[0])
    x, t = torch.ones(3, 2), torch.tensor([5, 5, 5])
    out = samplers.guided(network, text, null[None], 3.0)(x, t)
    assert torch.equal(seen[0][1][1], dropped[1]) and seen[0][0] == 6
    low, high = null.mean(), text.mean((1, 2))[:, None]
    assert_close(out, (low + 3 * (high - low)).expand(3, 2))
    samplers.guided(network, text, null[None], 1.0)(x, t)
    assert seen[1][0] == 3  # without guidance the null text costs nothing


def test_joined_images_have_texts_of_their_own_to_drop() -> None:
    text, null = torch.randn(2, 3, 5, 4), torch.randn(5, 4)
    drop = torch.tensor([[True, False, False], [False, False, True]])
    dropped = samplers.replace_texts(text, null, drop)
    assert torch.equal(dropped[drop], null.expand(2, 5, 4)) and torch.equal(dropped[~drop], text[~drop])


def test_each_frame_is_conditioned_on_a_near_source() -> None:
    for frames, factor in ((16, 4), (2, 4), (5, 2), (4, 3)):
        copied = interpolation.copied_frames(frames, factor)
        assert len(copied) == interpolation.interpolated_length(frames, factor)
        positions = interpolation.source_positions(frames, factor)
        assert torch.equal(copied[positions], torch.arange(frames))
        assert (positions[copied] - torch.arange(len(copied))).abs().max() <= factor // 2
    with pytest.raises(ValueError, match="nothing to interpolate between"):
        interpolation.copied_frames(1)
