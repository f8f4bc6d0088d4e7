"""Learning rates and parameter groups against the official code."""

import torch

from models.convert import viclip as viclip_names
from models.convert.rules import prefixed
from pretrain.learning.optim import ClampedAdamW, layer_index, parameter_groups
from pretrain.learning.schedules import cosine
from tests.parity import checks
from tests.parity.case import Case, Record

# What `ClampedAdamW` is told not to decay in ViCLIP's recipes.
NO_DECAY = ("temperature", "cls_token", "pos_embed", "table")


@checks("cosine_scheduler")
def cosine_schedule(case: Case) -> None:
    for i, c in enumerate(case.facts["cases"]):
        a_epoch, warmup = c["niter_per_ep"], c.get("warmup_epochs", 0) * c["niter_per_ep"]
        steps = c.get("warmup_steps", -1)
        if warmup and steps > 0:
            warmup = steps
        total, start = c["epochs"] * a_epoch, c.get("start_warmup_value", 0.0)
        ours = [cosine(step, total, warmup, c["base_value"], c["final_value"], start) for step in range(total)]
        case.close(f"case{i}", torch.tensor(ours, dtype=torch.float64), {"atol": 1e-12, "rtol": 1e-9})


@checks("param_groups")
def groups(case: Case) -> None:
    """Weight decay, layer and rate of each parameter, in each of a file's settings."""
    for name, c in case.facts.objects().items():
        if name != "tensors":
            check_groups(case, name, c)


def check_groups(case: Case, name: str, c: Record) -> None:
    theirs = [group.plain() for group in c.get("groups_in_order", [])]
    listed = [member for group in theirs for member in group["params"]]
    # Matrices have two dimensions and the rest one, unless a name says otherwise; the order is that of the model.
    per_param = c.get("per_param", {})
    order = list(per_param) if not listed or set(per_param) == set(listed) else listed
    matrices = {member for group in theirs if group["weight_decay"] for member in group["params"]}
    named = [(n, torch.nn.Parameter(torch.empty((2, 2) if _is_matrix(n, matrices) else 2))) for n in order]
    decay = c.get("layer_decay")
    ours = parameter_groups(named, c["weight_decay"], decay or 1.0)
    back = {id(parameter): n for n, parameter in named}
    key = lambda group: (round(group["lr_scale"], 12), group["weight_decay"])  # noqa: E731
    found = {key(g): sorted(back[id(p)] for p in g["params"]) for g in ours}
    if theirs:
        case.compared.add((name, "groups_in_order"))
        assert found == {key(g): sorted(g["params"]) for g in theirs}, name
    scales = c.get("scales_by_layer_id")
    depth = len(scales) - 2 if scales else 1 + max(layer_index(n, -1) - 1 for n in order)
    case.fact(c, "scales_by_layer_id", [decay ** (depth + 1 - i) for i in range(depth + 2)] if decay else None)
    for n in per_param:
        case.fact(per_param[n], "layer_id", layer_index(n, depth) if decay else None)


def _is_matrix(name: str, matrices: set[str]) -> bool:
    """Whether a parameter has more than one dimension: tokens and tables do, and yet do not decay by their names."""
    return name in matrices or name.rpartition(".")[2] in ("mask_token", "pos_embed", "scale")


@checks(names=("lr_schedule*",))
def clamped_rates(case: Case) -> None:
    for c in case.facts["cases"]:
        floor = c["lr"] * c.get("min_lr_multi", 0.0)
        optim = ClampedAdamW(base_lr=c["lr"], base_min_lr=floor, warmup_steps=c["warmup"])
        total = c["total"]
        ours = [optim.rate(step, total) for step in range(len(c.get("lr_at_step", [])))]
        case.fact(c, "lr_at_step", ours, {"atol": 0, "rtol": 1e-12})


@checks(names=("param_groups*",))
def viclip_groups(case: Case) -> None:
    """Each official name is ours by the rules, has one rate, and decays as ours does."""
    facts = case.facts
    ours = {str(theirs): mine for mine, theirs in prefixed(viclip_names.OFFICIAL, "").items()}
    optim = ClampedAdamW(weight_decay=facts["weight_decay"], no_decay=NO_DECAY)
    frozen = not any(name.startswith("text_encoder") for name in facts["params"])
    case.fact(facts, "freeze_text", frozen)
    assert facts.get("different_lr") is None, "one rate for all parts is all that is built"
    for name, expected in facts["params"].items():
        mine = ours[".".join("{i}" if step.isdigit() else step for step in name.split("."))]
        case.fact(expected, "weight_decay", facts["weight_decay"] if optim.decays(mine, dummy(mine)) else 0)
        case.fact(expected, "lr", facts["lr"])


def dummy(name: str) -> torch.nn.Parameter:
    """A parameter of as many dimensions as ours of that name has, by which weight decay goes."""
    last = name.rpartition(".")[2]
    flat = last in ("bias", "cls_token") or "norm" in name
    return torch.nn.Parameter(torch.zeros(() if last == "temperature" else (2,) if flat else (2, 2)))
