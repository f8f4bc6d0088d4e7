"""Classes by name: words in lists, folders as classes, and one numbering for training and evaluation."""

import json
from pathlib import Path

import pytest

from datamodules import Files, Mixture, Shards, VideoData
from datamodules.making.prepare import prepare
from tests.helpers import videos
from tools.prepare import main as prepare_tool


def listed(file: Path, *rows: str) -> str:
    file.write_text("path,label\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return str(file)


def labels(source) -> list:
    return [source[i].label for i in range(len(source))]


def test_words_are_numbered_by_the_alphabet(tmp_path: Path) -> None:
    source = Files(listed(tmp_path / "l.csv", "x.mp4,dog", "y.mp4, 猫 ", "z.mp4,dog", "w.mp4,"))
    assert source.classes == ["dog", "猫"] and labels(source) == [0, 1, 0, None] and source.labels == 3
    (tmp_path / "l.jsonl").write_text('{"path": "x", "label": "run"}\n{"path": "y", "label": "dog"}\n')
    assert labels(Files(str(tmp_path / "l.jsonl"))) == [1, 0]
    (tmp_path / "several.csv").write_text("path,labels\nx.mp4,dog; run fast\ny.mp4,cat\nz.mp4,\n")
    several = Files(str(tmp_path / "several.csv"))
    assert several.classes == ["cat", "dog", "run fast"] and labels(several) == [[1, 2], [0, -1], [-1, -1]]


def test_folders_are_classes(tmp_path: Path) -> None:
    for name in ("dog/a/1.mp4", "dog/2.mp4", "cat/3.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        videos.make(tmp_path / name, frames=2)
    source = Files(str(tmp_path), labels="folders")
    assert source.classes == ["cat", "dog"]
    assert {source.names[i]: source[i].label for i in range(3)} == {"cat/3.mp4": 0, "dog/2.mp4": 1, "dog/a/1.mp4": 1}
    assert Files(str(tmp_path)).labels == 0
    videos.make(tmp_path / "lost.mp4", frames=2)
    with pytest.raises(ValueError, match=r"lost\.mp4 lies in no folder of a class"):
        Files(str(tmp_path), labels="folders")


def test_given_names_number_the_classes(tmp_path: Path) -> None:
    path = listed(tmp_path / "l.csv", "x.mp4,dog", "y.mp4,cat")
    (tmp_path / "names.txt").write_text("dog\nbird\ncat\n")
    source = Files(path, classes=str(tmp_path / "names.txt"))
    assert source.classes == ["dog", "bird", "cat"] and labels(source) == [0, 2]
    with pytest.raises(ValueError, match=r"l\.csv: x\.mp4 has the class 'dog', .* \(the nearest is 'dogs'\)"):
        Files(path, classes=["cat", "dogs"])
    numbers = listed(tmp_path / "n.csv", "x.mp4,0", "y.mp4,2")
    assert Files(numbers, classes=["a", "b", "c"])[1].label == 2
    with pytest.raises(ValueError, match=r"y\.mp4 has the class 2, and 2 classes have names"):
        Files(numbers, classes=["a", "b"])
    with open(tmp_path / "names.txt", "r+b") as file:  # a file of another kind, in little space
        file.truncate(2**25)
    with pytest.raises(ValueError, match="it is no list of classes"):
        Files(path, classes=str(tmp_path / "names.txt"))
    with pytest.raises(ValueError, match="'a' is named twice"):
        Files(numbers, classes=["a", "a"])


def test_evaluation_takes_the_numbers_of_training(tmp_path: Path) -> None:
    train = Files(listed(tmp_path / "t.csv", "x.mp4,ant", "y.mp4,bee", "z.mp4,cat"))
    val = Files(listed(tmp_path / "v.csv", "x.mp4,cat", "y.mp4,bee"))
    assert labels(val) == [1, 0]
    data = VideoData(train, val, global_batch=1)
    assert labels(val) == [2, 1] and val.classes == ["ant", "bee", "cat"]
    alone = Files(str(tmp_path / "v.csv"))  # as `test` is run, with the checkpoint of the run
    evaluated = VideoData(test=alone, global_batch=1)
    evaluated.load_state_dict(data.state_dict())
    assert labels(alone) == [2, 1]
    with pytest.raises(ValueError, match=r"has the class 'cow', .* \(they are 'ant', 'bee', 'cat'\)"):
        VideoData(train, Files(listed(tmp_path / "w.csv", "x.mp4,cow")), global_batch=1)


def test_a_mixture_numbers_the_classes_of_all(tmp_path: Path) -> None:
    a, b = (Files(listed(tmp_path / f"{k}.csv", f"x.mp4,{k}", "y.mp4,m")) for k in ("a", "z"))
    mixed = Mixture([a, b])
    assert mixed.classes == ["a", "m", "z"] and labels(mixed) == [0, 1, 2, 1]
    fixed = Files(str(tmp_path / "z.csv"), classes=["m", "z", "a"])
    assert labels(Mixture([Files(str(tmp_path / "a.csv")), fixed])) == [2, 0, 1, 0]


def test_shards_keep_names(tmp_path: Path) -> None:
    for name in "abc":
        videos.make(tmp_path / f"{name}.mp4", frames=2)
    rows = [("a", "walk"), ("b", "run"), ("c", "walk")]
    prepare(listed(tmp_path / "l.csv", *(f"{n}.mp4,{label}" for n, label in rows)), str(tmp_path / "out"), workers=1)
    shards = Shards(str(tmp_path / "out"))
    assert shards.classes == ["run", "walk"] and labels(shards) == [1, 0, 1] and shards.labels == 3
    VideoData(Files(listed(tmp_path / "t.csv", "a.mp4,run", "b.mp4,swim", "c.mp4,walk")), shards, global_batch=1)
    assert labels(shards) == [2, 0, 2] and shards.classes == ["run", "swim", "walk"]


def test_shards_are_made_of_folders_of_classes(tmp_path: Path) -> None:
    for name in ("walk/a.mp4", "run/b.mp4"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True)
        videos.make(tmp_path / "videos" / name, frames=2)
    options = [str(tmp_path / "videos"), str(tmp_path / "out"), "--labels", "folders", "--workers", "1", "--quiet"]
    assert prepare_tool(options) == 0
    shards = Shards(str(tmp_path / "out"))
    assert shards.classes == ["run", "walk"]
    assert {shards[k].origin: shards[k].label for k in range(2)} == {"run/b.mp4": 0, "walk/a.mp4": 1}


def test_a_sample_without_text_or_label_is_named(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path,text,label\nx.mp4,a man,1\ny.mp4,  ,\n")
    source = Files(str(tmp_path / "l.csv"))
    assert source.texts == 1 and source.lacks("text") == source.lacks("label") == "row 2 (y.mp4)"
    rows = [json.dumps({"path": "x.mp4", "text": "b" if i < 40_000 else " "}) for i in range(40_001)]
    (tmp_path / "long.jsonl").write_text("\n".join(rows))
    assert Files(str(tmp_path / "long.jsonl")).lacks("text") == "row 40001 (x.mp4)"
