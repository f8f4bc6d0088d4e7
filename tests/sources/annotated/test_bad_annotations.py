"""Malformed annotation files and folders that lack videos: a clear error for each."""

import json
import os
import pickle
import re
from collections import Counter
from pathlib import Path

import pytest

from datamodules import Annotated, Join, Table
from datamodules.decoding.limits import Limits
from datamodules.sources.annotated.locate import locate, locate_all, strip_suffixes
from datamodules.sources.annotated.templates import Template


@pytest.fixture
def made(tmp_path: Path):
    """Builds a source from a file `name` with this text, next to empty videos a, b and c."""
    (tmp_path / "videos").mkdir()
    for name in "abc":
        (tmp_path / f"videos/{name}.mp4").touch()

    def make(name: str, text: str | bytes, /, **options: object) -> Annotated:
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
        table = options.pop("table", {})
        about = {"videos": str(tmp_path / "videos"), "video": "{id}", "text": "{caption}", "home": "a page"} | options
        return Annotated(Table(str(tmp_path / name), **table), **about)

    return make


def texts(source: Annotated) -> list:
    return [sample.text for sample in source]


LONG = "word " * 2000
ODD = ["a 👩‍🚀 waves 🎉", "naïve café, 影片", "tab\tinside", "one\u2028line\x85still", LONG.strip(), "carriage\rreturn"]


@pytest.mark.parametrize("caption", ODD, ids=range(len(ODD)))
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_unusual_captions_are_unchanged(made, caption: str, end: str, mark: str) -> None:
    row = json.dumps({"id": "a", "caption": caption}, ensure_ascii=False)
    assert texts(made("a.json", mark + f"[{row}]{end}")) == [caption]
    assert texts(made("a.jsonl", mark + row + end + end)) == [caption]
    assert texts(made("a.csv", mark + f'id,caption{end}a,"{caption}"{end}')) == [caption]
    if "\t" not in caption:
        assert texts(made("a.tsv", mark + f"id\tcaption{end}a\t{caption}{end}")) == [caption]
    assert texts(made("a.txt", mark + f"a {caption}{end}", table={"columns": ["id", "caption"]})) == [caption]


@pytest.mark.parametrize(
    "name, text",
    [
        *[(f"a.{kind}", "") for kind in ("csv", "tsv", "txt", "jsonl")],
        ("a.csv", "id,caption\n"),
        ("a.csv", "\n\n"),
        ("a.json", "[]"),
        ("a.json", "{}"),
    ],
)
def test_an_empty_file_is_named(made, name: str, text: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} is empty: it holds no row"):
        made(name, text)


WRONG = {
    "no JSON": ("a.json", "", r"a\.json is not valid JSON: it is empty"),
    "cut JSON": ("a.json", '[{"id": "a", "capt', r"a\.json is not valid JSON: .*line 1"),
    "a number": ("a.json", "7", r"a\.json holds neither a list nor an object"),
    "an id twice": ("a.json", '{"a": {"caption": "x"}, "a": {"caption": "y"}}', r"the key 'a' occurs 2 times"),
    "cut line": ("a.jsonl", '{"id": "a", "caption": "x"}\n{"id":\n', r"a\.jsonl, line 2 is not valid JSON"),
    "a list in jsonl": ("a.jsonl", "[1]\n", r"a\.jsonl, line 1 is not a JSON object"),
    "another file": ("a.xml", "<a/>", r"a\.xml is not a \.csv, .*jsonl or \.parquet file \(\.xml\)"),
    "latin-1": ("a.csv", "id,caption\na,caf\xe9\n".encode("latin-1"), r"a\.csv is not UTF-8 .*iconv -f latin1"),
    "latin-1 JSON": ("a.json", '["caf\xe9"]'.encode("latin-1"), r"a\.json is not UTF-8 text: .*iconv"),
    "a comma too many": ("a.csv", "id,caption\na,x\nb,hi, you\n", r"line 3: 3 cells for 2 columns \(id, "),
    "a cell too few": ("a.tsv", "id\tcaption\na x\n", r"a\.tsv, line 2: 1 cells for 2 columns"),
    "a quote unclosed": ("a.csv", f'id,caption\na,"{"x" * 140_000}\n', r"a\.csv, after line .*unclosed quotation mark"),
    "a column twice": ("a.csv", "id,caption,id\na,x,b\n", r"line 1: two columns have the same name: id, caption, id"),
    "no such field": ("a.csv", "id,text\na,x\n", r"a\.csv, line 2: no field 'caption'; there are 'id', 'text'"),
    "no such id": ("a.json", '[{"video": "a", "caption": "x"}]', r"a\.json, entry 1: no field 'id'"),
    "no name": ("a.csv", "id,caption\na,x\n,y\n", r"a\.csv, line 3: the video has no name"),
    "an empty caption": ("a.csv", "id,caption\na,x\nb,\n", r"a\.csv, line 3: the caption is empty: .*min_words: 1"),
    "blanks": ("a.csv", 'id,caption\na,"  "\n', r"a\.csv, line 2: the caption is empty"),
    "null": ("a.json", '[{"id": "a", "caption": null}]', r"a\.json, entry 1: the caption is empty"),
    "no captions": ("a.json", '[{"id": "a", "caption": []}]', r"a\.json, entry 1: the caption is empty"),
    "numbers": ("a.json", '[{"id": "a", "caption": ["x", 7]}]', r"entry 1: a caption is not text but 7"),
    "an object": ("a.json", '[{"id": "a", "caption": {"x": 7}}]', r"entry 1: caption holds an object, not one value"),
    "half a character": ("a.json", '[{"id": "a", "caption": "x \\ud83d"}]', r"entry 1: the caption holds half of a"),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_error_names_the_file_and_line(made, what: str) -> None:
    name, text, message = WRONG[what]
    with pytest.raises(ValueError, match=message):
        made(name, text)


def test_a_key_that_is_not_in_the_file(made) -> None:
    with pytest.raises(ValueError, match=r"a\.json has no 'sentences' at its top level: 'info', 'videos'"):
        made("a.json", '{"info": {}, "videos": []}', table={"entries": "sentences"})
    with pytest.raises(ValueError, match=r"a\.json has no 'sentences' at its top level: it is a list"):
        made("a.json", "[]", table={"entries": "sentences"})


def test_a_file_has_a_limit_and_is_not_nested_without_end(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["x"]')
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    for name, limit, size in (("a.json", "json_bytes", 5), ("a.csv", "list_bytes", 8)):
        assert len(list(Table(str(tmp_path / name), limits=Limits(**{limit: size})).rows())) == 1
        with pytest.raises(ValueError, match=rf"{name}: bytes: {size} is above the limit {limit} of {size - 1}"):
            list(Table(str(tmp_path / name), limits=Limits(**{limit: size - 1})).rows())
    (tmp_path / "b.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match=r"b\.json is nested too deeply"):
        list(Table(str(tmp_path / "b.json")).rows())
    os.mkfifo(tmp_path / "c.csv")
    with pytest.raises(ValueError, match=r"c\.csv is not a regular file"):
        list(Table(str(tmp_path / "c.csv")).rows())


def test_short_captions_are_skipped_and_counted(made, caplog: pytest.LogCaptureFixture) -> None:
    text = "id,caption\na,two words\na,one\nb,\nc,three small words\n"
    source = made("a.csv", text, min_words=2)
    assert [(s.name, s.text) for s in source] == [("a", "two words"), ("c", "three small words")]
    assert "2 captions of" in caplog.text and "have fewer than 2 words and are skipped" in caplog.text
    with pytest.raises(ValueError, match=r"nothing is left of the 4 rows of .*all captions are short"):
        made("a.csv", text, min_words=4)


def test_multiple_choice_keeps_all_answers_or_none(made) -> None:
    rows = [{"id": "a", "caption": ["x", "y"], "n": 1}, {"id": "b", "caption": ["x", ""], "n": 0}]
    options = {"sample": "row", "number": "{n}"}
    assert texts(made("a.json", json.dumps(rows), min_words=1, **options)) == [["x", "y"]]
    with pytest.raises(ValueError, match="entry 2: the caption is empty"):
        made("a.json", json.dumps(rows), **options)


LABELS = "id,class\na,run\nb,jmp\nc,run\n"


def test_labels_outside_the_list(made, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = tmp_path / "names.txt"
    names.write_text("jump\nrun\n")
    about = {"text": None, "label": "{class}", "classes": str(names)}
    message = r"a\.csv, line 3: the label 'jmp' is not among the 2 classes of .*names\.txt \(the nearest is 'jump'\)"
    with pytest.raises(ValueError, match=message + r".* 1 such samples.*unlisted: omit, or wrong"):
        made("a.csv", LABELS, **about)
    source = made("a.csv", LABELS, unlisted="wrong", **about)
    assert [s.label for s in source] == [1, -1, 1] and source.classes == ["jump", "run"]
    source = made("a.csv", LABELS, unlisted="omit", **about)
    assert [(s.name, s.label) for s in source] == [("a", 1), ("c", 1)]
    assert "they count as wrong" in caplog.text and "they are skipped" in caplog.text
    names.write_text("swim\n")
    with pytest.raises(ValueError, match=r"no label of .*a\.csv is among the classes"):
        made("a.csv", LABELS, unlisted="omit", **about)


def test_an_empty_label_and_two_labels(made) -> None:
    with pytest.raises(ValueError, match=r"a\.csv, line 3: the label is empty"):
        made("a.csv", "id,class\na,x\nb,\n", text=None, label="{class}")
    with pytest.raises(ValueError, match=r"a\.csv, line 4: 'a' is 'y' here and 'x' in .*a\.csv, line 2"):
        made("a.csv", "id,class\na,x\nb,y\na,y\n", text=None, label="{class}")
    with pytest.raises(ValueError, match="a label or a number, not both"):
        made("a.csv", "id,class\na,x\n", text=None, label="{class}", number="{class}")


@pytest.mark.parametrize(
    "number, message",
    [("x", "is 'x', which is not an integer"), ("-1", "there is no class -1"), ("2", "numbered from 0 to 1")],
)
def test_numbers_outside_the_list(made, tmp_path: Path, number: str, message: str) -> None:
    (tmp_path / "names.txt").write_text("jump\nrun\n")
    about = {"text": None, "number": "{n}", "classes": str(tmp_path / "names.txt")}
    with pytest.raises(ValueError, match=rf"a\.csv, line 3: .*{message}"):
        made("a.csv", f"id,n\na,1\nb,{number}\n", **about)


CLASSES = {
    "numbers with a gap": ("c.json", '{"x": 0, "y": 2}', "without a gap, and 'y' has 2"),
    "words for numbers": ("c.json", '{"x": "zero"}', "a class number is not a number"),
    "a class twice": ("c.txt", "run\nrun\n", "contains the class 'run' twice"),
    "another table": ("c.csv", "foo,bar\n1,2\n", "is not a list of classes: it has bar, foo"),
    "nothing": ("c.txt", "", "is not a list of classes: it has no row"),
}


@pytest.mark.parametrize("what", CLASSES)
def test_wrong_lists_of_classes(made, tmp_path: Path, what: str) -> None:
    name, text, message = CLASSES[what]
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        made("a.csv", LABELS, text=None, label="{class}", classes=str(tmp_path / name))


@pytest.mark.parametrize(
    "name, text",
    [
        ("c.json", '{"run": "1", "jmp": "0"}'),
        ("c.json", '["jmp", "run"]'),
        ("c.json", '[{"class": "run"}, {"class": "jmp"}, {"class": "run"}]'),
        ("c.txt", "\ufeffjmp\r\nrun\r\n"),
        ("c.csv", "id,name\n1,run\n0,jmp\n"),
        ("c.csv", "class,more\nrun,1\njmp,2\n"),
    ],
)
def test_lists_of_classes(made, tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, newline="")
    source = made("a.csv", LABELS, text=None, label="{class}", classes=str(tmp_path / name))
    assert source.classes == ["jmp", "run"] and [s.label for s in source] == [1, 0, 1]


def test_names_of_rows(made) -> None:
    rows = "id,q,caption\na,7,x\nb,8,y\na,9,z\n"
    assert [s.name for s in made("a.csv", rows, sample="row")] == ["a#2", "b#3", "a#4"]
    assert [s.name for s in made("a.csv", rows, sample="row", name="{q}")] == ["7", "8", "9"]
    with pytest.raises(ValueError, match=r"a\.csv, line 4: the name 'a' is already used by .*a\.csv, line 2"):
        made("a.csv", rows, sample="row", name="{id}")


def test_lists_of_videos(made, tmp_path: Path) -> None:
    rows = "id,caption\na.mp4,x\nb.mp4,y\n"
    for name, text in {"l.txt": "b.avi\n", "l.csv": "video_id,more\nb,1\n", "l.json": '["b"]'}.items():
        (tmp_path / name).write_text(text)
        assert texts(made("a.csv", rows, only=Table(str(tmp_path / name)))) == ["y"]
    (tmp_path / "l.txt").write_text("b\nx\nd\n")
    with pytest.raises(ValueError, match=r"2 of the 3 videos of .*l\.txt have no row in .*a\.csv: d, x"):
        made("a.csv", rows, only=Table(str(tmp_path / "l.txt")))
    (tmp_path / "l.txt").write_text("")
    with pytest.raises(ValueError, match=r"l\.txt is empty: it names no video"):
        made("a.csv", rows, only=Table(str(tmp_path / "l.txt")))


def test_a_row_of_a_joined_table_twice(made, tmp_path: Path) -> None:
    (tmp_path / "j.csv").write_text("id,caption\na,x\na,y\n")
    with pytest.raises(ValueError, match=r"j\.csv, line 3: 'a' already has a row"):
        made("a.csv", "id\na\n", join=[Join(Table(str(tmp_path / "j.csv")), "{id}", "{id}")])


def test_templates() -> None:
    row = {"id": "x", "start time": 7.0, "n": None, "l": [1]}
    assert Template("{id}_{start time:06d}{n}.")(row) == "x_000007." and Template("{l}").value(row) == [1]
    with pytest.raises(ValueError, match=r"'\{id' is not a valid template"):
        Template("{id")
    with pytest.raises(ValueError, match="id is 'x', which is not a number"):
        Template("{id:06d}")(row)
    with pytest.raises(ValueError, match="l holds a list, not one value"):
        Template("{id}{l}").value(row)


def test_missing_videos_are_counted_and_named(made, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    text = "id,caption\n" + "".join(f"{i},x\n" for i in ["a", "c", *range(20, 30)])
    message = (
        r"10 of the 12 videos of .*a\.csv are not in .*videos: 20, 21, 22, 23, 24, \.\.\.\. They come from a page\. "
        r"Put them there .*or continue with the 2 that are there: allow_missing: true"
    )
    with pytest.raises(FileNotFoundError, match=message):
        made("a.csv", text)
    source = made("a.csv", text, allow_missing=True, label="{id}")
    assert [s.name for s in source] == ["a", "c"] and source[1].content.endswith("c.mp4")
    assert [s.label for s in source] == [source.classes.index("a"), source.classes.index("c")]
    assert "2 of the 12 videos of" in caplog.text and "the others are skipped: 20, 21" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"10 of the 10 videos .*They come from a page\.(?!.*allow_missing)"):
        made("a.csv", text.replace("a,x\n", "").replace("c,x\n", ""), allow_missing=True)
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere with the videos of .*a\.csv\. They come from a"):
        made("a.csv", text, videos=str(tmp_path / "nowhere"))


def test_all_missing_files_are_named(tmp_path: Path) -> None:
    about = {"videos": str(tmp_path), "video": "{id}", "classes": str(tmp_path / "c.txt")}
    with pytest.raises(
        FileNotFoundError, match=r"no annotation file \S+a\.csv and no \S+l\.txt and no \S+c\.txt\. Give"
    ):
        Annotated(Table(str(tmp_path / "a.csv")), only=Table(str(tmp_path / "l.txt")), **about)
    with pytest.raises(FileNotFoundError, match=r"It comes from Kinetics, https"):
        Annotated(Table(str(tmp_path / "a.csv")), home="Kinetics, https://x", **about)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_where_videos_are_found(tmp_path: Path) -> None:
    """At their path or in any subfolder; preferred suffixes first; folders and text files do not count."""
    touch(tmp_path, "a.avi", "a.MP4", "a.jpg", "x/b.WebM", "x/y/c.mkv", "c.txt", "d.mov.mp4", "e.1-2.3.mpg", "p.jpg")
    (tmp_path / "f.mp4").mkdir()
    (tmp_path / "round").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "linked.mp4").symlink_to(tmp_path / "a.avi")
    found = locate(str(tmp_path), ["a", "b", "z/c", "d", "e.1-2.3", "f", "g", "p", "linked"])
    assert found == {
        "a": "a.MP4",
        "b": "x/b.WebM",
        "z/c": "x/y/c.mkv",
        "d": "d.mov.mp4",
        "e.1-2.3": "e.1-2.3.mpg",
        "p": "p.jpg",
        "linked": "linked.mp4",
    }
    assert locate(str(tmp_path), ["x/b"]) == {"x/b": "x/b.WebM"}
    assert strip_suffixes("a/b.mov.mp4") == "a/b" and strip_suffixes(".mp4") == ".mp4"


def test_a_video_in_two_folders(tmp_path: Path) -> None:
    touch(tmp_path, "train/a.mp4", "replacement/a.mp4", "train/b.mp4", "b.mp4")
    assert locate(str(tmp_path), ["b", "train/a"]) == {"b": "b.mp4", "train/a": "train/a.mp4"}
    with pytest.raises(ValueError, match=r"'a' is in 2 folders of .*\(replacement/a\.mp4, train/a\.mp4\): keep one"):
        locate(str(tmp_path), ["a"])
    assert locate(str(tmp_path), ["x/a", "y/a"]) == {}  # ambiguous


def test_a_folder_is_listed_once_without_a_stat_per_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{i % 3}/{i}" for i in range(300)]
    touch(tmp_path, *(f"{name}.mp4" for name in names))
    calls, stat, scandir = Counter(), os.stat, os.scandir
    monkeypatch.setattr(os, "stat", lambda *a, **k: (calls.update(["stat"]), stat(*a, **k))[1])
    monkeypatch.setattr(os, "scandir", lambda *a: (calls.update(["scandir"]), scandir(*a))[1])
    assert None not in locate_all(str(tmp_path), names, "list", "", False)
    assert calls["scandir"] == 4 and calls["stat"] <= 5


def test_a_source_can_be_pickled(made) -> None:
    source = made("a.csv", "id,caption\na,x\nb,y\na,z\n", end=3.0)
    again = pickle.loads(pickle.dumps(source))
    assert [vars(s) for s in again] == [vars(s) for s in source]
    assert (again[0].text, again[0].end, again[-1].name) == (["x", "z"], 3.0, "b")
    assert not [
        v for v in vars(source).values() if isinstance(v, (list, dict))
    ]  # objects whose memory a worker would copy
    with pytest.raises(IndexError):
        source[2]


def test_error_messages_are_short(made) -> None:
    with pytest.raises(ValueError) as error:
        made("a.csv", f"id,text\na,{LONG}\n")
    assert len(str(error.value)) < 400 and not re.search("word word", str(error.value))
