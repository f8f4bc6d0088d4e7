"""VBench against the official code: preprocessing, frames, arithmetic of each quality dimension, and totals."""

from typing import get_args

import torch
from torch import Tensor, nn

from pretrain.metrics.vbench import motion_smoothness, transforms
from pretrain.metrics.vbench.aesthetic_quality import aesthetic_scores
from pretrain.metrics.vbench.consistency import Consistency
from pretrain.metrics.vbench.dino import DINO, fit_positions
from pretrain.metrics.vbench.dynamic_degree import PIXELS as DYNAMIC_PIXELS
from pretrain.metrics.vbench.dynamic_degree import SHARE as DYNAMIC_SHARE
from pretrain.metrics.vbench.dynamic_degree import DynamicDegree, moving_pairs_needed
from pretrain.metrics.vbench.flow import Flow, largest_lengths, short_side_threshold
from pretrain.metrics.vbench.frame_mean import FrameMean
from pretrain.metrics.vbench.frames import Block, middle_frames, stride_to_8_fps
from pretrain.metrics.vbench.imaging_quality import percent
from pretrain.metrics.vbench.motion_smoothness import MotionSmoothness
from pretrain.metrics.vbench.prompts import prompt_of
from pretrain.metrics.vbench.scorer import Pass
from pretrain.metrics.vbench.scoring import means
from pretrain.metrics.vbench.static_filter import PIXELS as STATIC_PIXELS
from pretrain.metrics.vbench.static_filter import SHARE as STATIC_SHARE
from pretrain.metrics.vbench.static_filter import StaticFilter, moving_pairs_allowed
from pretrain.metrics.vbench.temporal_flickering import TemporalFlickering, pixel_difference
from pretrain.metrics.vbench.totals import i2v_totals, normalise, totals
from pretrain.metrics.vbench.video_score import VideoFacts, VideoScore
from tests.parity import checks
from tests.parity.case import Case, Record

VIDEO = VideoFacts("a.mp4", length=0, fps=8.0)


def within(case: Case, largest: float = 1.0) -> dict[str, float]:
    """The tolerance that the case states; values of up to `largest` are float32 at best."""
    return {"atol": max(case.facts["tolerance"], largest * 1e-7), "rtol": 0}


def in_blocks(running: Pass, frames: Tensor, size: int = 3) -> VideoScore:
    """The score of frames `[T, 3, H, W]` that come in blocks."""
    for start in range(0, len(frames), size):
        running.add(Block(frames[start : start + size], start))
    return running.finish()


def channels_first(frames: Tensor) -> Tensor:
    return frames.permute(0, 3, 1, 2)


@checks("consistency")
def consistency(case: Case) -> None:
    facts, scores, close = case.facts, [], within(case)
    for record in facts.get("cases", ()):
        features = case[record["features"]]
        case.sizes(record, frames=len(features), dim=features.shape[1])
        running = Consistency(VIDEO, lambda block: block.frames, "subject_consistency")
        for part in features.split(4):
            running.extend(part)
        scores.append(running.finish())
        for name in ("subject_video_score", "background_video_score"):
            case.fact(record, name, scores[-1].value, close)
        case.fact(record, "background_video_sum", scores[-1].details["video_sim"], {"atol": 1e-5, "rtol": 1e-6})
        case.fact(record, "pairs", scores[-1].count)
    both = means(scores)
    for name, ours in (
        ("aggregate_one_process_subject", both.official("subject_consistency")),
        ("aggregate_one_process_background", both.official("background_consistency")),
        ("aggregate_many_process_subject", both.videos),
    ):
        case.fact(facts, name, ours, close)


@checks("dino_vit")
def dino_vit(case: Case) -> None:
    c = case.facts["config"]
    (side,) = c["img_size"]
    sizes = {"img_size": side, "patch_size": c["patch_size"], "embed_dim": c["embed_dim"], "depth": c["depth"]}
    dino = DINO(**sizes, num_heads=c["num_heads"], mlp_ratio=c["mlp_ratio"])
    weights = {name: case[name] for name in case.names() if name.startswith("state.")}
    dino.load({name.removeprefix("state."): tensor for name, tensor in weights.items()})
    close = {"atol": case.facts["tolerance"], "rtol": 0}
    for record in case.facts["inputs"]:
        x = case[record["x"]]
        case.sizes(record, height=x.shape[2], width=x.shape[3])
        case.close(record["cls"], lambda x=x: dino(x), close)
        patches = x.shape[2] // c["patch_size"], x.shape[3] // c["patch_size"]
        case.close(record["pos"], lambda patches=patches: fit_positions(dino.vit.pos_embed, *patches), close)


@checks("temporal_flickering")
def temporal_flickering(case: Case) -> None:
    scores = []
    for record in case.facts.get("cases", ()):
        frames = channels_first(case[record["frames"]])
        scores.append(in_blocks(TemporalFlickering().start(VIDEO), frames))
        case.fact(record, "score", scores[-1].value, within(case))
        differences = pixel_difference(frames[:-1], frames[1:]).tolist()
        case.fact(record, "mae_per_pair", differences, {"atol": 1e-5, "rtol": 0})  # theirs are float32
    case.fact(case.facts, "mean_over_videos", means(scores).official("temporal_flickering"), within(case))


def stored(flows: Tensor) -> Flow:
    """A flow model that returns `flows` `[n, 2, H, W]` one after another."""
    left = iter(flows.split(1))
    return lambda a, b: next(left)


@checks("dynamic_degree")
def dynamic_degree(case: Case) -> None:
    close = {"atol": case.facts["tolerance"], "rtol": 1e-6}
    for record in case.facts.get("cases", ()):
        flows, (h, w) = case[record["flows"]], (record["height"], record["width"])
        case.sizes(record, frames=len(flows) - 1)
        assert flows.shape[2:] == (h, w)
        frames = len(flows) - 1
        dynamic, static = largest_lengths(flows[:-2], DYNAMIC_SHARE), largest_lengths(flows, STATIC_SHARE)
        case.fact(record, "dynamic_pair_scores", dynamic.tolist(), close)
        case.fact(record, "static_pair_scores", static.tolist(), close)
        case.fact(record, "dynamic_threshold", short_side_threshold(DYNAMIC_PIXELS, h, w), close)
        threshold = short_side_threshold(STATIC_PIXELS, h, w)
        case.fact(record, "static_threshold", threshold, close)
        case.fact(record, "dynamic_count", moving_pairs_needed(frames))
        case.fact(record, "static_count", moving_pairs_allowed(frames))
        black = torch.zeros(frames, 3, h, w, dtype=torch.uint8)
        case.fact(record, "is_dynamic", in_blocks(DynamicDegree(stored(flows)).start(VIDEO), black).value == 1)
        case.fact(record, "is_static", in_blocks(StaticFilter(stored(flows)).start(VIDEO), black).value == 1)
    for record in case.facts.get("counts", ()):
        case.fact(record, "dynamic", moving_pairs_needed(record["frames"]))
        case.fact(record, "static", moving_pairs_allowed(record["frames"]))
    for record in case.facts.get("frame_stride", ()):
        case.fact(record, "stride", stride_to_8_fps(record["fps"]))


class GivenFrames:
    """Interpolation that returns stored network outputs, in order."""

    name = "stored"

    def __init__(self, middle: Tensor) -> None:
        self.middle = iter(middle.split(1))

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        made, (h, w) = next(self.middle), a.shape[-2:]
        left, right, top, bottom = transforms.even_padding(made.shape[-2], made.shape[-1], 16)
        assert (made.shape[-2] + top + bottom, made.shape[-1] + left + right) == (h, w)
        return nn.functional.pad(made, (left, right, top, bottom))


@checks("motion_smoothness")
def smoothness(case: Case) -> None:
    for record in case.facts.get("cases", ()):
        frames, middle = channels_first(case[record["frames"]]), case[record["middle"]]
        case.sizes(record, n_frames=len(frames))
        score = in_blocks(MotionSmoothness(GivenFrames(middle)).start(VIDEO), frames)
        case.fact(record, "compared_pairs", score.count)
        case.fact(record, "score", score.value, within(case))
        made = motion_smoothness.as_uint8(middle)
        error = pixel_difference(frames[1 : 2 * len(made) : 2], made).mean().item()
        case.fact(record, "mean_abs_error", error, within(case, 255))
    for record in case.facts.get("pads_left_right_top_bottom", ()):
        case.fact(record, "pad", list(transforms.even_padding(record["height"], record["width"], 16)))


@checks("quality")
def quality(case: Case) -> None:
    close = {"atol": case.facts["tolerance"], "rtol": 0}
    for record in case.facts.get("resize", ()):
        h, w = record["height"], record["width"]
        frame = torch.zeros(1, 3, h, w, dtype=torch.uint8)
        for mode in get_args(transforms.ImagingMode):
            case.fact(record, mode, list(transforms.for_musiq(frame, mode).shape[-2:]))
    if "aesthetic" in case.facts:
        aesthetic = case.facts["aesthetic"]
        head = nn.Linear(case["weight"].shape[1], 1)
        head.load_state_dict({"weight": case["weight"], "bias": case["bias"]})
        videos = [case[name] for name in aesthetic["features"]]
        mean = lambda video: FrameMean(video, lambda block: aesthetic_scores(block.frames, head))  # noqa: E731
        found = [in_blocks(mean(VIDEO), features) for features in videos]
        case.fact(aesthetic, "per_video", [score.value for score in found], close)
        case.fact(aesthetic, "score", means(found).official("aesthetic_quality"), close)
    if "imaging" in case.facts:
        imaging = case.facts["imaging"]
        frames = [torch.tensor(scores, dtype=torch.float64) / 100 for scores in imaging["frame_scores"]]
        found = [in_blocks(FrameMean(VIDEO, lambda block: block.frames, percent), scores) for scores in frames]
        case.fact(imaging, "per_video", [score.details["video_results"] for score in found], close)
        case.fact(imaging, "score", means(found).official("imaging_quality"), close)


@checks("vb_utils")
def frames_names_and_transforms(case: Case) -> None:
    for record in case.facts.get("frame_index_middle", ()):
        case.fact(record, "index", middle_frames(record["num_frames"], record["video_len"]))
    for record in case.facts.get("prompt_from_filename", ()):
        case.fact(record, "prompt", prompt_of(record["path"]))
    close = {"atol": case.facts["tolerance"], "rtol": 0}
    for record in case.facts.get("transforms", ()):
        frames, size = channels_first(case[record["frames"]]), record["size"]
        for name in ("clip", "dino", "viclip", "style"):
            if name in record:
                make = getattr(transforms, f"for_{name}")
                case.close(record[name], lambda make=make, frames=frames, size=size: make(frames, size), close)


def dimension_name(name: str) -> str:
    """A dimension as it is called here: of "Subject Consistency" or "Video-Text Camera Motion" too."""
    return name.lower().replace(" ", "_").replace("-", "_")


def renamed(record: Record) -> dict[str, float]:
    return {dimension_name(name): value for name, value in record.plain().items()}


@checks("totals", not_needed={"rows.missing": "the dimensions that `raw` counts as 0, as the script does"})
def all_totals(case: Case) -> None:
    facts = case.facts
    close = {"atol": facts["tolerance"], "rtol": 0}
    percent = {"atol": facts["tolerance_published_percent"], "rtol": 0}
    for record in facts.get("rows", ()):
        record["model"]
        raw = renamed(record["raw"])
        found = {name: total.value for name, total in totals(raw).items()}
        if "normalised" in record:
            for name in record["raw"]:
                key = dimension_name(name)
                case.fact(record["normalised"], name, normalise(key, raw[key]), close)
        for name, value in found.items():
            case.fact(record, name, value, close)
            if "published_percent" in record:
                case.fact(record["published_percent"], name, 100 * value, percent)
    for record in facts.get("i2v_rows", ()):
        found = i2v_totals(renamed(record["raw"]))
        case.fact(record, "i2v_score", found["i2v"].value, close)
        case.fact(record, "quality", found["quality"].value, close)
        case.fact(record, "total", found["total"].value, close)
