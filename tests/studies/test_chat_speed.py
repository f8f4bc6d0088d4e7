"""The benchmarks of chat models: both forms of a step and of answering do the same, and floors are counted."""

import json
from pathlib import Path

import pytest

from pretrain.studies.speed import answers, packing
from tools.benchmark import main


def test_packed_and_padded_steps_have_one_loss() -> None:
    sizes = packing.Sizes(64, 64, 1, encoder=64, blocks=1, frames=1, pixels=16)
    report = packing.measure(sizes, micro=2, samples=4, rounds=1)
    losses = list(report.losses.values())
    assert len(losses) == 3 and losses == pytest.approx(losses[:1] * 3, abs=1e-5) and losses[0] > 1
    lengths = 96 + packing.typical_order(packing.quantiles(4), 2)
    assert report.own_floor == pytest.approx(2 * (lengths[:2].max() + lengths[2:].max()) / lengths.sum())
    many = packing.typical_order(packing.quantiles(16), 4).reshape(-1, 4) + 96
    assert 4 * many.max(axis=1).sum() / many.sum() == pytest.approx(packing.padding_floor(4), rel=0.06)
    assert "of this batch" in report.markdown() and "language model" in report.markdown()
    assert packing.padding_floor(1) == pytest.approx(1, abs=0.01)
    assert 1.2 < packing.padding_floor(4) < packing.padding_floor(8) < 2


def test_answers_in_batches_are_those_of_one_by_one(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    options = ["--width=64", "--layers=1", "--batch=3", "--tokens=4", "--rounds=1", "--shared=video"]
    options.append(f"--json={tmp_path / 'out.json'}")
    assert main(["answers", *options]) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["equal"] == 3 and found["ratio"] > 0 and "3 of 3 answers are the same" in capsys.readouterr().out


def test_questions_of_the_benchmark_share_what_is_asked_for() -> None:
    assistant = answers.build(64, 1, 1100)
    for shared, systems, clips in (("nothing", 8, 8), ("system", 1, 8), ("video", 1, 2)):
        made = answers.requests_of(assistant, 8, shared)
        assert len({request.instruction for request in made}) == systems
        assert len({request.clips[0].data_ptr() for request in made}) == clips
