"""`python -m pretrain test` writes tables, JSON and a picture; interpolated weights are evaluated like any others."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pretrain.cli import main
from pretrain.export.interpolate import interpolate, interpolate_into
from pretrain.export.load_run import load_objective
from pretrain.metrics.report import as_markdown, section, write_results
from pretrain.plots.result_grid import Row, Tile, result_grid
from tests.helpers.runs import ROOT, arguments, fit, run

RECIPE = ["-c", str(ROOT / "recipes/viclip_tiny.yaml")]
EVALUATION = """
model:
  init_args:
    metrics:
      retrieval: {class_path: Retrieval, init_args: {dual_softmax: true, merge_texts: true, pictures: 3}}
      zero_shot: {class_path: ZeroShot, init_args: {templates: ["{}", "a {} thing"]}}
data:
  init_args:
    test: {class_path: Synthetic, init_args: {samples: 7, size: 64, seed: 3, label: shape}}
    test_clips: 2
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("viclip"), RECIPE, "--trainer.max_steps=2", "--trainer.val_check_interval=2")


def checkpoint(run: Path) -> str:
    return str(run / "checkpoints" / "step=0000002.ckpt")


def evaluate(run: Path, folder: Path, *more: str) -> None:
    (folder / "evaluation.yaml").write_text(EVALUATION)
    recipe = [*RECIPE, "-c", str(folder / "evaluation.yaml")]
    main(["test", *arguments(folder, recipe, f"--ckpt_path={checkpoint(run)}", *more)[1:]])


def test_a_table_json_and_a_picture(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    evaluate(trained, tmp_path)
    printed = capsys.readouterr().out
    written = (tmp_path / "run" / "results.md").read_text()
    for text in (printed, written):
        assert "## ViCLIP on Synthetic" in text and checkpoint(trained) in text
        assert "| | R1 | R5 | R10 | MdR | MnR |" in text and "| dsl/v2t |" in text and "| | top1 |\n" in text
        assert "views 2" in text and "templates 2" in text and "merge_texts True" in text
    (entry,) = json.loads((tmp_path / "run" / "results.json").read_text())
    found = entry["metrics"]["zero_shot"]
    assert found["measured"]["classes"] == 4 and found["values"].keys() == {"top1"} and found["values"]["top1"] < 100
    assert entry["clip"]["test_clips"] == 2 and "pretrain test -c" in entry["command"]
    picture = Image.open(tmp_path / "run" / entry["metrics"]["retrieval"]["picture"])
    assert picture.width > 300 and picture.height > 300

    evaluate(trained, tmp_path)  # repeated, it replaces its entry; other clips add one
    evaluate(trained, tmp_path, "--data.init_args.test_clips=1")
    entries = json.loads((tmp_path / "run" / "results.json").read_text())
    assert [e["clip"]["test_clips"] for e in entries] == [1, 2]
    assert (tmp_path / "run" / "results.md").read_text().count("## ViCLIP on Synthetic") == 2


@pytest.mark.slow
def test_two_ranks_and_small_batches_agree(trained: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    found = []
    for folder, more in (
        (one, []),
        (two, ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.init_args.micro_batch=3"]),
    ):
        folder.mkdir()
        (folder / "evaluation.yaml").write_text(EVALUATION)
        recipe = [*RECIPE, "-c", str(folder / "evaluation.yaml"), f"--ckpt_path={checkpoint(trained)}", *more]
        run(["test", *arguments(folder, recipe)[1:]])
        found.append(json.loads((folder / "run" / "results.json").read_text())[0])
    for name in ("retrieval", "zero_shot"):
        a, b = (entry["metrics"][name] for entry in found)
        assert a["measured"] == b["measured"] and a["values"] == pytest.approx(b["values"], abs=1e-4)
    assert found[1]["devices"] == "2 x cpu"


def test_interpolated_weights_are_evaluated(trained: Path, tmp_path: Path) -> None:
    mix = [
        "--trainer.callbacks+=WiseFT",
        "--trainer.callbacks.alpha=1",
        f"--trainer.callbacks.start={checkpoint(trained)}",
    ]
    evaluate(trained, tmp_path)
    evaluate(trained, tmp_path, *mix)
    entries = json.loads((tmp_path / "run" / "results.json").read_text())
    assert entries[0]["changed"] == [f"WiSE-FT 1 with {checkpoint(trained)}, all tensors"] and not entries[1]["changed"]
    assert entries[0]["metrics"]["zero_shot"]["values"] == entries[1]["metrics"]["zero_shot"]["values"]


def test_rows_and_columns() -> None:
    lines = as_markdown({"t2v/R1": 12.375, "t2v/MdR": 3, "v2t/R1": 1}, "retrieval")
    assert lines == ["| | R1 | MdR |", "|---|---:|---:|", "| t2v | 12.38 | 3.00 |", "| v2t | 1.00 |  |"]
    assert as_markdown({"": 50.0}, "qa") == ["| | value |", "|---|---:|", "| qa | 50.00 |"]


def test_the_text_of_a_section(tmp_path: Path) -> None:
    entry = {
        "id": "a", "model": "ViCLIP", "weights": "x|y.ckpt", "changed": [], "clip": {"frames": 8}, "losses": {},
        "data": {"class_path": "datamodules.Files", "init_args": {"path": "lists/mine.csv", "root": None}},
        "unreadable": ["a.mp4: broken"], "precision": "32-true", "devices": "1 x cpu", "software": "", "when": "",
        "command": "",
        "metrics": {"qa": {"kind": "Accuracy", "options": {}, "measured": {"questions": 3}, "values": {"": 1}}},
    }  # fmt: skip
    text = section(entry)
    assert "## ViCLIP on Files, mine.csv" in text and "x\\|y.ckpt" in text and "| unreadable | 1 video" in text
    assert "Accuracy, questions 3" in text
    write_results(tmp_path, entry)
    write_results(tmp_path, {**entry, "id": "b"})
    assert [e["id"] for e in json.loads((tmp_path / "results.json").read_text())] == ["b", "a"]


ENTRY = {"model": "ViCLIP", "weights": "a", "changed": [], "data": "Files", "clip": {}, "unreadable": [], "metrics": {}}
ENTRY |= {"losses": {}, "precision": "32", "devices": "1 x cpu", "software": "", "command": "", "when": ""}


@pytest.mark.parametrize("damaged", ['[{"id": ', "{}\n", '[{"id": "a"}]', ""])
def test_damaged_results_are_named_kept_and_written_anew(
    damaged: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "results.json"
    file.write_text(damaged)
    for name in ("new", "newer"):
        write_results(tmp_path, {"id": name, **ENTRY})
    assert [entry["id"] for entry in json.loads(file.read_text())] == ["newer", "new"]
    kept = tmp_path / "results.json.damaged-0"
    assert kept.read_text() == damaged and caplog.text.count(f"{file} is damaged") == 1


def test_evaluations_that_end_at_once_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: write_results(tmp_path, {"id": str(n), **ENTRY}), range(8)))
    entries = json.loads((tmp_path / "results.json").read_text())
    assert sorted(entry["id"] for entry in entries) == [str(n) for n in range(8)]
    assert {file.name for file in tmp_path.iterdir()} == {"results.json", "results.md"}


def test_a_result_grid_takes_odd_names_and_missing_pictures() -> None:
    frame = np.zeros((60, 90, 3), np.uint8)
    tiles = [
        Tile([frame, frame], ["1", "sub/ключ 影片 😀.mp4" * 9], correct=True),
        Tile([], ["2", "\udcff"], placeholder="gone " * 40),
    ]
    picture = result_grid([Row("a dog " * 99, "", tiles), Row("nothing was found")], 60)
    assert picture.dtype == np.uint8 and picture.shape[1] < 2 * 200 + 50
    assert ((picture == (20, 150, 70)).all(-1)).sum() > 300  # the green frame


def test_mixing_weights() -> None:
    tuned = {"shared": torch.ones(2, dtype=torch.bfloat16), "own": torch.ones(3), "count": torch.tensor(5)}
    start = {"shared": torch.zeros(2), "count": torch.tensor(7), "other": torch.zeros(1)}
    state = interpolate(tuned, start, 0.25)
    assert state["shared"].tolist() == [0.25, 0.25] and state["shared"].dtype == torch.bfloat16
    assert state["own"] is tuned["own"] and state["count"] == 5 and state.keys() == tuned.keys()
    with pytest.raises(ValueError, match="alpha is the share"):
        interpolate(tuned, start, 2)
    with pytest.raises(ValueError, match=r"shared is \(2,\) in the tuned weights and \(3,\)"):
        interpolate(tuned, {"shared": torch.zeros(3)}, 0.5)


def test_clip_is_mixed_into_viclip(trained: Path, tmp_path: Path) -> None:
    """From a CLIP of OpenAI's layout; the temporal table and the temperature, which it has not, stay."""
    from models.convert import clip
    from models.convert.rules import prefixed, to_theirs
    from models.viclip import inflate

    model, _ = load_objective(str(trained))
    tuned = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    base = {name: torch.randn_like(tensor) for name, tensor in tuned.items()}
    base["encoder.patch_embed.proj.weight"] = base["encoder.patch_embed.proj.weight"][:, :, 0]
    theirs, unknown = to_theirs({**prefixed(clip.OPENAI, "encoder."), **clip.OPENAI_TEXT}, base)
    assert set(unknown) == {"encoder.time.table", "temperature"}
    torch.save(theirs, tmp_path / "clip.pt")
    assert set(interpolate_into(model, str(tmp_path / "clip.pt"), 0.5)) == set(unknown)
    for name, tensor in model.state_dict().items():
        other = base[name] if name not in unknown else tuned[name]
        if other.ndim != tensor.ndim:
            other = inflate(other, tensor.shape[2])  # patches of pictures
        torch.testing.assert_close(tensor, (tuned[name] + other) / 2)


def test_the_tool_writes_a_checkpoint(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from tools.wise import main as wise

    (tmp_path / "start").mkdir()
    other = fit(tmp_path / "start", RECIPE, "--trainer.max_steps=2", "--seed_everything=5")
    out = tmp_path / "mixed.ckpt"
    assert wise([str(trained), checkpoint(other), "--alpha", "0.3", "--out", str(out)]) == 0
    assert "0 tensors" in capsys.readouterr().out
    a, b, c = (load_objective(str(path))[0].state_dict() for path in (trained, other, out))
    for name in a:
        torch.testing.assert_close(c[name], 0.3 * a[name] + 0.7 * b[name])
    assert "optimizer_states" not in torch.load(out, weights_only=True)
    evaluated = tmp_path / "evaluated"
    evaluated.mkdir()
    (evaluated / "evaluation.yaml").write_text(EVALUATION)
    main(["test", *arguments(evaluated, [*RECIPE, "-c", str(evaluated / "evaluation.yaml")], f"--ckpt_path={out}")[1:]])
    assert wise([str(trained), str(tmp_path / "none.ckpt"), "--out", str(tmp_path / "x.ckpt")]) == 2
    assert "no checkpoint at" in capsys.readouterr().err
    assert np.isfinite(
        json.loads((evaluated / "run/results.json").read_text())[0]["metrics"]["zero_shot"]["values"]["top1"]
    )
