"""From videos to shards as for InternVid: subsets as published, clips exact to the frame, scenes, captions."""

import csv
import json
import math
from pathlib import Path

import av
import numpy as np
import pytest

from datamodules.decoding.reader import PyAV
from datamodules.making.captions import (
    Captioner,
    ImageToText,
    in_batches,
    join_captions,
    load_captioner,
    write_captions,
)
from datamodules.making.journal import Journal
from datamodules.making.manifest import Folder, Rule, match, read_manifest, seconds_of, select, stamp_of, subset
from datamodules.making.subsets import at_least, diverse, source_of, top_share, within_seconds
from datamodules.sources.shards import Shards
from tests.helpers import videos
from tests.helpers.captioner import WORDS, save_blip
from tests.helpers.paths import TESTS
from tools import internvid

REFERENCE = TESTS / "references/div_sampling_a.json"
IDS = ("abcdefghijk", "-bcd_fghijk", "lmnopqrstuv")


def line(video: str, start: float, end: float, **more: object) -> dict:
    times = {"Start_timestamp": stamp_of(start), "End_timestamp": stamp_of(end)}
    return {"YoutubeID": video, **times, "Caption": f"from {start}", "Aesthetic_Score": 4.0, "UMT_Score": 0.3, **more}


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos of 200 frames at 24 a second, one by its id, one as yt-dlp names it, one in a folder."""
    folder = tmp_path_factory.mktemp("videos")
    (folder / "in here").mkdir()
    for name in (f"{IDS[0]}.mp4", f"A title [{IDS[1]}].mkv", f"in here/{IDS[2]}.mp4"):
        videos.make(folder / name, frames=200)
    return folder


def numbers(source: Shards) -> list[list[int]]:
    """Frame numbers of every sample."""
    found = []
    for i in range(len(source)):
        with source[i].open(PyAV()) as video:
            found.append([videos.number(frame) for frame in video.frames(range(len(video)))])
    return found


def test_captions_are_of_the_frames_between_the_times(tmp_path: Path) -> None:
    class Numbers(Captioner):
        frames = 2

        def __call__(self, clips: list[np.ndarray]) -> list[str]:
            return [" ".join(str(videos.number(frame)) for frame in clip) for clip in clips]

    videos.two_rates(tmp_path / "v.mkv")
    manifest = write(tmp_path / "m.jsonl", [{"path": "v.mkv", "start": a, "end": b} for a, b in ((0, 1), (4, 8))])
    write_captions(manifest, str(tmp_path), str(tmp_path / "out.jsonl"), Numbers(), progress=False)
    rows = [json.loads(row) for row in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["Caption"] for row in rows] == ["6 18", "57 63"]


def test_a_line_that_cannot_be_used_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    class Word(Captioner):
        def __call__(self, clips: list[np.ndarray]) -> list[str]:
            return ["word"] * len(clips)

    for name in ("a.mp4", "one/b.mp4", "two/b.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        videos.make(tmp_path / name, frames=30)
    rows = [{"path": "a.mp4", "start": 0, "end": 1}, {"path": "a.mp4", "start": 2, "end": 1}, {"YoutubeID": "b"}]
    manifest, out = write(tmp_path / "m.jsonl", rows), str(tmp_path / "out.jsonl")
    done = write_captions(manifest, str(tmp_path), out, Word(), progress=False)
    assert done["captioned"] == 1 and list(done["failed"]) == ["b", "a.mp4 (line 2)"]
    assert "two videos could be b" in done["failed"]["b"] and "is no clip" in done["failed"]["a.mp4 (line 2)"]
    (tmp_path / "c.csv").write_text("name,caption\na.mp4,said\n")
    for command in (["select", manifest, out], ["caption", manifest, out, "--captions", str(tmp_path / "c.csv")]):
        assert internvid.main(command) == 0
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
        printed = capsys.readouterr()
        assert "left out 1 line with invalid timestamps" in printed.out and "a.mp4 (line 2)" in printed.err


def test_diversity_draws_as_the_official_script() -> None:
    case = json.loads(REFERENCE.read_text())
    sources = [source_of(video) for video in case["videos"]]
    assert diverse(sources, case["k"], case["numpy_seed"]).tolist() == case["sampled"]
    with pytest.raises(ValueError, match="261 clips are requested of 260"):
        diverse(sources, 261)


def test_rules_by_score_and_length() -> None:
    scores = np.array([0.1, 0.5, 0.3, 0.5, 0.4, 0.2, 0.0, 0.35, 0.45, 0.05])
    assert top_share(scores, 0.3).tolist() == [1, 3, 8] and top_share(scores, 0.1).tolist() == [1]
    assert at_least(np.array([3.9, 4.0, 5.0]), 4.0).tolist() == [1, 2]
    assert within_seconds(np.array([0.9, 1.0, 120.0, 121.0]), 1, 120).tolist() == [1, 2]


def test_timestamps() -> None:
    assert seconds_of("01:02:03.456") == 3723.456 and seconds_of("02:03,5") == 123.5 and seconds_of(7) == 7.0
    assert stamp_of(3723.456) == "01:02:03.456" and seconds_of(stamp_of(59.9996)) == 60.0
    assert seconds_of(None) is None
    with pytest.raises(ValueError, match="'soon' is no timestamp"):
        seconds_of("soon")


def test_subsets_of_a_manifest(tmp_path: Path) -> None:
    rows = [line(IDS[i % 3], i, i + 0.5 + i, UMT_Score=i / 10, Aesthetic_Score=3.5 + i / 10) for i in range(10)]
    manifest, out = write(tmp_path / "m.jsonl", rows), tmp_path / "out.jsonl"
    kept = {}
    for kind, count in (("FLT", 2), ("AES", None), ("DIV", 4)):
        assert (
            internvid.main(["select", manifest, str(out), "--subset", kind, *(["--count", str(count)] * bool(count))])
            == 0
        )
        kept[kind] = [json.loads(text) for text in out.read_text().splitlines()]
        assert all(row in rows for row in kept[kind])
    assert len(kept["FLT"]) == 2 and all(row["UMT_Score"] >= 0.7 for row in kept["FLT"])
    assert kept["AES"] == rows[5:]
    drawn = sorted(diverse([row["YoutubeID"] for row in rows], 4))
    assert kept["DIV"] == [rows[i] for i in drawn]
    assert select(manifest, str(out), Rule(seconds=(1, 5))) == (4, 10)
    with pytest.raises(ValueError, match=r"clip 1 .* has no number in 'Score'; it has YoutubeID"):
        select(manifest, str(out), subset("FLT", 2, "Score"))
    assert internvid.main(["select", manifest, str(out), "--subset", "DIV"]) == 2


def test_internvid_clips_are_cut_to_the_frame(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    cuts = [(IDS[0], 30, 60), (IDS[1], 0, 25), (IDS[0], 60, 61), ("gone_567890", 1, 2), (IDS[2], 199, 300)]
    rows = [line(video, a / 24, b / 24, Language="de") for video, a, b in cuts]
    manifest, out = write(tmp_path / "m.jsonl", rows), tmp_path / "out"
    arguments = ["build", manifest, str(folder), str(out), "--workers", "1", "--quiet", "--shard-samples", "2"]
    assert internvid.main(arguments) == 0
    said = capsys.readouterr().out
    assert "kept 4 clips in 2 shards" in said and "missing 1: no such video" in said
    assert (out / "missing.txt").read_text() == "gone_567890_0.042_0.083\n"
    source = Shards(str(out))
    assert numbers(source) == [[*range(30, 60)], [60], [*range(25)], [199]]
    assert [source[i].text for i in range(4)] == ["from 1.25", "from 2.5", "from 0.0", f"from {199 / 24}"]
    before = (out / "shard-000000.tar").read_bytes()
    assert b'"Language": "de"' in before and b'"UMT_Score": 0.3' in before and b"abcdefghijk_1.250_2.500" in before
    report = json.loads((out / "report.json").read_text())
    assert (report["kept"], report["missing"], report["frames"]) == (4, 1, 57)
    stamp = (out / "shard-000000.tar").stat().st_mtime_ns
    assert internvid.main(arguments) == 0 and (out / "shard-000000.tar").stat().st_mtime_ns == stamp


def test_webvid_keeps_whole_videos(folder: Path, tmp_path: Path) -> None:
    with open(tmp_path / "results_2M_train.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["videoid", "contentUrl", "duration", "page_dir", "name"])
        writer.writerow([IDS[2], "https://example.org/1", "PT00H00M08S", "in here", "a cat, asleep"])
        writer.writerow(["99", "https://example.org/2", "PT00H00M08S", "pages", "gone"])
    rows, missing, _ = match(str(tmp_path / "results_2M_train.csv"), str(folder))
    assert missing == ["99"] and len(rows) == 1 and "cuts" not in rows[0]
    places = [str(tmp_path / "results_2M_train.csv"), str(folder), str(tmp_path / "out")]
    assert internvid.main(["build", *places, "--quiet", "--workers", "1"]) == 0
    source = Shards(str(tmp_path / "out"))
    assert source[0].text == "a cat, asleep"
    assert source[0].content == (folder / "in here" / f"{IDS[2]}.mp4").read_bytes()


def test_parquet_reads_as_jsonl(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    rows = [line(IDS[0], 0, 1), line(IDS[1], 2, 3.5)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "m.parquet")
    from_jsonl = [*read_manifest(write(tmp_path / "m.jsonl", rows))]
    assert [*read_manifest(str(tmp_path / "m.parquet"))] == from_jsonl


def test_times_may_be_called_start_and_end(folder: Path, tmp_path: Path) -> None:
    """They were taken for further columns, and the clip for the whole video."""
    (tmp_path / "m.csv").write_text(f"path,start,end,trend\n{IDS[0]}.mp4,1,00:00:02.5,up\nin here/{IDS[2]}.mp4,,,\n")
    first, second = read_manifest(str(tmp_path / "m.csv"))
    assert (first.start, first.end, first.name) == (1, 2.5, f"{IDS[0]}_1.000_2.500")
    assert (second.start, second.end) == (0, math.inf)
    rows, *_ = match(str(tmp_path / "m.csv"), str(folder))
    cut = {"name": first.name, "start": 1.0, "end": 2.5, "trend": "up"}
    assert rows[0]["cuts"] == [cut] and "cuts" not in rows[1]


@pytest.mark.parametrize("content", [b"path\n" + b"a" * 200_000, b"path\na.mp4,b\n"])
def test_a_damaged_csv_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"m\.csv, (after )?line \d"):
        list(read_manifest(str(tmp_path / "m.csv")))


def test_a_damaged_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "m.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1")
    with pytest.raises(ValueError, match=r"m\.parquet is damaged or no parquet"):
        list(read_manifest(str(tmp_path / "m.parquet")))


def test_bad_manifests_say_where(folder: Path, tmp_path: Path) -> None:
    for rows, message in [
        ([{"url": "x"}], "line 1 names no video: it needs one of YoutubeID, videoid, path, and has url"),
        ([line(IDS[0], 0, 1), line(IDS[0], 2, 1)], "line 2: from 00:00:02.000 to 00:00:01.000 is no clip"),
        ([line(IDS[0], 0, 1, End_timestamp="x")], "line 1: 'x' is no timestamp"),
        ([line(IDS[0], 0, 1, Caption=["a"])], "line 1: its caption is not text"),
        ([{**line(IDS[0], 0, 1), "start": 0}], "line 1: it has both Start_timestamp and start: keep one pair"),
        ([{"path": "a.mp4", "start": 3}], "line 1: from 3 to None is no clip"),
        ([{"path": "a.mp4", "Start": 0, "End": 2}], "line 1: the column 'Start' is not read: call the times"),
        ([{"path": "a.mp4", "end_time": 2}], "line 1: the column 'end_time' is not read"),
    ]:
        with pytest.raises(ValueError, match=message):
            list(read_manifest(write(tmp_path / "m.jsonl", rows)))
    with pytest.raises(FileNotFoundError, match="none of 1 clip of"):
        match(write(tmp_path / "m.jsonl", [line("gone", 0, 1)]), str(folder))
    with pytest.raises(ValueError, match="is no manifest"):
        list(read_manifest(str(REFERENCE)))
    videos.make(tmp_path / "a.mp4", frames=2)
    videos.make(tmp_path / "a.mkv", frames=2)
    (entry,) = read_manifest(write(tmp_path / "m.jsonl", [line("a", 0, 1)]))
    with pytest.raises(ValueError, match="two videos could be a: "):
        Folder(str(tmp_path)).find(type(entry)("a", 0, 1, None, {}))


def test_own_videos_become_scenes_captions_and_shards(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "in").mkdir()
    lengths, colours = [30, 41, 25], [(200, 30, 30), (20, 90, 220), (240, 240, 60)]
    with av.open(str(tmp_path / "in" / "film.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=24, options={"crf": "16"})
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        for length, colour in zip(lengths, colours, strict=True):
            for i in range(length):
                picture = np.full((96, 160, 3), colour, np.uint8)
                picture[:, 4 * (i % 40) : 4 * (i % 40) + 4] //= 2
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    (tmp_path / "in" / "no.mp4").write_bytes(b"no video")
    found, told = str(tmp_path / "scenes.jsonl"), str(tmp_path / "captions.jsonl")
    assert internvid.main(["scenes", str(tmp_path / "in"), found, "--workers", "1", "--quiet"]) == 0
    said = capsys.readouterr()
    assert "kept 3 of 3 scenes in 2 videos" in said.out and "left out no.mp4" in said.err
    (tmp_path / "by_name.csv").write_text("name,caption\nfilm_0.000_1.250,red\nfilm_1.250_2.958,blue\n")
    assert internvid.main(["caption", found, told, "--captions", str(tmp_path / "by_name.csv")]) == 0
    assert "2 of 3 clips with a caption" in capsys.readouterr().out
    mine = ["--captioner", "tests.making.test_manifest:Brightness", "--videos", str(tmp_path / "in"), "--quiet"]
    assert internvid.main(["caption", told, str(tmp_path / "all.jsonl"), *mine]) == 0
    assert "captioned 1 clip, 2 had a caption" in capsys.readouterr().out
    build = [
        "build",
        str(tmp_path / "all.jsonl"),
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "--workers",
        "1",
        "--quiet",
    ]
    assert internvid.main(build) == 0
    source = Shards(str(tmp_path / "out"))
    assert [source[i].text for i in range(3)] == ["red", "blue", "brightness 2"]
    for i, (length, colour) in enumerate(zip(lengths, colours, strict=True)):
        with source[i].open(PyAV()) as video:
            assert len(video) == length
            assert np.abs(np.median(video.frames([0, length - 1]), axis=(1, 2)) - colour).max() < 12


def test_few_large_clips_are_captioned_at_once() -> None:
    frame = np.broadcast_to(np.uint8(0), (1, 2160, 3840, 3))
    sizes = [len(group) for group in in_batches(((i, frame) for i in range(30)), 16)]
    assert sizes == [11, 11, 8], "256 MB"
    assert [len(group) for group in in_batches(((i, "missing") for i in range(5)), 4)] == [4, 1]


class Brightness(Captioner):
    """Captions a clip by the brightness of two of its frames, from 0 to 2."""

    frames = 2

    def __call__(self, clips: list[np.ndarray]) -> list[str]:
        assert all(clip.shape[0] == 2 and clip.dtype == np.uint8 for clip in clips)
        return [f"brightness {int(clip.mean() // 86)}" for clip in clips]


class Breaks(Captioner):
    """Fails at the third clip, as out of memory would."""

    seen = 0

    def __call__(self, clips: list[np.ndarray]) -> list[str]:
        Breaks.seen += len(clips)
        if Breaks.seen == 3:
            raise MemoryError("enough")
        return [f"frame {videos.number(clip[0])}" for clip in clips]


def test_captions_by_names_that_are_not_utf8(tmp_path: Path) -> None:
    manifest = tmp_path / "m.jsonl"
    times = b'"Start_timestamp": "00:00:01.000", "End_timestamp": "00:00:02.000"'
    manifest.write_bytes(b'{"path": "b\xff.mp4"}\n{"path": "c\\udcff.mp4", ' + times + b"}\n")
    (tmp_path / "by_name.csv").write_bytes(b"name,caption\nb\xff.mp4,a dog\nc\xff_1.000_2.000,a cat\n")
    counts = join_captions(str(manifest), str(tmp_path / "by_name.csv"), str(tmp_path / "out.jsonl"))
    assert counts == (2, 2)
    found = [(entry.video, entry.text) for entry in read_manifest(str(tmp_path / "out.jsonl"))]
    assert found == [("b\udcff.mp4", "a dog"), ("c\udcff.mp4", "a cat")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"name": "b", "caption": "c"}\n{"name": "b", "caption": 3}\n', "line 2: a line needs a `name`"),
        ("a.jsonl", b'{"name": ["b"], "caption": "c"}\n', "line 1: a line needs a `name`"),
        ("a.jsonl", b"3\n", "line 1 is not a JSON object"),
        ("a.jsonl", b"[" * 100_000 + b"\n", "line 1 is nested too deeply"),
        ("a.jsonl", b'{"name": "b", "capt\n', "line 1 is not valid JSON"),
        ("a.jsonl", b'{"name": "b", "caption": "c\xff"}\n', "line 1: the caption is not UTF-8"),
        ("a.csv", b"name,text\nb\n", "line 2: a line needs a `name`"),
        ("a.csv", b"name,text\nb," + b"c" * 200_000 + b"\n", "after line 1: field larger"),
    ],
)
def test_wrong_captions_are_named_by_line(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        join_captions(write(tmp_path / "m.jsonl", []), str(tmp_path / name), str(tmp_path / "out.jsonl"))
    assert not (tmp_path / "out.jsonl").exists()


def test_captions_resume_after_a_failure_and_use_the_middle_frame(folder: Path, tmp_path: Path) -> None:
    rows = [line(IDS[0], i, i + 1, Caption="") for i in range(4)] + [line("gone", 0, 1, Caption="")]
    manifest, out = write(tmp_path / "m.jsonl", rows), tmp_path / "out.jsonl"
    with pytest.raises(MemoryError):
        write_captions(manifest, str(folder), str(out), Breaks(), batch=1, progress=False)
    assert not out.exists()
    done = write_captions(manifest, str(folder), str(out), Breaks(), batch=1, progress=False)
    assert Breaks.seen == 5  # only the clip at which it failed was captioned again
    assert done == {"captioned": 4, "kept": 0, "failed": {"gone_0.000_1.000": "its video is missing"}}
    told = [json.loads(text).get("Caption") for text in out.read_text().splitlines()]
    assert told == ["frame 12", "frame 36", "frame 60", "frame 84", ""]
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_journal_forgets_a_torn_line_and_refuses_other_settings(tmp_path: Path) -> None:
    with Journal(tmp_path / "out", {"a": 1}) as journal:
        journal.add("x", [1, 2])
        journal.file.write(b'["y", [1')
    with Journal(tmp_path / "out", {"a": 1}) as again:
        assert again.records == {"x": [1, 2]}
        again.add("y", 3)
    with Journal(tmp_path / "out", {"a": 1}) as whole:
        assert whole.records == {"x": [1, 2], "y": 3}
    with pytest.raises(ValueError, match="begun with other settings"):
        Journal(tmp_path / "out", {"a": 2})


def test_transformers_captions_images(folder: Path, tmp_path: Path) -> None:
    """A tiny BLIP with random weights, from a folder."""
    folder_of_model = save_blip(tmp_path / "blip")
    captioner = load_captioner("datamodules.making.captions:ImageToText", {"model": folder_of_model, "tokens": 5})
    assert isinstance(captioner, ImageToText)
    rows = [line(IDS[0], i, i + 1, Caption=None) for i in range(3)]
    manifest = write(tmp_path / "m.jsonl", rows)
    done = write_captions(manifest, str(folder), str(tmp_path / "out.jsonl"), captioner, batch=2, progress=False)
    assert done["captioned"] == 3
    assert set(" ".join(e.text or "" for e in read_manifest(str(tmp_path / "out.jsonl"))).split()) <= {*WORDS}
    for name, message in [
        ("nothing", "write package.module:Class"),
        ("datamodules.making.captions:No", "there is no captioner"),
    ]:
        with pytest.raises(ValueError, match=message):
            load_captioner(name)
