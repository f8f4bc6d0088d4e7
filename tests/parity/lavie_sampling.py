"""LaVie's schedules and samplers against the official code, and the frames that interpolation copies."""

import re

from torch import Tensor

from models.diffusion import interpolation
from models.diffusion.samplers import ddim, ddpm, euler
from models.diffusion.schedules import (
    Grid,
    add_noise,
    alpha_bar_of,
    betas_of,
    leading_grid,
    level_at,
    linear_betas,
    linspace_grid,
    posterior_variance,
    respaced_grid,
    scaled_linear_betas,
    sigma_of,
    target,
)
from tests.parity import checks
from tests.parity.case import Case
from tests.parity.lavie import relative, tolerance

BETAS = {"linear": linear_betas, "scaled_linear": scaled_linear_betas}
RULES = {
    "config.sample_size": "the networks take any size",
    "schedulers.*": "says in words what the check computes",
    "guidance_order": "says in words what the check computes",
}


def betas_of_text(text: str) -> Tensor:
    """The betas that a case names, such as `linear 0.0001..0.02, 1000 steps`."""
    found = re.fullmatch(r"(\w+) ([\d.e-]+?)\.\.([\d.e-]+)(?:, (\d+) steps)?", text)
    assert found, text
    kind, first, last, steps = found.groups()
    return BETAS[kind](int(steps or 1000), float(first), float(last))


@checks("v_prediction")
def v_prediction(case: Case) -> None:
    x0, noise = case["x0"], case["noise"]
    level = level_at(alpha_bar_of(betas_of_text(case.facts["schedule"])), case["timestep"])
    case.close("xt", add_noise(x0, noise, level), tolerance(case.facts))
    case.close("v", target("v", x0, noise, level), tolerance(case.facts))


@checks("base_sampling", not_needed=RULES)
def base_sampling(case: Case) -> None:
    from tests.parity.lavie_unet import guide, unet_of

    facts, unet, z = case.facts, unet_of(case), case["z"]
    null, text = case["encoder_hidden_states"].chunk(2)
    predict = guide(unet, None, text, null, facts["guidance_scale"])
    alpha_bar = alpha_bar_of(betas_of_text(facts["betas"]))
    case.close("alphas_cumprod", alpha_bar.float(), relative(facts, case["alphas_cumprod"]))
    noise = case["noise"].__getitem__
    grids = {
        "ddpm": lambda steps: leading_grid(alpha_bar, steps),
        "ddim": lambda steps: leading_grid(alpha_bar, steps, offset=1, final="first"),
        "euler": lambda steps: linspace_grid(alpha_bar, steps),
    }
    for name in facts["schedulers"]:
        grid = grids[name](facts["steps"])
        for key, steps in (("timesteps", facts["steps"]), ("timesteps50", 50)):
            case.close(f"{name}.{key}", grids[name](steps).timesteps.double(), tolerance(facts, "tolerance_timesteps"))
        samples = {
            "ddpm": lambda grid=grid: ddpm(predict, z, grid, noise),
            "ddim": lambda grid=grid: ddim(predict, z, grid),
            "euler": lambda grid=grid: euler(predict, z, grid),
        }[name]()
        if name == "euler":
            case.close("euler.sigmas", sigma_of(grid.alpha_bar).float(), relative(facts, case["euler.sigmas"]))
        detail = facts["detail"][name]
        first = float(sigma_of(grid.alpha_bar)[0]) if name == "euler" else 1.0
        case.fact(detail, "init_noise_sigma", first, {"atol": 0, "rtol": facts["tolerance_rel"]})
        largest = []
        for i, x in enumerate(samples):
            case.close(f"{name}.traj{i}", x, relative(facts, case[f"{name}.traj{i}"]))
            largest.append(x.abs().max().item())
        case.fact(detail, "max_abs", largest, {"atol": 2e-3, "rtol": facts["tolerance_rel"]})


@checks("interp_sampling", not_needed={"config.sample_size": "the networks take any size"})
def interp_sampling(case: Case) -> None:
    from tests.parity.lavie_unet import guide, unet_of

    facts, unet = case.facts, unet_of(case)
    alpha_bar = alpha_bar_of(betas_of_text(facts["betas"]))
    for c in facts["respacing"]:
        check_tables(case, c["prefix"], respaced_grid(alpha_bar, c["steps"]))
    text, null = case["encoder_hidden_states"].chunk(2)
    predict = guide(unet, case["cond"], text, null, facts["cfg_scale"])
    eta = facts["ddim_eta"]
    noise = case["noise"].__getitem__ if eta else None
    samples = ddim(predict, case["z"], respaced_grid(alpha_bar, facts["steps"]), eta=eta, noise=noise)
    for name, x in zip(facts["trajectory"], samples, strict=True):
        case.close(name, x, relative(facts, case[name]))
    check_frames(case)
    # The loss of each sample: noise is predicted for the latents alone, the copied channels stay clean.
    x0, copied, timestep = case["train.x0"], case["train.copied"], case["train.timestep"]
    added = case["train.noise"][:, : unet.channels]
    xt = add_noise(x0, added, level_at(alpha_bar, timestep))
    out = unet(xt, timestep, case["train.encoder_hidden_states"], condition=copied)
    error = (out - added).square().flatten(1).mean(1)
    case.close("train.loss", error, tolerance(facts, "tolerance_loss"))


def check_tables(case: Case, prefix: str, grid: Grid) -> None:
    """The constants of the respaced steps, which the official code stores in ascending order."""
    close = tolerance(case.facts, "tolerance_tables")
    case.equal(f"{prefix}.timesteps", grid.timesteps.flip(0))
    case.close(f"{prefix}.alphas_cumprod", grid.alpha_bar[:-1].flip(0), close)
    case.close(f"{prefix}.betas", betas_of(grid).flip(0), close)
    case.close(f"{prefix}.posterior_variance", posterior_variance(grid).flip(0), close)


def check_frames(case: Case) -> None:
    if "lowrate_positions" not in case:
        return
    frames = len(case["lowrate_positions"])
    factor = (len(case["read_index"]) - 1) // (frames - 1)
    case.equal("read_index", interpolation.repeated_frames(frames, factor))
    case.equal("lowrate_positions", interpolation.source_positions(frames, factor))
    case.equal("copied_source_frame", interpolation.copied_frames(frames, factor))
