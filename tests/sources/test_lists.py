"""Lists as others write them: the right rows, or a sentence with file and line; long ones in little time and memory."""

import csv
import io
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from datamodules import Files
from datamodules.making.prepare import inputs
from tests.helpers.hostile_files import peak_growth


@pytest.fixture(autouse=True)
def long_from_32_kilobytes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that lists of a thousand rows are read as those of a million are: in several blocks."""
    monkeypatch.setattr("datamodules.sources.list_columns._LONG", 2**15)
    monkeypatch.setattr("datamodules.sources.list_columns._BLOCK", 2**13)


ROWS = [("a.mp4", "a dog", 1), ("b.mp4", 'he said "hi", then left', 2), ("c.mp4", "two\nlines", 3), ("d é.mp4", "", 4)]


def as_csv(rows: list[tuple], header: str = "path,text,label", encoding: str = "utf-8") -> bytes:
    out = io.StringIO(newline="")
    out.write(header + "\n")
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode(encoding)


def found(path: Path) -> list[tuple]:
    return [(s.name, s.text or "", s.label) for s in Files(str(path))]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "l.csv").write_bytes(as_csv(ROWS, encoding=encoding))
    assert found(tmp_path / "l.csv") == ROWS


@pytest.mark.parametrize("header", ["path, text, label", " path ,text,label ", "path,caption ,label"])
def test_blanks_in_the_header(tmp_path: Path, header: str) -> None:
    (tmp_path / "l.csv").write_text(f'{header}\na.mp4, "a, dog", 1\n')
    text = "a, dog" if ", " in header else ' "a'
    if ", " in header:
        assert found(tmp_path / "l.csv") == [("a.mp4", text, 1)]
    (tmp_path / "m.csv").write_text(f"{header}\na.mp4,dog,1\n")
    assert found(tmp_path / "m.csv") == [("a.mp4", "dog", 1)]


@pytest.mark.parametrize("rows", [30, 2000])
@pytest.mark.parametrize("after", ["plain", "quoted", "nothing"])
def test_an_unclosed_quotation_mark_swallows_no_rows(tmp_path: Path, rows: int, after: str) -> None:
    """Whatever follows; also in a list that is long enough for pyarrow."""
    lines = [f"{i:06d}.mp4,a caption of some words {i},{i}" for i in range(rows)]
    lines[10] = '000010.mp4,"an unclosed one,10'
    if after == "quoted":
        lines[20] = '000020.mp4,"closed",20'
    elif after == "nothing":
        del lines[11:]
        lines[:0] = lines[:10] * (rows // 10)
    (tmp_path / "l.csv").write_text("\n".join(["path,text,label", *lines]))
    with pytest.raises(ValueError, match=r"l\.csv, after line \d+: .*an unclosed quotation mark"):
        Files(str(tmp_path / "l.csv"))
    (tmp_path / "l.csv").write_text('path,text\na.mp4,"open\nb.mp4,fine\n')
    with pytest.raises(ValueError, match=r"l\.csv, after line 1: .*an unclosed quotation mark"):
        Files(str(tmp_path / "l.csv"))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_long_lists_give_the_same_rows(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"{i:06d} é.mp4", "" if i % 7 == 0 else f'caption {i}, "quoted" é', i) for i in range(1000)]
    path = tmp_path / f"l.{kind}"
    if kind == "csv":
        path.write_bytes(as_csv(rows))
    else:
        lines = [{"path": p, "caption": t or None, "label": n, "more": [n]} for p, t, n in rows]
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert path.stat().st_size > 2**15
    with monkeypatch.context() as patch:
        patch.setattr("datamodules.sources.files.read_list", lambda *_: pytest.fail("read row by row"))
        assert found(path) == rows
    monkeypatch.setattr("datamodules.sources.files.read_columns", lambda *_: None)
    assert found(path) == rows


@pytest.mark.parametrize(
    "kind, line, message",
    [
        ("csv", "x.mp4,a,cat", "the class 'cat' is a name, and line 2 has a number"),
        ("csv", ",a,1", "the path is empty"),
        ("csv", "x.mp4,a,-1", "label '-1' is not an integer from 0"),
        ("csv", "x.mp4,a,0x10", "the class '0x10' is a name, and line 2 has a number"),
        ("csv", "x\0.mp4,a,1", "the path is not that of a file"),
        ("csv", b"x.mp4,caf\xe9,1", "is not UTF-8"),
        ("jsonl", '{"path": "x", "text": NaN}', "text nan is not text"),
        ("jsonl", '{"path": "x", "text": 3}', "text 3 is not text"),
        ("jsonl", '{"path": "x", "text": ["a", "b"]}', "x has several captions"),
        ("jsonl", '{"path": "x", "label": 1.5}', "label 1.5 is not an integer"),
        ("jsonl", '{"path": "x", "start": 3}', "the column 'start' is not read"),
        ("jsonl", '{"path": ""}', "the path is empty"),
    ],
)
def test_one_wrong_line_of_a_long_list_is_named(tmp_path: Path, kind: str, line: str | bytes, message: str) -> None:
    good = [f"{i:06d}.mp4,a caption of some words {i},{i}" for i in range(1000)]
    if kind == "jsonl":
        good = [json.dumps({"path": f"{i:06d}.mp4", "text": f"caption {i}", "label": i}) for i in range(1000)]
    lines = [each.encode() for each in ([*(["path,text,label"] if kind == "csv" else []), *good])]
    lines[700] = line if isinstance(line, bytes) else line.encode()
    (tmp_path / f"l.{kind}").write_bytes(b"\n".join(lines) + b"\n")
    with pytest.raises(ValueError, match=rf"l\.{kind},? .*(line 701|after line 700).*{message}"):
        Files(str(tmp_path / f"l.{kind}"))


def test_links_are_followed_and_hidden_files_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "disk" / "cats").mkdir(parents=True)
    (tmp_path / "set" / ".Trashes").mkdir(parents=True)
    for name in ("disk/cats/1.mp4", "disk/cats/._1.mp4", "set/.Trashes/2.mp4", "set/3.M2TS", "set/__MACOSX.txt"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "set" / "cats").symlink_to(tmp_path / "disk" / "cats")
    (tmp_path / "disk" / "cats" / "loop").symlink_to(tmp_path / "set")
    with caplog.at_level(logging.WARNING):
        assert [s.name for s in Files(str(tmp_path / "set"))] == ["3.M2TS", "cats/1.mp4"]
    assert "left out 2 hidden files and folders" in caplog.text
    assert [row["name"] for row in inputs(str(tmp_path / "set"))[0]] == ["3.M2TS", "cats/1.mp4"]


@pytest.mark.parametrize("rows", [8, 2000])
def test_rows_without_a_text_are_left_out_on_demand(tmp_path: Path, rows: int) -> None:
    table = [(f"{i}.mp4", "" if i % 4 == 0 else f"a caption of some more words {i}", i) for i in range(rows)]
    (tmp_path / "l.csv").write_bytes(as_csv(table))
    assert Files(str(tmp_path / "l.csv")).texts == rows * 3 // 4
    source = Files(str(tmp_path / "l.csv"), require=["text"])
    assert len(source) == source.texts == rows * 3 // 4
    assert [(s.name, s.text, s.label) for s in source] == [row for row in table if row[1]]
    (tmp_path / "n.csv").write_text("path,text\na.mp4,\n")
    with pytest.raises(ValueError, match=r"no row of .*n\.csv has a text"):
        Files(str(tmp_path / "n.csv"), require=["text"])


def test_processes_of_a_machine_share_a_long_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.sources.list_cache.FOLDER", tmp_path / "cache")
    monkeypatch.setattr("datamodules.sources.list_cache._LONG", 2**10)
    table = [(f"{i:06d}.mp4", f"a caption of some more words {i}" if i % 3 else "", i) for i in range(1000)]
    path = tmp_path / "l.csv"
    path.write_bytes(as_csv(table))
    assert found(path) == table
    with monkeypatch.context() as patch:
        patch.setattr("datamodules.sources.files.read_columns", lambda *_: pytest.fail("parsed again"))
        source = Files(str(path), require=["text"])
        assert len(source) == 666 and isinstance(Files(str(path)).paths.data, np.memmap)
    (name,) = os.listdir(tmp_path / "cache")
    path.write_bytes(as_csv(table[:-1]))  # another list by the same name
    assert found(path) == table[:-1] and len(os.listdir(tmp_path / "cache")) == 1
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.name != name
    (kept / "texts.npy").write_bytes(b"damaged")
    assert found(path) == table[:-1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_million_rows(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"l.{kind}"
    with open(path, "w") as file:
        file.write("path,text,label\n" if kind == "csv" else "")
        for i in range(1_000_000):
            name, text = f"part-{i % 1000:03d}/{i:08d}.mp4", f"a person does thing {i}"
            row = {"path": name, "text": text, "label": i % 400}
            file.write(f"{name},{text},{i % 400}\n" if kind == "csv" else json.dumps(row) + "\n")
    imports = "import time, pyarrow.csv, pyarrow.json, pyarrow.compute\nfrom datamodules.sources.files import Files"
    code = f"start = time.process_time()\nsource = Files({str(path)!r})\nassert len(source) == source.texts == 10**6"
    growth, seconds = peak_growth(imports, code + "\nprint(time.process_time() - start)")
    assert growth < 200 and float(seconds) < 3, (growth, seconds)
    assert os.path.getsize(path) > 5e7
