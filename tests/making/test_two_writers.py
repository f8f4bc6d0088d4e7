"""Two tools that write one place lose nothing: the second is refused; names that are not UTF-8 survive every tool."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from datamodules.decoding.reader import PyAV
from datamodules.making.journal import Journal
from datamodules.making.prepare import _REPORT, prepare
from datamodules.making.shard_progress import ShardProgress
from datamodules.sources.shards import Shards
from tests.helpers import videos
from tests.helpers.locks import hold, release
from tests.helpers.paths import ROOT
from tools import internvid
from tools import prepare as tool

LENGTHS = range(12, 24)


def start(folder: Path, out: Path) -> subprocess.Popen:
    command = [sys.executable, ROOT / "tools/prepare.py", folder, out, "--encode", "--workers=1", "--shard-samples=3"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lengths(out: Path) -> list[int]:
    """Frames of every sample, each decoded."""
    source, found = Shards(str(out)), []
    for i in range(len(source)):
        with source[i].open(PyAV()) as video:
            assert videos.number(video.frames([len(video) - 1])[0]) == len(video) - 1
            found.append(len(video))
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for frames in LENGTHS:
        videos.make(folder / f"{frames:03d}.mp4", frames=frames)
    return folder


def test_a_second_prepare_is_refused_and_the_first_loses_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    first, deadline = start(folder, tmp_path / "out"), time.monotonic() + 120
    while not (tmp_path / "out/.lock").exists() or not (tmp_path / "out/.lock").stat().st_size:
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    assert tool.main([str(folder), str(tmp_path / "out"), "--encode"]) == 2
    message = capsys.readouterr().err
    assert f"is in use by process {first.pid} on " in message
    assert len(message.strip().splitlines()) == 1
    assert first.wait(120) == 0 and lengths(tmp_path / "out") == list(LENGTHS)


@pytest.mark.slow
@pytest.mark.parametrize("trial", range(8))
def test_two_that_start_at_once(folder: Path, tmp_path: Path, trial: int) -> None:
    both = [start(folder, tmp_path / "out"), start(folder, tmp_path / "out")]
    codes = []
    for process in both:
        process.communicate(timeout=300)
        codes.append(process.returncode)
    assert sorted(codes) in ([0, 2], [0, 0])  # the second may come when the first is done, and has nothing to do
    assert lengths(tmp_path / "out") == list(LENGTHS)


@pytest.mark.slow
def test_kills_at_any_moment_lose_nothing(folder: Path, tmp_path: Path) -> None:
    for milliseconds in (1500, 2000, 2500, 3000, 3500, 4000):
        process = start(folder, tmp_path / "out")
        time.sleep(milliseconds / 1000)
        process.kill()
        process.communicate()
    last = start(folder, tmp_path / "out")
    last.communicate(timeout=300)
    assert last.returncode == 0 and lengths(tmp_path / "out") == list(LENGTHS)
    assert not list((tmp_path / "out").rglob(".*.draft"))


def manifest(folder: Path) -> str:
    (folder / "in.jsonl").write_text('{"path": "a.mp4", "name": "a.mp4", "caption": "b"}\n')
    return str(folder / "in.jsonl")


WRITERS: dict[str, Callable[[Path], int]] = {
    "out/.lock": lambda folder: tool.main(["index", str(folder / "out")]),
    ".select.jsonl.lock": lambda f: internvid.main(["select", manifest(f), str(f / "select.jsonl")]),
    ".joined.jsonl.lock": lambda f: internvid.main(
        ["caption", manifest(f), str(f / "joined.jsonl"), "--captions", manifest(f)]
    ),
    ".scenes.jsonl.lock": lambda f: internvid.main(["scenes", str(f), str(f / "scenes.jsonl"), "--quiet"]),
}


@pytest.mark.parametrize("lock", WRITERS)
def test_every_tool_refuses_a_place_that_another_writes(
    lock: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.tar").touch()
    (tmp_path / "a.mp4").touch()
    holder = hold(tmp_path / lock)
    before = sorted(tmp_path.rglob("*"))
    assert WRITERS[lock](tmp_path) == 2
    assert f"is in use by process {holder.pid} on " in capsys.readouterr().err
    assert set(tmp_path.rglob("*")) - set(before) <= {tmp_path / "in.jsonl"}
    release(holder)


def test_a_damaged_report_of_a_shard_costs_its_shard(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def run() -> dict:
        return prepare(str(folder), str(tmp_path), shard_samples=6, workers=1, progress=False)

    run()
    part, other = (tmp_path / ".prepare" / f"00000{n}.json" for n in (0, 1))
    kept = other.stat().st_mtime_ns
    part.write_text(part.read_text()[:100])
    assert run()["kept"] == len(LENGTHS) and f"{part} is cut off or damaged" in caplog.text
    assert json.loads(part.read_text()) and other.stat().st_mtime_ns == kept
    (tmp_path / ".prepare/settings.json").write_text("{")
    with pytest.raises(
        ValueError, match=r"settings\.json is cut off or damaged .*: delete .* to make all shards again"
    ):
        run()


ROW = {"shard": "shard-000000.tar", "samples": 1, "bytes": 1024, "texts": 0, "labels": 0}
REPORT = {"kept": [], "dropped": [], "row": ROW}


@pytest.mark.parametrize(
    "content",
    [
        "3",
        "[]",
        "{}",
        "null",
        "[" * 100_000,
        json.dumps({**REPORT, "kept": [3]}),
        json.dumps({**REPORT, "kept": [{"name": "a", "frames": "many"}]}),
        json.dumps({**REPORT, "dropped": {"name": "a"}}),
        json.dumps({**REPORT, "row": {**ROW, "bytes": "1024"}}),
        json.dumps({**REPORT, "row": {**ROW, "shard": "../outside.tar"}}),
        json.dumps({**REPORT, "row": {**ROW, "bytes": 1023}}),
        json.dumps({**REPORT, "row": {**ROW, "shard": "shard-000009.tar"}}),
    ],
)
def test_a_report_that_is_none_costs_its_shard(content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shards = ShardProgress(tmp_path, ".prepare", _REPORT)
    shards.begin({"crf": 23})
    for name in ("shard-000000.tar", "../outside.tar"):
        (tmp_path / name).write_bytes(bytes(1024))
        (tmp_path / name).with_suffix(".idx").touch()
    shards.finish(0, REPORT)
    assert shards.finished(1) == {0: REPORT} and not caplog.text
    (tmp_path / ".prepare/000000.json").write_text(content)
    assert shards.finished(1) == {}
    assert str(tmp_path / ".prepare/000000.json") in caplog.text and "making its shard again" in caplog.text


@pytest.mark.parametrize("content", ["3", "[]", "null", "[" * 100_000])
def test_settings_that_are_none_are_refused_with_the_remedy(content: str, tmp_path: Path) -> None:
    shards = ShardProgress(tmp_path, ".prepare", _REPORT)
    shards.settings.write_text(content)
    with pytest.raises(ValueError, match=r"settings\.json .*: delete .*\.prepare to make all shards again"):
        shards.begin({"crf": 23})
    shards.settings.write_text("{}")
    with pytest.raises(ValueError, match="was begun with another crf: crf None then, 23 now"):
        shards.begin({"crf": 23})


@pytest.mark.parametrize("line", ["3", "{}", '["a"]', '[3, "a"]', "null"])
def test_a_journal_with_a_line_that_is_no_record_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / ".out.jsonl.journal").write_text(f'{{"a": 1}}\n["b", 2]\n{line}\n')
    with pytest.raises(ValueError, match=r"\.out\.jsonl\.journal, line 3 is no record: delete the file"):
        Journal(tmp_path / "out.jsonl", {"a": 1})
    assert not (tmp_path / ".out.jsonl.lock").exists()


@pytest.mark.parametrize("processes", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["here", "processes"])
def test_names_that_are_not_utf8(processes: bool, tmp_path: Path) -> None:
    """Such names come from archives that were packed on another system."""
    place, names = tmp_path / "in \udce9", ("b\udcff.mp4", "c\udcff/d.mp4")
    (place / "c\udcff").mkdir(parents=True)
    for name in names:
        videos.make(place / "a.mp4", frames=24)
        os.rename(place / "a.mp4", place / name)
    (place / "text\udcfe.mp4").write_text("no video")
    paths = {key: os.fsencode(tmp_path / key) for key in ("out\udce9", "scenes.jsonl", "one.jsonl", "cut")}
    commands = [
        ["prepare.py", place, paths["out\udce9"]],
        ["internvid.py", "scenes", place, paths["scenes.jsonl"]],
        ["internvid.py", "select", paths["scenes.jsonl"], paths["one.jsonl"], "--subset", "DIV", "--count", "1"],
        ["internvid.py", "build", paths["scenes.jsonl"], place, paths["cut"]],
    ]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}
    for command in commands:
        if not processes and command[0] == "internvid.py":
            assert internvid.main([os.fsdecode(word) for word in command[1:]]) == 0
            continue
        whole = [sys.executable, ROOT / "tools" / command[0], *command[1:]]
        done = subprocess.run(whole, env=strict, capture_output=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr.decode()[-3000:]
    report = json.loads((tmp_path / "out\udce9" / "report.json").read_bytes())
    assert [each["name"] for each in report["dropped_files"]] == ["text\udcfe.mp4"] and report["kept"] == 2
    for out in ("out\udce9", "cut"):
        source = Shards(str(tmp_path / out))
        metas = [json.loads(_meta(source, i)) for i in range(len(source))]
        assert tuple(dict.fromkeys(meta["source"] for meta in metas)) == names  # one may be of several scenes


def _meta(source: Shards, index: int) -> bytes:
    """The json of a sample, as it is in the tar."""
    opened, entries = source._open(0)
    return opened.read(int(entries[index]["meta"]), int(entries[index]["meta_size"]), "")
