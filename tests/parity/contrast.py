"""Contrastive losses against the official code, in one process and with features gathered over several."""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.learning.contrast import contrastive_loss, pair_loss, same_pairs, similarity
from tests.helpers.ranks import in_ranks
from tests.parity import checks
from tests.parity.case import Case


@checks(names=("vtc_loss*",))
def contrast(case: Case) -> None:
    """Similarities, losses and gradients of each variant: one or several frames or prompts a sample, with and without
    samples of one index as positives of each other."""
    c = case.facts["config"]
    case.sizes(c, B=case["in/v2d"].shape[0], C=case["in/v2d"].shape[1])
    if "in/v3d" in case:
        case.sizes(c, T=case["in/v3d"].shape[1])
    case.fact(c, "temp", case["in/temp"].item(), {"atol": 1e-6, "rtol": 1e-6})
    for variant in sorted({name.split("/")[1] for name in case.names("out")}):
        what, _, how = variant.partition("_")
        video, text = "v3d" if what == "frames" else "v2d", "t3d" if what == "prompts" else "t2d"
        v, x, temperature = (case[f"in/{name}"].clone().requires_grad_() for name in (video, text, "temp"))
        sims = similarity(v, x, temperature, "max" if how == "max" else "mean")
        case.close(f"out/{variant}/sim_v2t", sims)
        case.close(f"out/{variant}/sim_t2v", sims.t())
        loss = contrastive_loss(sims, None if how == "noidx" else same_pairs(case["in/idx"]))
        case.close(f"out/{variant}/loss", loss)
        loss.backward()
        for name, leaf in (("grad_v", v), ("grad_t", x), ("grad_temp", temperature)):
            case.close(f"out/{variant}/{name}", leaf.grad)


# Variants of a loss over ranks: whether gradients of gathered features are exact, and whether equal indices are pairs.
VARIANTS = {
    "viclip_local_slice": (False, True),
    "internvideo1_full": (True, False),
    "single_process_idx": (True, True),
    "single_process_arange": (True, False),
}
WEIGHTS = ("grad_wv", "grad_wt", "grad_temp")


@checks(names=("vtc_*ranks*",))
def ranks(case: Case) -> None:
    """Any number of ranks: the mean of our gradients over ranks is the gradient of one process with the whole batch.

    The gradients that a case has for each rank may be those before or after they were averaged in place. A rank of ours
    has the loss of its own rows, and so its own loss and gradient of the temperature: their means are compared.
    """
    c, x = case.facts["config"], case["in/x_video"]
    case.sizes(c, world=x.shape[0], batch=x.shape[1], in_dim=x.shape[2], dim=case["in/w_video"].shape[1])
    case.fact(c, "temp", case["in/temp"].item(), {"atol": 1e-6, "rtol": 1e-6})
    made = over_ranks(len(x), case.part("in"))
    for variant, found in made.items():
        place = f"out/{variant}"
        loss = torch.stack([rank["loss"] for rank in found]).mean()
        case.close(f"{place}/loss", loss)
        for number in range(len(found)):
            case.close(f"{place}/rank{number}/loss", loss)
        for name in WEIGHTS:
            mean = torch.stack([rank[name] for rank in found]).mean(0)
            case.close(f"{place}/{name}", mean)
            case.close(f"{place}/ddp_mean/{name}", mean)
            theirs = [case[key] for number in range(len(found)) if (key := f"{place}/rank{number}/{name}") in case]
            averaged = name == "grad_temp" or all(torch.equal(gradient, theirs[0]) for gradient in theirs)
            for number, rank in enumerate(found):
                case.close(f"{place}/rank{number}/{name}", mean if averaged else rank[name])
    ratios = case.facts.get("ratio_ddp_mean_to_true_encoder_grad", {})
    for variant in ratios:
        # The full gradient of the variant's loss: that of exact gathering.
        exact = "single_process_idx" if VARIANTS[variant][1] else "single_process_arange"
        for name in ("grad_wv", "grad_wt"):
            full, mean = (torch.stack([rank[name] for rank in made[v]]).mean(0) for v in (exact, variant))
            case.fact(ratios, variant, (mean.norm() / full.norm()).item(), {"atol": 1e-4, "rtol": 0})


def over_ranks(world: int, inputs: dict[str, Tensor]) -> dict[str, list[dict]]:
    """For each variant, loss and gradients of each of `world` processes; features are x @ w."""
    with tempfile.TemporaryDirectory() as folder:
        in_ranks(_rank, inputs, folder, world=world)
        found = [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world)]
    return {name: [made[name] for made in found] for name in VARIANTS}


def _rank(rank: int, inputs: dict[str, Tensor], folder: str) -> None:
    dist.init_process_group("gloo")
    made = {}
    for name, (exact, by_index) in VARIANTS.items():
        wv, wt, temperature = (inputs[key].clone().requires_grad_() for key in ("w_video", "w_text", "temp"))
        video, text = inputs["x_video"][rank] @ wv, inputs["x_text"][rank] @ wt
        keys = inputs["idx"][rank] if by_index and "idx" in inputs else rank * len(video) + torch.arange(len(video))
        loss = pair_loss(video, text, keys, temperature, exact=exact)
        loss.backward()
        made[name] = {"loss": loss.detach(), "grad_wv": wv.grad, "grad_wt": wt.grad, "grad_temp": temperature.grad}
    torch.save(made, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
