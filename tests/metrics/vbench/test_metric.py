"""VBench as a metric: ranks and batches change nothing, and a total that lacks a dimension is named partial."""

import math
from functools import partial

import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pretrain.metrics.vbench import DIMENSIONS, Models, Parts, VBench, build_scorers
from pretrain.metrics.vbench.frames import TensorVideo
from pretrain.metrics.vbench.prompts import Prompt
from pretrain.metrics.vbench.scoring import means, score_video
from pretrain.metrics.vbench.totals import totals
from tests.helpers.metric_cases import batches, evaluate, over_ranks
from tests.helpers.vbench import AUXILIARY, Captioner, Detector, Midpoint, all_scorers, moving_frames, video_facts

LENGTH, VIDEOS = 12, 5
PROMPTS = {"a red cat": Prompt("a red cat", DIMENSIONS, AUXILIARY)}


def metric() -> VBench:
    return VBench(all_scorers(), PROMPTS, fps=8.0)


def clips() -> tuple[dict, dict]:
    video = torch.stack([moving_frames(LENGTH, seed) for seed in range(VIDEOS)])
    return {"video": video}, {"name": [f"{i}.mp4" for i in range(VIDEOS)], "text": ["a red cat"] * VIDEOS}


def same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-6, rtol=0, equal_nan=True)


def test_the_metric_has_both_means_and_the_total() -> None:
    outputs, batch = clips()
    found = evaluate(metric, [(outputs, batch)])[1]
    scores = [
        score_video(TensorVideo(name, clip, 8.0), video_facts(name, LENGTH), all_scorers())
        for name, clip in zip(batch["name"], outputs["video"], strict=True)
    ]
    raw = {}
    for name in DIMENSIONS:
        both = means(score[name] for score in scores)
        assert both.scored + both.missing == VIDEOS
        assert found[f"{name}/units"] == pytest.approx(both.units, abs=1e-6)
        assert found[f"{name}/videos"] == pytest.approx(both.videos, abs=1e-6)
        assert found[name] == pytest.approx(both.official(name), abs=1e-6)
        raw[name] = both.official(name)
    assert found["total"] == pytest.approx(totals(raw)["total"].value, abs=1e-6)


def test_batches_and_ranks_change_nothing() -> None:
    whole = evaluate(metric, [clips()])[1]
    parts = batches(*clips(), [2, 1, 2])
    same(evaluate(metric, parts)[1], whole)
    for share, other in (parts[:2], parts[2:]), (parts, []):  # the other rank may have no videos
        ranks = metric(), metric()
        for rank, own in zip(ranks, (share, other), strict=True):
            for outputs, batch in own:
                rank.update(outputs, batch)
        ranks[1].merge_state(ranks[0])
        same(ranks[1].compute(), whole)


@pytest.mark.slow
def test_processes_gather_the_same_scores() -> None:
    whole = evaluate(metric, [clips()])[1]
    parts = batches(*clips(), [2, 1, 2])
    shares = [parts[:2], parts[2:]], [parts, []]  # of two ranks; the last one has no videos
    for ranks in over_ranks([(metric, share) for share in shares]):
        for found in ranks:
            same(found, whole)


def test_a_total_without_all_dimensions_is_named_partial() -> None:
    some = partial(VBench, all_scorers()[:3], PROMPTS, 8.0)
    found = evaluate(some, [clips()])[1]
    assert "total" not in found and math.isnan(found["partial/semantic"])
    assert found["partial/total"] == found["partial/quality"] > 0
    outputs, batch = clips()
    batch["text"] = ["something else"] * VIDEOS  # no auxiliary_info: six dimensions cannot be scored
    made, found = evaluate(metric, [(outputs, batch)])
    assert math.isnan(found["scene"]) and "partial/total" in found and "quality" in found
    assert made.facts["videos without a score in a dimension"] == VIDEOS
    assert made.reasons[0].startswith("0.mp4: ")


def test_totals_name_what_they_lack() -> None:
    scores = dict.fromkeys(DIMENSIONS, 0.5)
    whole = totals(scores)
    assert not any(total.partial for total in whole.values())
    found = totals(scores | {"scene": math.nan})
    assert found["semantic"].missing == found["total"].missing == ("scene",) and not found["quality"].partial
    zero = totals(scores | {"scene": 0.0})["semantic"].value
    assert found["semantic"].value > zero and not totals(scores | {"scene": 0.0})["semantic"].partial
    assert math.isnan(totals({})["total"].value)
    with pytest.raises(ValueError, match="no dimension 'scenes'"):
        totals({"scenes": 0.5})


def test_errors_name_what_is_missing() -> None:
    outputs, batch = clips()
    with pytest.raises(MisconfigurationException, match="scores uint8 clips"):
        evaluate(metric, [({"video": outputs["video"].float()}, batch)])
    with pytest.raises(ValueError, match="one scorer a dimension"):
        VBench([])
    with pytest.raises(ValueError, match="no dimension 'beauty'"):
        build_scorers(["beauty"], Models(random=True))
    for name, part in (("motion_smoothness", "interpolate"), ("color", "describe"), ("scene", "caption")):
        with pytest.raises(ValueError, match=f"no model for `{part}`"):
            build_scorers([name], Models(random=True))


@pytest.mark.slow
def test_all_dimensions_run_on_models_of_the_official_sizes() -> None:
    """Random weights; building the large models takes minutes."""
    parts = Parts(Midpoint(), Detector(), Detector(), Captioner(), actions=["a red cat", *map(str, range(399))])
    scorers = build_scorers(DIMENSIONS, Models(random=True), parts)
    frames = moving_frames(3, size=128)
    scores = score_video(TensorVideo("a.mp4", frames, 8.0), video_facts("a.mp4", 3), scorers)
    assert tuple(scores) == DIMENSIONS and not [name for name, score in scores.items() if not score.count]
