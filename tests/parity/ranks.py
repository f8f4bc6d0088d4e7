"""A contrastive loss over gloo processes, for the cases that were made so."""

import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from pretrain.learning.contrast import contrastive_loss, gather, same_pairs, similarity

CHECKS: dict = {}


def over_ranks(world: int, t: dict, exact: bool, by_index: bool) -> list[dict]:
    """Loss and gradients of each rank; features are x @ w."""
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (world, t, exact, by_index, folder), nprocs=world)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(world)]


def _rank(rank: int, world: int, t: dict, exact: bool, by_index: bool, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world)
    wv, wt, temperature = (t[f"in/{name}"].clone().requires_grad_() for name in ("w_video", "w_text", "temp"))
    video, text = gather(t["in/x_video"][rank] @ wv, exact), gather(t["in/x_text"][rank] @ wt, exact)
    same = same_pairs(gather(t["in/idx"][rank])) if by_index else None
    loss = contrastive_loss(similarity(video, text, temperature), same)
    loss.backward()
    made = {"loss": loss.detach(), "grad_wv": wv.grad, "grad_wt": wt.grad, "grad_temp": temperature.grad}
    torch.save(made, Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()
