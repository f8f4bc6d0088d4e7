"""VBench's scorers by hand: formulas, blocks of any size, shared features, and videos that cannot be scored."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pretrain.metrics.vbench.dynamic_degree import DynamicDegree
from pretrain.metrics.vbench.flow import FramesTooSmall
from pretrain.metrics.vbench.frames import TensorVideo
from pretrain.metrics.vbench.human_action import recognised
from pretrain.metrics.vbench.imaging_quality import ImagingQuality
from pretrain.metrics.vbench.interfaces import Detections
from pretrain.metrics.vbench.musiq import MUSIQ
from pretrain.metrics.vbench.scoring import OVER_UNITS, means, score_video
from pretrain.metrics.vbench.spatial_relationship import position_score
from pretrain.metrics.vbench.static_filter import StaticFilter, is_static
from pretrain.metrics.vbench.temporal_flickering import TemporalFlickering
from pretrain.metrics.vbench.totals import DIMENSIONS
from pretrain.metrics.vbench.transforms import for_clip, for_detector, for_umt
from pretrain.metrics.vbench.video_score import VideoFacts, VideoScore
from tests.helpers.vbench import (
    AUXILIARY,
    SIZE,
    Detector,
    Pooled,
    all_scorers,
    brightness_flow,
    moving_frames,
    video_facts,
)


def scores_of(length: int, block: int = 16, seed: int = 0, **facts) -> dict[str, VideoScore]:
    video = TensorVideo("a.mp4", moving_frames(length, seed), 8.0)
    return score_video(video, video_facts("a.mp4", length, **facts), all_scorers(), block)


def test_there_is_a_scorer_for_each_dimension_in_the_official_order() -> None:
    assert tuple(scores_of(20)) == DIMENSIONS


def test_scores_by_hand() -> None:
    frames = moving_frames(20).transpose(0, 1)
    scores = scores_of(20)
    features = F.normalize(Pooled()(for_clip(frames, SIZE)), dim=-1)
    cosines = (features @ features.t()).clamp(min=0)
    background = torch.stack([(cosines[i - 1, i] + cosines[0, i]) / 2 for i in range(1, 20)]).mean().item()
    assert scores["background_consistency"].value == pytest.approx(background, abs=1e-6)
    x = frames.double()
    flicker = 1 - (x[1:] - x[:-1]).abs().mean().item() / 255
    assert scores["temporal_flickering"].value == pytest.approx(flicker, abs=1e-12)
    middle = ((x[:-2:2] + x[2::2]) / 2).floor()[:9]
    smooth = 1 - (x[1::2][:9] - middle).abs().mean().item() / 255
    assert scores["motion_smoothness"].value == pytest.approx(
        smooth, abs=1e-4
    )  # float32 halves may fall to either side
    assert scores["imaging_quality"].details["video_results"] == pytest.approx(x.mean().item() / 2.55, abs=1e-4)
    assert scores["imaging_quality"].value == pytest.approx(x.mean().item() / 255, abs=1e-6)
    aesthetic = (2 * features.sum(1) + 1).mean().item() / 10
    assert scores["aesthetic_quality"].value == pytest.approx(aesthetic, abs=1e-5)
    light = frames[[i for i in range(20) if i not in (4, 9, 14, 19)]].float().mean(dim=(1, 2, 3))
    assert scores["object_class"].details == {"success_frame_count": int((light > 90).sum()), "frame_count": 16}
    assert scores["multiple_objects"].value == scores["spatial_relationship"].value == (light > 150).double().mean()
    right, named = int((light > 120).sum()), int((light > 90).sum())
    assert 0 < right < named < 16 and scores["color"].value == right / named
    assert scores["scene"].value == (light > 100).double().mean()
    assert len(scores["appearance_style"].details["frame_results"]) == 20
    assert scores["temporal_style"] == scores["overall_consistency"]


@pytest.mark.parametrize("block", [1, 2, 7, 64])
def test_the_size_of_blocks_changes_nothing(block: int) -> None:
    whole, parts = scores_of(23), scores_of(23, block)
    for name, score in whole.items():
        assert parts[name].count == score.count
        assert parts[name].value == pytest.approx(score.value, abs=1e-6), name


def test_features_are_shared() -> None:
    """One CLIP image tower serves two dimensions of the same picture, a detector four, ViCLIP two."""
    clip, viclip, detector = Pooled(), Pooled(), Detector()
    video = TensorVideo("a.mp4", moving_frames(20), 8.0)
    score_video(video, video_facts("a.mp4", 20), all_scorers(clip, viclip, detector))
    assert clip.frames == 2 * 20  # appearance style resizes in another way
    assert viclip.frames == 8 and detector.frames == 16


def test_one_frame_is_scored_only_where_no_frames_are_compared() -> None:
    scores = scores_of(1)
    compared = {"subject_consistency", "background_consistency", "temporal_flickering", "motion_smoothness"}
    missing = {name for name, score in scores.items() if not score.count}
    assert missing >= compared | {"dynamic_degree"}
    for name in missing:
        assert math.isnan(scores[name].value) and scores[name].reason.startswith("a.mp4: ")


def test_no_flow_is_asked_for_of_one_frame() -> None:
    def flow(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        assert len(a)  # RAFT fails on an empty batch
        return brightness_flow(a, b)

    scorers = [DynamicDegree(flow), StaticFilter(flow)]
    scores = score_video(TensorVideo("a.mp4", moving_frames(1), 8.0), video_facts("a.mp4", 1), scorers)
    assert all(not score.count and score.reason.startswith("a.mp4: ") for score in scores.values())


def test_what_a_prompt_lacks_is_said_and_not_scored() -> None:
    video = TensorVideo("a.mp4", moving_frames(20), 8.0)
    scores = score_video(video, VideoFacts("a.mp4", 20, 8.0), all_scorers())
    missing = {name: score.reason for name, score in scores.items() if not score.count}
    assert missing.keys() == {*AUXILIARY, "human_action", "temporal_style", "overall_consistency"}
    assert "needs the `object` of the prompt" in missing["object_class"]
    assert "the action 'a' is no class" in missing["human_action"]


def test_a_colour_that_no_caption_names_is_left_out_of_the_mean() -> None:
    dark = TensorVideo("dark.mp4", torch.zeros(3, 20, 20, 20, dtype=torch.uint8), 8.0)
    score = score_video(dark, video_facts("dark.mp4", 20), all_scorers())["color"]
    assert not score.count and score.reason.startswith("dark.mp4: no caption names a colour of 'cat'")
    found = means([score, VideoScore.mean(1.0, 4)])
    assert (found.videos, found.scored, found.missing) == (0.25, 1, 1)
    assert math.isnan(means([score]).official("color"))


def test_both_means() -> None:
    found = means([VideoScore.mean(3.0, 4), VideoScore.mean(1.0, 2)])
    assert found.units == 4 / 6 and found.videos == (0.75 + 0.5) / 2
    assert found.official("scene") == found.units and found.official("color") == found.videos
    assert set(DIMENSIONS) >= OVER_UNITS


@pytest.mark.parametrize("still", [True, False])
def test_flickering_is_scored_only_on_videos_that_pass_the_static_filter(still: bool) -> None:
    frames = torch.full((3, 16, 20, 20), 100, dtype=torch.uint8) if still else moving_frames(16)
    scorer = TemporalFlickering(StaticFilter(brightness_flow))
    score = score_video(TensorVideo("a.mp4", frames, 8.0), video_facts("a.mp4", 16), [scorer])["temporal_flickering"]
    assert (score.value == 1) if still else score.reason.startswith("a.mp4: it is not static")


def test_frames_too_small_for_a_model_are_not_scored() -> None:
    class Small(torch.nn.Module):
        def forward(self, a, b):
            raise FramesTooSmall("RAFT needs frames of 128 x 128 pixels or more, not 24 x 24")

    video, facts = TensorVideo("a.mp4", moving_frames(8), 8.0), video_facts("a.mp4", 8)
    scores = score_video(video, facts, [DynamicDegree(Small()), TemporalFlickering(StaticFilter(Small()))])
    for score in scores.values():
        assert score.reason.startswith("a.mp4: RAFT needs frames of 128 x 128") and not score.count
    line = TensorVideo("line.mp4", torch.zeros(3, 4, 1, 600, dtype=torch.uint8), 8.0)
    score = score_video(line, video_facts("line.mp4", 4), [ImagingQuality(MUSIQ(depth=1))])["imaging_quality"]
    assert score.reason.startswith("line.mp4: frames of 1 x 600 pixels are too narrow for MUSIQ")


def test_a_static_video_may_end_as_far_from_its_start_as_its_allowed_pairs_twice_over() -> None:
    """Of 16 frames, 2 pairs may exceed the threshold of 1 pixel, so the ends may differ by 4 pixels."""
    assert is_static(2, torch.tensor([4.0, 4.0]), 16, 1.0)
    assert not is_static(3, torch.tensor([0.0, 0.0]), 16, 1.0)
    assert not is_static(0, torch.tensor([0.0, 4.1]), 16, 1.0)


def test_boxes_on_a_diagonal_lie_on_neither_axis() -> None:
    a, b = [0.0, 0.0, 2.0, 2.0], [4.0, 4.0, 6.0, 6.0]
    assert position_score("on the left of", a, b) == position_score("on the top of", a, b) == 0
    assert position_score("on the left of", a, [4.0, 3.9, 6.0, 5.9]) == 1
    with pytest.raises(ValueError, match="'behind': name one of them"):
        position_score("behind", a, b)


@pytest.mark.parametrize(("score", "seen"), [(0.84996, True), (0.8499, False), (0.9, True)])
def test_an_action_counts_from_a_rounded_score_of_85_percent(score: float, seen: bool) -> None:
    logits = torch.full((10,), -9.0)
    logits[3] = torch.tensor(score, dtype=torch.float64).logit()
    assert recognised(logits, [f"Class {i}" for i in range(10)]) == (["class 3"] if seen else [])


def test_a_detector_gives_one_name_and_one_caption_a_box() -> None:
    with pytest.raises(ValueError, match="1 boxes, 2 names and 1 captions"):
        Detections(torch.zeros(1, 4), ["a", "b"], ["c"])


def test_a_failing_detector_is_not_a_frame_without_objects() -> None:
    def broken(frames):
        raise RuntimeError("out of memory")

    scorers = all_scorers()
    scorers[7].detect = broken
    with pytest.raises(RuntimeError, match="out of memory"):
        score_video(TensorVideo("a.mp4", moving_frames(20), 8.0), video_facts("a.mp4", 20), scorers)


def test_large_frames_are_reduced_for_the_detector_and_action_clips_are_cropped() -> None:
    large = torch.zeros(1, 3, 800, 900, dtype=torch.uint8)
    assert for_detector(large).shape[-2:] == (720, 810)
    assert for_detector(large[..., :768, :]).shape[-2:] == (768, 900)
    ramp = torch.arange(320).clamp(max=255).to(torch.uint8).expand(1, 3, 240, 320)
    clip = for_umt(ramp)
    assert clip.shape == (1, 3, 224, 224) and (clip.diff(dim=-1) >= 0).all()


def test_a_frozen_model_stays_without_gradient() -> None:
    clip = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 12))
    video = TensorVideo("a.mp4", moving_frames(8), 8.0)
    score = score_video(video, video_facts("a.mp4", 8), all_scorers(clip))["background_consistency"]
    assert score.count == 7 and all(p.grad is None for p in clip.parameters())
