"""Each data set's fragment on tiny files in its published form: samples, captions, labels, and what is missing."""

import csv
import io
import json
import shutil
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from datamodules import Annotated, Instructions, Join, Mixture, RandomResizedCrop, Sparse, Squash, Table, VideoData
from datamodules.loading.batches import EvalBatches, TrainBatches
from datamodules.loading.global_batch import GlobalBatch
from pretrain.cli import main
from tests.helpers import videos
from tests.helpers.methods import resolved
from tests.helpers.paths import ROOT

FRAGMENTS = sorted((ROOT / "recipes/data").glob("*.yaml"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return videos.make(tmp_path_factory.mktemp("clip") / "clip.mp4", frames=12, fps=4, height=32, width=32)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clip: str):
    """Writes files of a data set under tmp_path, the working directory of the test; None stands for a video."""

    def write(files: dict[str, object]) -> None:
        for name, content in files.items():
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                shutil.copy(clip, path)
            elif isinstance(content, str):
                path.write_text(content, encoding="utf-8", newline="")
            elif path.suffix == ".jsonl":
                path.write_text("".join(json.dumps(row) + "\n" for row in content))
            else:
                path.write_text(json.dumps(content))

    monkeypatch.chdir(tmp_path)
    return write


def table(rows: list[list[object]], delimiter: str = ",") -> str:
    """A table as `csv` writes it, or without quotes if the delimiter is not a comma."""
    if delimiter != ",":
        return "".join(delimiter.join(map(str, row)) + "\n" for row in rows)
    lines: list[str] = []
    csv.writer(type("Lines", (), {"write": lines.append})()).writerows(rows)
    return "".join(lines)


def source(config: dict | None) -> Annotated | Instructions | None:
    """Builds a source from a resolved recipe."""
    if config is None:
        return None
    if config["class_path"].endswith("Instructions"):
        return Instructions(**config["init_args"])
    arguments = dict(config["init_args"], table=Table(**config["init_args"]["table"]))
    arguments["only"] = Table(**arguments["only"]) if arguments["only"] else None
    arguments["join"] = [Join(Table(**j["table"]), j["ours"], j["theirs"]) for j in arguments["join"] or []]
    return Annotated(**arguments)


@cache
def fragment(name: str) -> dict:
    """The data section of a recipe with a fragment of recipes/data, from `--print_config`."""
    recipes = [ROOT / "recipes/videomae_b.yaml", ROOT / f"recipes/data/{name}.yaml"]
    with redirect_stdout(io.StringIO()) as out, pytest.raises(SystemExit):
        main(["fit", *(a for r in recipes for a in ("-c", str(r))), "--print_config"])
    return yaml.safe_load(out.getvalue())["data"]["init_args"]


def sources(name: str) -> list[Annotated | None]:
    """(train, val, test) of a fragment, from the files in the working directory."""
    return [source(fragment(name)[part]) for part in ("train", "val", "test")]


def samples_of(source: Annotated) -> list[tuple]:
    return [(s.name, s.text, s.label) for s in map(source.__getitem__, range(len(source)))]


def msrvtt() -> dict:
    rows = [("video0", "a cat runs"), ("video1", 'a dog, "Rex", sleeps'), ("video0", "the cat"), ("video9", "no")]
    sentences = [{"caption": c, "video_id": v, "sen_id": i} for i, (v, c) in enumerate(rows)]
    about = [
        {"category": 9, "url": "", "video_id": v, "split": s, "id": i, "start time": 1.5, "end time": 9.0}
        for i, (v, s) in enumerate([("video0", "train"), ("video1", "validate"), ("video9", "test")])
    ]
    test = [["key", "vid_key", "video_id", "sentence"], ["ret0", "msr9770", "video9770", "a person, connecting"]]
    return {
        "msrvtt/MSRVTT_data.json": {"info": {}, "videos": about, "sentences": sentences},
        "msrvtt/MSRVTT_train.9k.csv": "video_id\r\nvideo0\r\nvideo1\r\n",
        "msrvtt/MSRVTT_JSFUSION_test.csv": table(test),
        **{f"msrvtt/videos/{name}.mp4": None for name in ("video0", "video1", "video9", "video9770")},
    }


def test_msrvtt(place) -> None:
    place(msrvtt())
    train, val, test = sources("msrvtt")
    assert samples_of(train) == [
        ("video0", ["a cat runs", "the cat"], None),
        ("video1", ['a dog, "Rex", sleeps'], None),
    ]
    assert samples_of(val) == samples_of(test) == [("video9770", "a person, connecting", None)]
    assert Path(train[0].content) == Path("data/msrvtt/videos/video0.mp4") and train.classes is None
    assert (train.texts, train.labels, len(train)) == (2, 0, 2)


def test_msrvtts_own_split(place) -> None:
    place(msrvtt())
    split = Join(Table("data/msrvtt/MSRVTT_data.json", entries="videos"), "{video_id}", "{video_id}")
    sentences = Table("data/msrvtt/MSRVTT_data.json", entries="sentences")
    about = {"videos": "data/msrvtt/videos", "video": "{video_id}", "text": "{caption}", "join": [split]}
    assert [s.name for s in Annotated(sentences, where={"split": "validate"}, **about)] == ["video1"]
    assert [s.name for s in Annotated(sentences, where={"split": ["train", "test"]}, **about)] == ["video0", "video9"]
    with pytest.raises(ValueError, match=r"no row of .*MSRVTT_data.json has split val: there are 'train', 'validate'"):
        Annotated(sentences, where={"split": "val"}, **about)


def test_msrvtt_multiple_choice(place) -> None:
    options = ["a man", "a woman", "a dog", "a cat", "a car"]
    rows = [{"qid": i, "clip_name": f"video{v}", "options": options, "answer": a} for i, v, a in ((3, 0, 4), (4, 0, 0))]
    place({"msrvtt/msrvtt_mc_test.jsonl": rows, "msrvtt/videos/video0.mp4": None})
    train, val, test = sources("msrvtt_mc")
    assert train is None and val is None
    assert samples_of(test) == [("3", options, 4), ("4", options, 0)]


def test_didemo(place) -> None:
    """Names with suffixes that differ from the files' suffixes; clips from the first half minute of each."""
    rows = [("1@N_a.mov", "a cat enters."), ("2@N_b.3gp", "snow"), ("1@N_a.mov", "it leaves")]
    entries = [
        {"video": v, "description": d, "annotation_id": i, "times": [[0, 1]], "num_segments": 6, "dl_link": ""}
        for i, (v, d) in enumerate(rows)
    ]
    files = {f"didemo/{part}_data.json": entries for part in ("train", "val", "test")}
    place({**files, "didemo/videos/1@N_a.mov.mp4": None, "didemo/videos/2@N_b.webm": None})
    for part in sources("didemo"):
        assert samples_of(part) == [("1@N_a", "a cat enters. it leaves", None), ("2@N_b", "snow", None)]
        assert part[0].end == 30
    with pytest.raises(IndexError):
        part[2]


def test_activitynet(place) -> None:
    entries = {
        "v_one": {"duration": 82.7, "timestamps": [[0, 9], [9, 82]], "sentences": ["A girl stands.", " She dances. "]},
        "v_-2_": {"duration": 2.7, "timestamps": [[0, 2]], "sentences": ["Snow."]},
    }
    files = {f"activitynet/{part}.json": entries for part in ("train", "val_1")}
    place({**files, "activitynet/videos/v_one.mkv": None, "activitynet/videos/v_-2_.mp4": None})
    for part in sources("activitynet"):
        assert samples_of(part) == [("v_one", "A girl stands. She dances.", None), ("v_-2_", "Snow.", None)]


def test_lsmdc(place) -> None:
    """Tabs, unclosed quotation marks, an extra tab, clips in folders by film, two captions of one clip."""
    first, second = "3009_LOS_00.03.07.170-00.03.09.675", "0001_American_Beauty_00.00.51.926-00.00.54.129"
    tail = ["00.03.07", "00.03.09", "", ""]
    rows = [[first, *tail, 'He says: "Go.'], [second, *tail, "SOMEONE's wife", ""], [first, *tail, "Dust."]]
    names = ("LSMDC16_annos_training", "LSMDC16_annos_val", "LSMDC16_challenge_1000_publictect")
    files = {f"lsmdc/{name}.csv": table(rows, "\t") for name in names}
    place({**files, f"lsmdc/videos/3009_LOS/{first}.avi": None, f"lsmdc/videos/{second}.avi": None})
    for part in sources("lsmdc"):
        assert samples_of(part) == [(first, ['He says: "Go.', "Dust."], None), (second, ["SOMEONE's wife"], None)]
        assert part[0].content.endswith(f"3009_LOS/{first}.avi")


def test_msvd(place) -> None:
    captions = (
        "# MSVD\n\n-4w_5_15 a squirrel is eating\n-4w_5_15 a squirrel  eats\nab_0_9 a man\nzz_1_2 x\nab_0_9 a man\n"
    )
    lists = {"train": "-4w_5_15\n", "val": "ab_0_9", "test": "ab_0_9\r\n-4w_5_15\r\n"}
    place(
        {
            "msvd/AllVideoDescriptions.txt": captions,
            **{f"msvd/{part}_list.txt": text for part, text in lists.items()},
            **{f"msvd/YouTubeClips/{name}.avi": None for name in ("-4w_5_15", "ab_0_9")},
        }
    )
    train, val, test = sources("msvd")
    assert samples_of(train) == [("-4w_5_15", ["a squirrel is eating", "a squirrel  eats"], None)]
    assert samples_of(val) == [("ab_0_9", ["a man", "a man"], None)]
    assert {s.name for s in test} == {"ab_0_9", "-4w_5_15"}


def test_microsofts_msvd(place) -> None:
    head = "VideoID,Start,End,WorkerID,Source,AnnotationTime,Language,Description"
    rows = [
        "mv89,33,46,588702,unverified,55,Slovene,Papagaj",
        'mv89,33,46,1,clean,5,English,"a bird, in a sink"',
        head[:0],
    ]
    place({"msvd/video_corpus.csv": "\ufeff" + "\r\n".join([head, *rows]), "msvd/YouTubeClips/mv89_33_46.avi": None})
    made = Annotated(
        Table("data/msvd/video_corpus.csv"),
        "data/msvd/YouTubeClips",
        "{VideoID}_{Start}_{End}",
        text="{Description}",
        where={"Language": "English"},
    )
    assert samples_of(made) == [("mv89_33_46", "a bird, in a sink", None)]


@pytest.mark.parametrize("n", [400, 600, 700])
def test_kinetics(place, n: int, caplog: pytest.LogCaptureFixture) -> None:
    """Times as numbers of any form, classes in alphabetical order, one clip listed twice, clips in folders by class."""
    head = ["label", "youtube_id", "time_start", "time_end", "split"]
    val = [["zumba", "-aaaaaaaaaa", 7, 17, "validate"], ["air drumming", "b_bbbbbbbbb", "137.0", "147.0", "validate"]]
    train = [["zumba", "ccccccccccc", 0, 10, "train"]] * 2
    clips = ("-aaaaaaaaaa_000007_000017", "b_bbbbbbbbb_000137_000147", "ccccccccccc_000000_000010")
    place(
        {
            f"k{n}/val.csv": table([head, *val]),
            f"k{n}/train.csv": table([head, *train]),
            **{
                f"k{n}/{folder}/{name}.mp4": None for folder, name in zip(("val", "val/x", "train"), clips, strict=True)
            },
        }
    )
    train, val, test = sources(f"k{n}")
    assert samples_of(test) == samples_of(val) == [(clips[0], None, 1), (clips[1], None, 0)]
    assert samples_of(train) == [(clips[2], None, 1)]
    assert test.classes == train.classes == ["air drumming", "zumba"]
    assert "1 rows of data/k" in caplog.text and "each video counts once" in caplog.text


def test_lists_of_paths_and_numbers(place) -> None:
    place(
        {
            "k400/list.csv": "train/a.mp4 1\nb.mp4 0\n",
            "k400/names.txt": "zumba\nair drumming\n",
            "k400/train/a.mp4": None,
            "k400/b.webm": None,
        }
    )
    about = {"videos": "data/k400", "video": "{path}", "number": "{class}"}
    made = Annotated(Table("data/k400/list.csv", ["path", "class"], " "), classes="data/k400/names.txt", **about)
    assert samples_of(made) == [("train/a", None, 1), ("b", None, 0)] and made.classes == ["zumba", "air drumming"]
    assert Annotated(Table("data/k400/list.csv", ["path", "class"], " "), **about).classes is None


def ssv2() -> dict:
    rows = [
        ("78687", "holding potato next to jar", "Holding [something] next to [something]", ["potato", "jar"]),
        ("42326", "rolling a ball", "Rolling [something]", ["a ball"]),
    ]
    entries = [dict(zip(("id", "label", "template", "placeholders"), row, strict=True)) for row in rows]
    return {
        "ssv2/train.json": entries,
        "ssv2/validation.json": entries[:1],
        "ssv2/labels.json": {
            "Rolling something": "0",
            "Tearing something": "2",
            "Holding something next to something": "1",
        },
        "ssv2/videos/78687.webm": None,
        "ssv2/videos/42326.webm": None,
    }


def test_ssv2(place) -> None:
    place(ssv2())
    train, val, test = sources("ssv2")
    assert samples_of(train) == [("78687", None, 1), ("42326", None, 0)] and samples_of(val) == samples_of(test) == [
        ("78687", None, 1)
    ]
    assert test.classes == ["Rolling something", "Holding something next to something", "Tearing something"]


@pytest.mark.parametrize("view", ["label", "template"])
def test_ssv2_retrieval(place, view: str) -> None:
    """One sentence for several videos."""
    entries = [{"video": ["78687.webm", "42326.webm"], "caption": "Rolling something"}]
    place({**ssv2(), f"ssv2/ssv2_ret_{view}_val_small.json": entries})
    train, val, test = sources(f"ssv2_{view}")
    texts = {
        "label": ["holding potato next to jar", "rolling a ball"],
        "template": ["Holding something next to something", "Rolling something"],
    }
    assert [s.text for s in train] == texts[view]
    assert (
        samples_of(test)
        == samples_of(val)
        == [("78687", "Rolling something", None), ("42326", "Rolling something", None)]
    )


def question_rows(*rows: tuple) -> list[dict]:
    return [{"answer": a, "category_id": 1, "id": i, "question": q, "video_id": v} for i, v, q, a in rows]


def test_msrvtt_questions(place, caplog: pytest.LogCaptureFixture) -> None:
    train = question_rows((5, 0, "what runs?", "cat"), (6, 0, "who sleeps?", "dog"), (7, 1, "what runs?", "cat"))
    test = question_rows((8, 1, "what is it?", "zebra"), (9, 1, "what runs?", "dog"))
    place(
        {
            "msrvtt_qa/train_qa.json": train,
            **{f"msrvtt_qa/{part}_qa.json": test for part in ("val", "test")},
            **{f"msrvtt/videos/video{i}.mp4": None for i in (0, 1)},
        }
    )
    train, val, test = sources("msrvtt_qa")
    assert samples_of(train) == [("5", "what runs?", 0), ("6", "who sleeps?", 1), ("7", "what runs?", 0)]
    assert samples_of(test) == samples_of(val) == [("8", "what is it?", -1), ("9", "what runs?", 1)]
    assert test.classes == ["cat", "dog"]
    assert "1 of 2 samples of data/msrvtt_qa/test_qa.json have a label outside the 2 classes" in caplog.text


def test_msvd_questions(place) -> None:
    """Videos by a table that maps numbers to names."""
    place(
        {
            **{
                f"msvd_qa/{part}_qa.json": question_rows((0, 1, "what eats?", "squirrel"))
                for part in ("train", "val", "test")
            },
            "msvd_qa/youtube_mapping.txt": "-4w_5_15 vid1\nab_0_9 vid2\n",
            "msvd/YouTubeClips/-4w_5_15.avi": None,
        }
    )
    train, _, test = sources("msvd_qa")
    assert samples_of(train) == samples_of(test) == [("0", "what eats?", 0)] and "-4w_5_15.avi" in test[0].content
    place({"msvd_qa/youtube_mapping.txt": "ab_0_9 vid2\n"})
    with pytest.raises(ValueError, match=r"train_qa.json, entry 1: no row of .*youtube_mapping.txt matches 'vid1'"):
        sources("msvd_qa")


def test_activitynet_questions(place) -> None:
    questions = [{"video_name": "QOl", "question": "is it a girl", "question_id": "QOl_0"}]
    answers = [{"answer": "yes", "type": 3, "question_id": "QOl_0"}]
    files = {f"activitynet_qa/{part}_q.json": questions for part in ("train", "val", "test")}
    files |= {f"activitynet_qa/{part}_a.json": answers for part in ("train", "val", "test")}
    place({**files, "activitynet/videos/v_QOl.mp4": None})
    for part in sources("activitynet_qa"):
        assert samples_of(part) == [("QOl_0", "is it a girl", 0)] and part.classes == ["yes"]


@pytest.mark.parametrize("path", FRAGMENTS, ids=lambda p: p.stem)
def test_what_is_missing_is_named_with_where_it_comes_from(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parts = [fragment(path.stem)[part] for part in ("train", "val", "test")]
    for part in parts:  # mixtures may hold mixtures
        parts += part["init_args"]["sources"] if part and part["class_path"].endswith("Mixture") else []
    parts = [config for config in parts if config and config["class_path"].endswith(("Annotated", "Instructions"))]
    for config in parts:
        with pytest.raises(FileNotFoundError, match=r"no annotation file data/[\w/.-]+.*It comes from .*https?://"):
            source(config)
    if path.stem not in ("actions", "files", "latents", "mixture", "shards", "synthetic", "test_only"):
        assert parts


def test_only_evaluation_needs_no_training_data(place, capsys: pytest.CaptureFixture) -> None:
    recipes = [
        ROOT / "recipes/videomae_b.yaml",
        *(ROOT / f"recipes/data/{name}.yaml" for name in ("k400", "test_only")),
    ]
    truth = resolved(capsys, [a for r in recipes for a in ("-c", str(r))])["data"]["init_args"]
    assert truth["train"] is truth["val"] is None and truth["test"]["init_args"]["table"]["file"] == "data/k400/val.csv"


def test_batches_of_captions_and_labels(place) -> None:
    """Training uses a random caption of a video; evaluation has all of them and the classes."""
    rows = [["id", "caption", "class"], ["a", "one", "x"], ["a", "two", "x"], ["b", "three", "y"]]
    place({"list.csv": table(rows), "videos/a.mp4": None, "videos/b.mp4": None})
    made = Annotated(Table("data/list.csv"), "data/videos", "{id}", text="{caption}", label="{class}", end=1.0)
    data = VideoData(made, test=made, global_batch=2, frames=4, size=16, workers=0, sampler=Sparse(), view=Squash())
    batch = EvalBatches(data.test, data.clip, 1, 1, 0, 1, 2)[0]
    assert batch["text"] == [["one", "two"], ["three"]] and batch["label"].tolist() == [0, 1]
    assert batch["video"].shape == (2, 3, 4, 16, 16) and data.test.classes == ["x", "y"]
    train = TrainBatches(made, made.order(0, 1), data.clip, 0, GlobalBatch(0, 1, 2, 1))
    seen = {text for k in range(12) for text in train[k]["text"]}
    assert seen == {"one", "two", "three"}
    assert torch.equal(train[3]["video"], train[3]["video"]) and train[3]["text"] == train[3]["text"]


def test_the_command_names_missing_data_before_a_model_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of this recipe's teacher are missing as well."""
    monkeypatch.chdir(tmp_path)
    recipes = (ROOT / "recipes/umt_b.yaml", ROOT / "recipes/data/msrvtt.yaml")
    with pytest.raises(Exception, match=r"no annotation file data/msrvtt/MSRVTT_data\.json.*CLIP4Clip") as error:
        main(["fit", *(a for r in recipes for a in ("-c", str(r))), "--trainer.accelerator=cpu"])
    assert "ViT-B-16" not in str(error.value)


def test_videos_and_pictures_mixed(place, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """WebVid's list beside COCO's, as recipes/data/webvid_cc3m.yaml mixes: with `strip` each step has one kind."""
    head, rows = ["videoid", "contentUrl", "duration", "page_dir", "name"], ["PT00H00M10S", "000001_000050"]
    names = [
        ["21", "u", *rows, "a cat"],
        ["22", "u", *rows, "a dog"],
        ["23", "u", *rows, "a car"],
        ["24", "u", *rows, "a"],
    ]
    images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in (9, 25)]
    captions = [{"image_id": i, "id": i + n, "caption": f"photo {i} {n}"} for i in (9, 25) for n in range(2)]
    place(
        {
            "webvid/results_2M_train.csv": table([head, *names]),
            **{f"webvid/videos/{name}.mp4": None for name in ("000001_000050/21", "22")},
            "coco/captions.json": {"images": images, "annotations": captions},
        }
    )
    (tmp_path / "data/coco/train2014").mkdir()
    for i in (9, 25):
        Image.fromarray(np.full((20, 30, 3), i, np.uint8)).save(tmp_path / f"data/coco/train2014/{i:012d}.jpg")
    webvid = source(fragment("webvid_cc3m")["train"]["init_args"]["sources"][0])
    join = [Join(Table("data/coco/captions.json", entries="images"), "{image_id}", "{id}")]
    coco = Annotated(
        Table("data/coco/captions.json", entries="annotations"),
        "data/coco/train2014",
        "{file_name}",
        text="{caption}",
        join=join,
    )
    assert [s.text for s in webvid] == ["a cat", "a dog"] and "2 of the 3 videos" in caplog.text
    assert [s.text for s in coco] == [["photo 9 0", "photo 9 1"], ["photo 25 0", "photo 25 1"]]
    mixed = Mixture([webvid, coco], strip=2)
    data = VideoData(mixed, global_batch=2, frames=4, size=16, workers=0, sampler=Sparse(), crop=RandomResizedCrop())
    batches = TrainBatches(mixed, mixed.order(0, data.lanes), data.clip, 0, GlobalBatch(0, 1, 2, 1))
    kinds = [{"photo" in text for text in batches[k]["text"]} for k in range(6)]
    assert all(len(kind) == 1 for kind in kinds) and {True} in kinds and {False} in kinds
    still = next(batches[k]["video"] for k in range(6) if kinds[k] == {True})
    assert (still == still[:, :, :1]).all()  # a picture is its one frame, again and again
