"""Models of the official sizes take VBench's inputs, and the time of a run is told before one is loaded."""

from pathlib import Path

import pytest
import torch

from datamodules.decoding.reader import PyAV
from pretrain.metrics.vbench.models import Models
from pretrain.metrics.vbench.plan import Job, Plan
from pretrain.vbench import model_time, preparation_time
from pretrain.vbench.builder import Builder
from pretrain.vbench.preparation_time import frames_prepared
from pretrain.vbench.protocol import Facts
from tests.helpers import videos

SIZE = (256, 456)
OUTPUTS = {
    "DINO": (1, 768),
    "CLIP B/32": (1, 512),
    "CLIP L/14": (1, 1),
    "MUSIQ": (1,),
    "RAFT": (1, 2, 256, 456),
    "ViCLIP": (1, 768),
    "UMT": (1, 400),
}
# Multiplications and additions in 10^9, as published: of DeiT/DINO ViT-B/16 17.6 at 224 x 224, of CLIP's image towers
# 4.4 and 81.1 (open_clip's table of model profiles); ours end their last block with the class token alone.
PUBLISHED = {"DINO": 17.6, "CLIP B/32": 4.4, "CLIP L/14": 81.1}


@pytest.mark.parametrize("call", OUTPUTS)
def test_models_of_the_official_sizes_take_vbenchs_inputs(call: str) -> None:
    """Without computing; `test_all_dimensions_run_on_models_of_the_official_sizes` computes."""
    with torch.device("meta"), torch.no_grad():
        models = Models(device="meta", random=True)
        if call == "RAFT":
            models.raft.iterations = 1
        assert model_time.one_call(models, call, SIZE).shape == OUTPUTS[call]


@pytest.mark.parametrize("call", PUBLISHED)
def test_operations_are_those_that_are_published(call: str) -> None:
    assert model_time.operations(call, (224, 224)) / 2e9 == pytest.approx(PUBLISHED[call], rel=0.08)


def test_calls_of_a_video() -> None:
    calls = model_time.calls_of(
        ("dynamic_degree", "temporal_style", "overall_consistency", "imaging_quality"), 48, 24.0
    )
    assert calls == {"RAFT": 15, "ViCLIP": 1, "MUSIQ": 48}
    assert model_time.calls_of(("temporal_flickering", "dynamic_degree"), 48, 0.0, True) == {
        "RAFT, static filter": 49,
        "RAFT": 0,
    }
    assert model_time.calls_of(("motion_smoothness", "color"), 48, 24.0) == {}


def test_the_time_of_a_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    def rate(device: str) -> float:
        return 1e9 if device == "cpu" else torch.rand(1, device=device).item()

    monkeypatch.setattr(model_time, "multiply_rate", rate)
    cost = model_time.operations("CLIP B/32", SIZE)
    dimensions = ("background_consistency", "motion_smoothness")
    plan = Plan("custom", [Job(Path(f"{name}.mp4"), name, dimensions) for name in "ab"])
    facts = Facts({"a.mp4": (48, 24.0, SIZE), "b.mp4": (16, 8.0, (480, 640))}, [])
    told = model_time.model_time(plan, facts, Builder(dimensions))
    assert told.startswith(f"the models take about {64 * cost / 1e9:.0f} s on one cpu")
    assert "(CLIP B/32 100 %, not counted: the models of motion_smoothness) at the 1 GFLOP/s" in told
    told = model_time.model_time(plan, facts, Builder(dimensions, device="absent"))
    assert "how long absent takes cannot be measured here" in told
    none = Plan("custom", [Job(Path("a.mp4"), "a", ("temporal_flickering",))])
    assert model_time.model_time(none, facts, Builder(())) == "no time of models to count"


def test_frames_too_narrow_for_a_model_stop_no_plan() -> None:
    assert model_time.operations("MUSIQ", (1, 600)) > 0


def test_the_rate_of_a_device_is_measured() -> None:
    assert 1e8 < model_time.multiply_rate("cpu") < 1e13


def test_frames_are_prepared_once_for_what_shares_them() -> None:
    wanted = ("background_consistency", "aesthetic_quality", "dynamic_degree", "overall_consistency", "temporal_style")
    assert frames_prepared(wanted, 48, 24.0, False) == {"CLIP": 48, "RAFT": 15, "ViCLIP": 8}
    assert frames_prepared(("temporal_flickering", "motion_smoothness", "human_action"), 48, 24.0, True) == {
        **{"RAFT, static filter": 49, "UMT": 16},
        **{"temporal_flickering": 48, "motion_smoothness": 48},
    }


def test_the_time_of_preparing_frames_is_that_of_each_frame(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    every = preparation_time.seconds_of_a_frame([*preparation_time._preparations("longer")], (24, 40))
    assert len(every) == 10 and all(0 < seconds < 1 for seconds in every.values())
    assert preparation_time.seconds_of_a_frame(["MUSIQ"], (1, 600)) == {"MUSIQ": 0.0}
    paths = [Path(videos.make(tmp_path / f"{name}.mp4", frames=20, fps=8)) for name in "ab"]
    plan = Plan("custom", [Job(path, path.stem, ("temporal_flickering", "subject_consistency")) for path in paths])
    facts = Facts({path.name: (20, 8.0, (48, 80)) for path in paths}, [])
    monkeypatch.setattr(preparation_time, "seconds_of_a_frame", lambda names, *rest: dict.fromkeys(names, 0.5))
    told = preparation_time.preparation_time(plan, facts, Builder(("subject_consistency",)), PyAV(), 2)
    assert told.startswith("decoding takes about 0.") and told.endswith(
        ", as a.mp4 does, and preparing the frames 20.0 s"
    )
