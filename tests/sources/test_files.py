"""Videos from a folder, a list or a single file: their samples, and a clear error for a wrong list."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import Files
from datamodules.decoding.limits import Limits
from datamodules.loading.collate import collate
from datamodules.sources.source import Strings
from tests.helpers import videos


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return videos.make_odd(tmp_path_factory.mktemp("videos"))


def test_a_folder_a_list_and_a_single_video(folder: Path, tmp_path: Path) -> None:
    source = Files(str(folder / "good ü"))
    assert len(source) == 6 and source[1].name == "1 é.mp4" and source.texts == source.labels == 0
    assert len(Files(source[0].content)) == 1
    (tmp_path / "l.csv").write_text(
        'label,path,caption\n3,good ü/0 é.mp4,"one, two"\n4,good ü/2 é.mp4,three\n', encoding="utf-8"
    )
    (tmp_path / "l.jsonl").write_text(
        "".join(
            json.dumps(r) + "\n"
            for r in [{"path": str(folder / "good ü/0 é.mp4"), "text": "x"}, {"path": "1", "label": 2}]
        )
    )
    listed = Files(str(tmp_path / "l.csv"), root=str(folder))
    assert [(s.text, s.label, os.path.exists(s.content)) for s in listed] == [("one, two", 3, True), ("three", 4, True)]
    assert listed.texts == listed.labels == 2
    lines = Files(str(tmp_path / "l.jsonl"))
    assert (lines.texts, lines.labels) == (1, 1) and lines[0].text == "x" and lines[1].text is None
    assert os.path.exists(lines[0].content) and lines[1].content == str(tmp_path / "1")


def test_a_video_with_several_classes(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path,labels\na.mp4,3 17\nb.mp4,\nc.mp4,5\n")
    (tmp_path / "l.jsonl").write_text('{"path": "a.mp4", "labels": [3, 17]}\n{"path": "b.mp4", "labels": []}\n')
    source = Files(str(tmp_path / "l.csv"))
    assert [s.label for s in source] == [[3, 17], [-1, -1], [5, -1]] and source.labels == 3
    assert [s.label for s in Files(str(tmp_path / "l.jsonl"))] == [[3, 17], [-1, -1]]
    clips = torch.zeros(2, 3, 1, 8, 8, 3, dtype=torch.uint8)
    assert collate(clips, source, list(source))["label"].tolist() == 2 * [[3, 17], [-1, -1], [5, -1]]


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.csv", "file,label\nx.mp4,1\n", "no column `path`: its columns are 'file', 'label'"),
        ("a.csv", "", "no column `path`: its columns are none"),
        ("a.csv", "path\n", "lists no video"),
        ("a.csv", "path,label\nx.mp4,1\ny.mp4,cat\n", "line 3: the class 'cat' is a name, and line 2 has a number"),
        ("a.csv", "path,label\nx.mp4,-1\n", "line 2: label '-1' is not an integer from 0"),
        ("a.jsonl", '{"path": "x", "label": -3}\n', "line 1: label -3 is not an integer from 0"),
        ("a.csv", "path,labels\nx.mp4,1; cat\n", "line 2: the class 'cat' is a name, and line 2 has a number"),
        ("a.csv", "path,labels\nx.mp4,1 -2\n", "line 2: labels '1 -2' is not an integer"),
        ("a.csv", "path,label,labels\nx.mp4,1,\ny.mp4,,2\n", "both `label` and `labels`"),
        ("a.csv", "path,text\n,hello\n", "line 2: the path is empty"),
        ("a.jsonl", '{"video": "x"}\n', "no column `path`: its columns are 'video'"),
        ("a.jsonl", "{\n", "line 1 is not valid JSON"),
        ("a.txt", "x.mp4\n", "neither a .csv nor a .jsonl"),
        ("a.csv", 'path,text\nx.mp4,"' + "a" * 200_000 + "\n", "after line 1: field larger than field limit"),
        ("a.csv", b"path,text\nx.mp4,a\ny.mp4,caf\xe9\n", "line 3 is not UTF-8 text"),
        ("a.csv", "path,label\nx.mp4,99999999999999999999\n", "line 2: label '99999999999999999999' is not an integer"),
        ("a.jsonl", '{"path": 3}\n', "line 1: the path is not that of a file: 3"),
        ("a.jsonl", '{"path": "x\\u0000.mp4"}\n', "line 1: the path is not that of a file"),
        ("a.jsonl", '{"path": "x", "text": 3}\n', "line 1: text 3 is not text"),
        ("a.jsonl", '{"path": "x", "text": NaN}\n', "line 1: text nan is not text"),
        ("a.jsonl", '{"path": "x", "text": "\\ud800"}\n', "line 1: the text holds half of a character"),
        ("a.jsonl", '{"path": "x", "text": ["a", "b"]}\n', "x has several captions"),
        ("a.jsonl", '{"path": "x", "label": NaN}\n', "line 1: label nan is not an integer"),
        ("a.jsonl", '{"path": "x", "label": Infinity}\n', "line 1: label inf is not an integer"),
        ("a.jsonl", '{"path": "x", "label": 1.5}\n', "line 1: label 1.5 is not an integer"),
        ("a.jsonl", '{"path": "x", "labels": [1, null]}\n', "line 1: labels .1, None. is not an integer"),
        ("a.jsonl", '{"path": ' + "[" * 100_000 + "\n", "line 1 is nested too deeply"),
        ("a.csv", "path,start,end\nx.mp4,,\ny.mp4,0,2.5\n", "line 3: the column 'start' is not read, a row"),
        ("a.jsonl", '{"path": "x", "End_timestamp": 2}\n', "line 1: the column 'End_timestamp' is not read"),
        ("a.jsonl", '{"path": "x", "label": ' + "9" * 5000 + "}\n", "line 1 is not valid JSON"),
    ],
)
def test_wrong_lists_are_refused(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as error:
        Files(str(tmp_path / name))
    assert name in str(error.value)


def test_a_list_is_a_regular_file_of_limited_size(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path\nx.mp4\n")
    assert len(Files(str(tmp_path / "l.csv"), limits=Limits(list_bytes=11))) == 1
    with pytest.raises(ValueError, match=r"l\.csv: bytes: 11 is above the limit list_bytes of 10"):
        Files(str(tmp_path / "l.csv"), limits=Limits(list_bytes=10))
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    for name in ("pipe.csv", "zero.jsonl"):
        with pytest.raises(ValueError, match=f"{name} is not a regular file"):
            Files(str(tmp_path / name))


def test_a_missing_path_and_an_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no list or folder of videos at .*gone"):
        Files(str(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError, match=r"no video in"):
        Files(str(tmp_path))


def test_a_million_lines_cost_no_python_objects(tmp_path: Path) -> None:
    """A worker copies the memory of the Python objects it touches: there are only a few, for any number of lines."""
    strings = Strings(f"folder/{i}.mp4" for i in range(100_000))
    assert strings[99_999] == "folder/99999.mp4" and strings[-1] == strings[99_999] and len(strings) == 100_000
    assert strings.data.nbytes + strings.offsets.nbytes < 3e6
    assert all(isinstance(v, np.ndarray) for v in vars(strings).values())
    source = Files.__new__(Files)
    source.__dict__.update(
        paths=strings, names=strings, captions=strings, targets=np.zeros(9), counts=9, root="", texts=0, labels=0
    )
    assert not any(isinstance(v, (list, dict)) for v in vars(source).values())
