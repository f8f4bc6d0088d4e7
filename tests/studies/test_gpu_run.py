"""The tests and the benchmark of `make gpu`, at tiny sizes on a CPU: rows, goals, limits, and the whole script."""

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml

from models import clip, decoders, text, vit
from pretrain.studies import gpu
from pretrain.studies.gpu_report import as_markdown, goals
from pretrain.studies.speed import METHODS, Setting, gpu_step
from tests.helpers.runs import run_script

MODES = ("eager", "compiled")


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """Removes the tiny size after the test."""
    for table in (vit.SIZES, decoders.DECODER_SIZES, clip.CLIP_SIZES, text.TEXT_SIZES):
        monkeypatch.setitem(table, "tiny", {})


def row(case: str, contender: str, mode: str = "eager", **facts: object) -> dict:
    return {"case": case, "contender": contender, "mode": mode, "batch": 2, **facts}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["videomae_l", "viclip_b"])
def test_each_contender_has_a_row_eager_and_compiled(name: str, tiny: None) -> None:
    ceilings, *rows = gpu_step.measure(name, torch.device("cpu"), tiny=True, steps=1)
    assert ceilings["product_flops"] > 0 and ceilings["copy_bytes_per_second"] > 0 and ceilings["machine"]
    case = gpu_step.CASES[name]
    assert [(r["contender"], r["mode"]) for r in rows] == [
        (c, m) for c in case.contenders for m in ("eager", "compiled")
    ]
    for r in rows:
        assert r["error"] is None and r["steps"] == 1 and 0 < r["loss"] < 10
        assert r["clips_per_second"] == pytest.approx(2 / r["seconds"]) and r["peak_bytes"] is None
        assert (r["planned_bytes"] is not None) == (r["contender"] in case.models)
        if r["contender"] != "dual":
            flop = r["mfu"] * r["seconds"] * ceilings["product_flops"]
            setting = Setting("tiny", 2, 8, 64, precision="bf16")
            assert flop == pytest.approx(METHODS[case.method].flops(setting), rel=0.1)
        assert r["attention"] == ("sdpa" if r["contender"] == "transformers" else None)


def test_a_contender_that_fails_is_a_row_and_the_others_are_measured(tiny: None, monkeypatch, capsys) -> None:
    build = METHODS["umt"].build

    def fails(name: str, setting: Setting):
        if name == "plain":
            raise torch.OutOfMemoryError("out of memory\nand more")
        return build(name, setting)

    monkeypatch.setitem(METHODS, "umt", METHODS["umt"]._replace(build=fails))
    monkeypatch.setattr(gpu_step.parallel, "compile_blocks", lambda *_: None)  # the whole script below compiles
    _, eager, compiled, plain = gpu_step.measure("umt_b", torch.device("cpu"), tiny=True, steps=1)
    assert plain["error"] == "OutOfMemoryError: out of memory" and plain["seconds"] is None
    assert eager["error"] is compiled["error"] is None and compiled["mode"] == "compiled"
    assert "Traceback" in capsys.readouterr().err


def test_goals_are_the_figures_of_the_rows() -> None:
    rows = [
        row("videomae_l", "ours", seconds=0.5, mfu=0.4, peak_bytes=12, planned_bytes=10.0),
        row("videomae_l", "dual", seconds=0.4, mfu=0.44, peak_bytes=9, planned_bytes=10.0),
        row("videomae_l", "dual", "compiled", seconds=0.35, mfu=0.46),
        row("videomae_l", "transformers", seconds=1.0, mfu=0.2),
        row("videomae_l", "transformers", "compiled", seconds=0.7, mfu=0.3),
        row("umt_b", "ours", "compiled", error="OutOfMemoryError: out of memory"),
    ]
    found = {goal["goal"]: (goal["value"], goal["met"]) for goal in goals(rows)}
    assert found["MFU of VideoMAE L"] == (0.46, True)
    assert found["VideoMAE L over transformers, V1's form"] == (pytest.approx(1.4), False)
    assert found["VideoMAE L over transformers, dual masking"] == (pytest.approx(2.0), True)
    assert found["MFU of UMT B with its teacher"] == (None, None)
    assert found["error of the plan's memory"] == (pytest.approx(0.2), False)
    text_ = as_markdown(report(rows))
    assert "| videomae_l dual, batch 2 | compiled | 0.3500 |" in text_ and "OutOfMemoryError" in text_
    assert "| MFU of UMT B with its teacher | >= 0.5 | not measured |  |" in text_


def report(rows: list[dict]) -> dict:
    more = {"clips_per_second": 1.0, "first_seconds": 1.0}
    lists = {"parts": [], "tests": {}, "ceilings": [], "missing_packages": ["flash_attn"], "machine": {"device": "G"}}
    return {"tiny": False, "rows": [{**more, **r} for r in rows], "goals": goals(rows), **lists}


def test_a_part_past_its_limit_is_cut_with_its_children_and_keeps_its_output(tmp_path: Path, capfd) -> None:
    code = "import subprocess, sys; print('begun', flush=True); subprocess.run(['sleep', '60'])"
    part = gpu._run("slow", [sys.executable, "-c", code], 1.0, tmp_path / "log.txt")
    assert part.outcome == "cut" and part.seconds < 20
    assert (tmp_path / "log.txt").read_text() == "begun\n" and "begun" in capfd.readouterr().out
    assert gpu._run("bad", [sys.executable, "-c", "exit(3)"], 20.0, None).outcome == "failed with 3"
    assert gpu._run("late", [sys.executable, "-c", ""], 0.0, None).outcome == "cut"


def test_points_of_quality_are_left_out_without_their_packages(tmp_path: Path, monkeypatch, capsys) -> None:
    find = gpu.importlib.util.find_spec
    monkeypatch.setattr(gpu.importlib.util, "find_spec", lambda name: None if name == "pybullet_data" else find(name))
    assert gpu.main(["--parts", "quality", "--out", str(tmp_path), "--device", "cpu", "--tiny"]) == 0
    assert "the part quality is left out: it needs pybullet_data" in capsys.readouterr().out


def test_points_of_quality_are_two_methods_of_size_s_on_the_study_s_videos(tmp_path: Path, monkeypatch) -> None:
    commands = {}
    monkeypatch.setattr(gpu, "_FOR_QUALITY", ())
    monkeypatch.setattr(gpu, "_run", lambda name, command, limit, log: commands.update({name: (command, limit)}))
    monkeypatch.setattr(gpu, "_report", lambda *_: {"rows": []})
    monkeypatch.setattr(gpu, "as_markdown", lambda report: "")
    with pytest.raises(AttributeError):  # no part was run
        gpu.main(["--parts", "quality", "--out", str(tmp_path)])
    command, limit = commands["quality"]
    words = command[2:]
    assert limit == 240 and words[words.index("--methods") + 1 : words.index("--seeds")] == ["videomae", "umt"]
    assert words[words.index("--data") + 1] == "actions_112" and words[words.index("--device") + 1] == "cuda"
    given = yaml.safe_load((gpu.ROOT / "recipes/quality/actions_112.yaml").read_text())
    assert int(words[words.index("--steps") + 1]) == given["trainer"]["max_steps"]
    for name in ("videomae", "umt"):
        encoder = yaml.safe_load((gpu.ROOT / f"recipes/quality/actions_112_{name}.yaml").read_text())["model"]
        sizes = encoder["init_args"]["encoder"]["init_args"]
        assert {key: sizes[key] for key in vit.SIZES["small"]} == vit.SIZES["small"]


def test_the_outcomes_of_tests_are_counted_once(tmp_path: Path) -> None:
    lines = ["tests/a.py::test_x[cpu] PASSED  [ 33%]", "[gw1] [ 66%] FAILED tests/a.py::test_y[1] "]
    (tmp_path / "tests.txt").write_text("\n".join([*lines, "FAILED tests/a.py::test_y[1] - assert", "1 failed"]))
    assert gpu._report(tmp_path, [], [], tiny=True)["tests"] == {"PASSED": 1, "FAILED": 1}


@pytest.mark.slow
def test_points_of_quality_are_measured_on_a_cpu(tmp_path: Path) -> None:
    pytest.importorskip("pybullet_data")
    run_script("tools/gpu.py", ["--device", "cpu", "--tiny", "--parts", "quality", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "quality/actions/records.json").read_text())["records"]
    assert {(r["method"], r["step"], r["protocol"]) for r in found} == {
        ("videomae", step, probe) for step in (0, 2) for probe in ("linear", "attentive", "k-NN")
    }


@pytest.mark.parametrize("name", ["umt_b", pytest.param("videomae_b", marks=pytest.mark.slow)])
def test_the_whole_script_runs_on_a_cpu(tmp_path: Path, name: str) -> None:
    options = ["--device", "cpu", "--tiny", "--steps", "1", "--parts", "tests", name, "--out", str(tmp_path)]
    written = run_script("tools/gpu.py", options)
    found = json.loads((tmp_path / "report.json").read_text())
    assert [part["outcome"] for part in found["parts"]] == ["done", "done"] and found["tests"]
    rows = [(r["contender"], r["mode"]) for r in found["rows"]]
    every = [(c, m) for c in gpu_step.CASES[name].contenders for m in MODES]
    assert rows == [row for row in every if row != ("plain", "compiled")]
    assert (tmp_path / "report.md").read_text() in written
    assert f"| {name} ours, batch 2 | compiled |" in written and "Tiny sizes" in written
