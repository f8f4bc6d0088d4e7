"""Frame indices, crops and subsets against the official code, from the seeds that its generators had."""

import random

import numpy as np

from datamodules.clips import crops, sampling
from datamodules.making import subsets
from tests.parity import checks
from tests.parity.case import Case, Record

STATE = np.random.RandomState


@checks("frame_and_crop_sampling")
def videomae_sampling(case: Case) -> None:
    """VideoMAE V2: pretraining, fine-tuning and test views, dense and sparse, and multi-scale crops."""
    for c in case.facts.get("pretrain", []):
        index = sampling.dense(c["video_len"], c["frames"], c["stride"], STATE(c["seed"]))
        case.fact(c, "indices", index.tolist())
    for c in case.facts.get("classification_dense", []):
        rng = STATE(c["seed"]) if c["mode"] == "train" else None
        case.fact(c, "indices", sampling.span(c["video_len"], c["clip_len"], c["stride"], rng).tolist())
    for c in case.facts.get("rawframes_sparse", []):
        frames, segments = c["num_frames"], c["segments"]
        if c["mode"] == "test":
            index = sampling.segments_view(frames, 2 * segments, 0, 1)
        else:
            index = sampling.raw_segments(frames, segments, STATE(c["seed"]) if c["mode"] == "train" else None)
        case.fact(c, "indices", (index + 1).tolist())  # files of extracted frames count from 1
    for name in case.facts:
        if name.startswith("classification_test_views"):
            check_views(case, case.facts[name])
    for c in case.facts.get("multi_scale_crop", []):
        rng, image, size = random.Random(c["seed"]), c["image_w_h"], c["input_size"]
        found = [list(crops.MultiScaleCrop().box(*image, size, rng)) for _ in c.get("crop_w_h_left_top", [])]
        case.fact(c, "crop_w_h_left_top", found)


def check_views(case: Case, c: Record) -> None:
    """Frames and places of each test view; a pool of sparse frames has no stride."""
    height, width = c["frame_hw"]
    stride = c.get("stride")
    for v in c["views"]:
        clip, which = (v["video_len"], c["clip_len"]), (v["temporal_view"], c["n_temporal"])
        dense = () if c["sparse"] else (stride,)
        frames = (sampling.dense_view if dense else sampling.segments_view)(*clip, *dense, *which)
        case.fact(v, "frames", frames.tolist())
        top, left = crops.view_offset(height, width, v["spatial_view"], c["n_spatial"])
        side = min(height, width)
        for key, ours in {"top": top, "left": left, "h": side, "w": side}.items():
            case.fact(v, key, ours)


@checks("frame_sampling")
def umt_sampling(case: Case) -> None:
    """UMT: sparse sampling of Kinetics, of pretraining and of Something-Something."""
    for c in case.facts.get("kinetics_sparse", []):
        rng = random.Random(c["seed"]) if c["mode"] == "train" else None
        index = sampling.spaced(c["video_len"], c["frames"], rng, c.get("temporal_view", 0), c.get("of", 1))
        case.fact(c, "indices", index.tolist())
    for c in [*case.facts.get("pretrain_sparse", []), *case.facts.get("ssv2", [])]:
        length, segments, mode = c["video_len"], c["segments"], c.get("mode", "train")
        if mode == "train":
            index = sampling.segments(length, segments, STATE(c["seed"]))
        elif mode == "validation":
            index = sampling.segments_centre(length, segments)
        else:
            index = sampling.segments_view(length, 2 * segments, 0, 1)
        case.fact(c, "indices", index.tolist())


@checks(names=("frame_indices*",))
def frame_indices(case: Case) -> None:
    """ViCLIP, UMT stage 2 and the demos of InternVid and InternVideo1."""
    for c in case.facts.get("rand", []):
        rngs = random.Random(c["seed"]), STATE(c["seed"])
        case.fact(c, "idx", sampling.sparse_released(c["vlen"], c["num_frames"], *rngs).tolist())
    for c in case.facts.get("middle", []):
        case.fact(c, "idx", sampling.sparse(c["vlen"], c["num_frames"]).tolist())
    for c in case.facts.get("first_of_segment", []):
        case.fact(c, "idx", sampling.sparse_first(c["vlen"], c["num_frames"], c.get("fix_start", 0)).tolist())
    for c in case.facts.get("fps", []):
        most = c["max_num_frames"] if c.get("max_num_frames", -1) > 0 else None
        rate = float(c["sample"].removeprefix("fps"))
        case.fact(c, "idx", sampling.per_second(c["vlen"], c["input_fps"], rate, most).tolist())
    for c in case.facts.get("internvid_demo_every_nth", []):
        case.fact(c, "idx", sampling.every_nth(c["vlen"], c.get("num_frames", 8)).tolist())
    for c in case.facts.get("internvideo1_demo_linspace", []):
        case.fact(c, "idx", sampling.ends_included(c["vlen"], c.get("num_frames", 8)).tolist())


@checks(names=("div_sampling*",))
def div_sampling(case: Case) -> None:
    """The clips of InternVid's diverse subset, in the order of drawing."""
    facts = case.facts
    sources = [subsets.source_of(name) for name in facts["videos"]]
    case.fact(facts, "sampled", subsets.diverse(sources, facts["k"], facts["numpy_seed"]).tolist())
