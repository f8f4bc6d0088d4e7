"""Which frames ViCLIP, UMT stage 2 and the demos take, and which clips InternVid's diverse subset: index for index."""

import random

import numpy as np

from datamodules.clips import sampling
from datamodules.making import subsets


def frame_indices(facts: dict, t: dict) -> None:
    """Every case's indices, from the seeds that the official generators had."""
    for c in facts["rand"]:
        rngs = random.Random(c["seed"]), np.random.RandomState(c["seed"])
        same(sampling.sparse_released(c["vlen"], c["num_frames"], *rngs), c)
    for c in facts["middle"]:
        same(sampling.sparse(c["vlen"], c["num_frames"]), c)
    for c in facts["first_of_segment"]:
        same(sampling.sparse_first(c["vlen"], c["num_frames"], c["fix_start"]), c)
    for c in facts["fps"]:
        most = c["max_num_frames"] if c["max_num_frames"] > 0 else None
        same(sampling.per_second(c["vlen"], c["input_fps"], float(c["sample"].removeprefix("fps")), most), c)
    for c in facts["internvid_demo_every_nth"]:
        same(sampling.every_nth(c["vlen"], 8), c)
    for c in facts["internvideo1_demo_linspace"]:
        same(sampling.ends_included(c["vlen"], 8), c)


def div_sampling(facts: dict, t: dict) -> None:
    """The clips of InternVid's DIV, in the order of drawing."""
    sources = [subsets.source_of(name) for name in facts["videos"]]
    assert subsets.diverse(sources, facts["k"], facts["numpy_seed"]).tolist() == facts["sampled"]


def same(indices: np.ndarray, case: dict) -> None:
    assert indices.tolist() == case["idx"], case


CHECKS = {"frame_indices": frame_indices, "div_sampling": div_sampling}
