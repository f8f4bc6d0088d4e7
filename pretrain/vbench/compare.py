"""Two results compared: paired by prompt with an interval, or against published numbers with what may explain a gap."""

import math
from collections.abc import Sequence

import torch

from pretrain.metrics.bootstrap import estimate_mean
from pretrain.metrics.vbench.totals import DIMENSIONS
from pretrain.vbench.published import ByPrompt

DRAWS = 2000  # of the bootstrap

# What is known to change a score although the model is the same, by dimension; "" holds for all.
SWITCHES: dict[str, tuple[str, ...]] = {
    "": (
        "prompts rewritten by a language model (scores are still against the original ones)",
        "the number of videos of a prompt, and their seeds",
        "VBench-Long (clips of a longer video) instead of VBench",
        "size, rate and length of the videos, and a re-encoding",
    ),
    "subject_consistency": ("one GPU or several: the mean over frame pairs, or over videos",),
    "spatial_relationship": ("one GPU or several: the mean over frames, or over videos",),
    "appearance_style": ("several GPUs: VBench takes the last frame of each video only",),
    "temporal_flickering": ("the static filter, and how many videos it chose from (5, 25 or 40 of a prompt)",),
    "dynamic_degree": ("the frame rate in the file: about 8 frames a second are compared",),
    "motion_smoothness": ("the frame rate, and the interpolation model",),
    "imaging_quality": ("the mode of resizing: longer, shorter, shorter_centercrop or None",),
    "scene": ("the captioner: some tools replace Tag2Text",),
    "color": ("videos without a colour in any caption are left out",),
    **dict.fromkeys(("object_class", "multiple_objects"), ("the detector: some tools replace GRiT",)),
}


def paired(a: ByPrompt, b: ByPrompt, seed: int = 0) -> str:
    """A table of B less A: the mean difference over the prompts that both have, and its 95 % bootstrap interval.

    Raises:
        ValueError: no prompt is in both.
    """
    lines = ["| dimension | prompts | A | B | B - A | 95 % over prompts |", "|---|---:|---:|---:|---:|---:|"]
    left_out = 0
    for dimension in (name for name in DIMENSIONS if name in a and name in b):
        both = [prompt for prompt in a[dimension] if prompt in b[dimension]]
        left_out += len(a[dimension].keys() ^ b[dimension].keys())
        if not both:
            continue
        means = [[math.fsum(x[dimension][p]) / len(x[dimension][p]) for p in both] for x in (a, b)]
        ours, theirs = torch.tensor(means, dtype=torch.float64)
        difference, low, high = estimate_mean(theirs - ours, DRAWS, seed=seed)
        spread = "" if math.isnan(low) else f"{100 * low:+.2f} to {100 * high:+.2f}"
        lines.append(
            f"| {dimension} | {len(both)} | {100 * ours.mean():.2f} | {100 * theirs.mean():.2f} | "
            f"{100 * difference:+.2f} | {spread} |"
        )
    if len(lines) == 2:
        raise ValueError("the two results have no prompt of one dimension in common")
    note = f"\n{left_out} prompts are in one of the two only, and left out.\n" if left_out else ""
    return "\n".join(lines) + "\n" + note


def explain(ours: dict[str, float], published: dict[str, float], labels: Sequence[str] = ()) -> str:
    """A table of the differences, how our run was made, and the switches that may explain them.

    Args:
        labels: in what our run differs from the official protocol.
    """
    names = [name for name in (*DIMENSIONS, "quality", "semantic", "total") if name in published]
    lines = ["| dimension | ours | published | difference |", "|---|---:|---:|---:|"]
    for name in names:
        own = ours.get(name, math.nan)
        row = ("not scored", "") if math.isnan(own) else (f"{100 * own:.2f}", f"{100 * (own - published[name]):+.2f}")
        lines.append(f"| {name} | {row[0]} | {100 * published[name]:.2f} | {row[1]} |")
    lines += ["", "Our run differs from the official protocol:", ""]
    lines += [f"- {label}" for label in labels] or ["- in nothing that was checked"]
    lines += ["", "The published numbers may differ by:", "", *(f"- {switch}" for switch in SWITCHES[""])]
    return "\n".join(lines + [f"- {name}: {s}" for name in names for s in SWITCHES.get(name, ())]) + "\n"
