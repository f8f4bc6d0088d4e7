"""Masks against the official code: running cells, tubes, random tokens, attention; and how often tokens are visible."""

import numpy as np
import torch
from torch import Tensor

from pretrain.learning.masking import Attention, Random, RunningCell, Tube
from tests.parity import checks
from tests.parity.case import Case


def hidden_by(keep: Tensor, tokens: int) -> Tensor:
    """True where a token is not in `keep` `[B, K]`: `[B, tokens]`."""
    return torch.ones(len(keep), tokens, dtype=torch.bool).scatter(1, keep, False)


def reference_noise(seed: int, shape: torch.Size) -> Tensor:
    """The uniform numbers whose exponentials `torch.multinomial` draws from `seed` on a CPU."""
    torch.manual_seed(seed)
    return -torch.expm1(-torch.empty(shape).exponential_(1).double())


def check_order(attention: Tensor, noise: Tensor) -> Tensor:
    """The order in which `torch.multinomial` draws all tokens of a row from this noise."""
    exponential = -torch.log1p(-noise)
    return (attention.double().log() - exponential.log()).argsort(dim=1, descending=True)


@checks("running_cell_mask")
def running_cell(case: Case) -> None:
    seeds = case.facts.get("seeds", [])
    for c in case.facts["cases"]:
        grid, ratio = tuple(c["size_t_h_w"]), c["ratio"]
        key = "x".join(map(str, grid)) + f"_r{ratio}"
        mask, tokens = RunningCell(ratio), grid[0] * grid[1] * grid[2]
        maps = mask.maps(grid)
        if f"all/{key}" in case:
            case.equal(f"all/{key}", maps.view_as(case[f"all/{key}"]))
        assert (maps.sum(1) == maps[0].sum()).all()
        case.fact(c, "masked_per_sample", int(maps[0].sum()))
        for name in (f"draw/{key}_seed{seed}" for seed in seeds):
            if name in case:
                rows, generator = len(case[name]), np.random.RandomState(int(name.rpartition("_seed")[2]))
                draws = torch.tensor([generator.randint(4) for _ in range(rows)])
                decoded = mask((draws[:, None] + 0.5) / 4, grid)
                case.equal(name, hidden_by(decoded, tokens).view_as(case[name]))


@checks("tube_and_random_mask")
def tube_and_random(case: Case) -> None:
    for c in case.facts["cases"]:
        grid, ratio = tuple(c["size_t_h_w"]), c["ratio"]
        tokens = grid[0] * grid[1] * grid[2]
        for kind, mask in {"tube": Tube(ratio), "random": Random(ratio)}.items():
            visible = mask(torch.rand(1, mask.width(grid)), grid).shape[1]
            if kind == "tube":
                case.fact(c, "masked_per_frame_tube", (tokens - visible) // grid[0])
            else:
                case.fact(c, "masked_random", tokens - visible)
            for seed in case.facts["seeds"]:
                name = f"{kind}/{'x'.join(map(str, grid))}_r{ratio}_seed{seed}"
                if name in case:
                    # A shuffle of zeros and ones ranks the places: its permutation serves as noise.
                    generator = np.random.RandomState(seed)
                    draws = [torch.from_numpy(generator.permutation(mask.width(grid))) for _ in case[name]]
                    case.equal(name, hidden_by(mask(torch.stack(draws), grid), tokens).view_as(case[name]))


@checks("umt_attention_mask")
def attention_mask(case: Case) -> None:
    for i, c in enumerate(case.facts["cases"]):
        attention = case[f"case{i}/cls_attention"]
        noise = reference_noise(c["seed"], attention.shape)
        rows, frames, places = c["batch"], c["frames"], c["patches_per_frame"]
        keep = Attention(c["mask_ratio"])(
            noise.view(rows, -1), (frames, 1, places), attention.view(rows, frames, places)
        )
        case.equal(f"case{i}/bool_masked", hidden_by(keep, frames * places))
        case.equal(f"case{i}/importance_order", check_order(attention, noise))
        per_frame = (keep // places).view(rows, frames, -1)
        assert (per_frame == torch.arange(frames)[:, None]).all(), "each frame has as many visible tokens"
        case.fact(c, "n_visible_per_frame", per_frame.shape[2])


@checks("umt_attention_mask_marginals")
def attention_mask_marginals(case: Case) -> None:
    """How often each token is visible, for generators that draw other numbers; within 5 standard errors."""
    draws, n, keep = case.facts["draws"], case.facts["n"], case.facts["keep"]
    noise = torch.rand(draws, n, generator=torch.Generator().manual_seed(0))
    mask = Attention(1 - keep / n + 1e-9)
    chosen = mask(noise, (1, 1, n), case["cls_attention"].expand(draws, 1, n))
    assert chosen.shape == (draws, keep)
    ours, theirs = torch.bincount(chosen.flatten(), minlength=n) / draws, case["visible_frequency"]
    error = (theirs * (1 - theirs) * 2 / draws).sqrt() + 1 / draws
    assert ((ours - theirs).abs() < 5 * error).all()
    case.compared.add("visible_frequency")
