"""A wrong label, caption or json in a shard costs its sample, which is named; never the run."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from datamodules.clips.crops import CentreCrop
from datamodules.clips.sampling import Dense
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.limits import Limits
from datamodules.decoding.reader import PyAV
from datamodules.loading.batches import EvalBatches, TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.sources.order import Order
from datamodules.sources.sample_json import read_annotation
from datamodules.sources.shards import Shards
from datamodules.sources.tars import index_folder
from tests.helpers import videos

WRONG = {
    "nan": b'{"text": "a", "label": NaN}',
    "infinity": b'{"text": "a", "label": Infinity}',
    "fraction": b'{"text": "a", "label": 1.5}',
    "word": b'{"text": "a", "label": "cat"}',
    "label-list": b'{"text": "a", "label": []}',
    "label-object": b'{"text": "a", "label": {}}',
    "true": b'{"text": "a", "label": true}',
    "negative": b'{"text": "a", "label": -3}',
    "huge": b'{"text": "a", "label": 99999999999999999999}',
    "digits": b'{"text": "a", "label": ' + b"9" * 5000 + b"}",
    "text-number": b'{"text": 3, "label": 1}',
    "text-nan": b'{"text": NaN, "label": 1}',
    "text-empty-list": b'{"text": [], "label": 1}',
    "text-mixed-list": b'{"text": ["a", 3], "label": 1}',
    "text-nested": b'{"text": [["a"]], "label": 1}',
    "text-object": b'{"text": {"a": 1}, "label": 1}',
    "surrogate": b'{"text": "\\ud800", "label": 1}',
    "surrogate-in-list": b'{"text": ["a", "\\udcff"], "label": 1}',
    "no-text": b'{"label": 1}',
    "null-text": b'{"text": null, "label": 1}',
    "no-label": b'{"text": "a"}',
    "no-json": b"no json",
    "empty": b"",
    "list": b"[1, 2]",
    "number": b"3",
    "nested": b'{"text": "a", "label": 1, "more": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "latin1": '{"text": "é", "label": 1}'.encode("latin1"),
    "bytes": bytes(range(128, 256)),
    "cut": b'{"text": "a", "lab',
    "large": b'{"text": "' + b"a" * 2**22 + b'", "label": 1}',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shard with a good sample after each wrong one."""
    folder = tmp_path_factory.mktemp("shards")
    video = Path(videos.make(folder / "v.mp4", frames=8)).read_bytes()
    (folder / "v.mp4").unlink()
    with tarfile.open(folder / "s.tar", "w") as tar:
        for i, (key, wrong) in enumerate(WRONG.items()):
            good = json.dumps({"text": ["one", "two"], "label": i}).encode()
            for name, data in ((key, wrong), (f"good-{i}", good)):
                for suffix, content in (("mp4", video), ("json", data)):
                    member = tarfile.TarInfo(f"{name}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    index_folder(folder)
    return folder


def all_have_fields(folder: Path) -> Shards:
    """The shard with an index by which every sample has a text and a label, as it comes from elsewhere."""
    source = Shards(str(folder))
    source.texts = source.labels = len(source)
    return source


def test_each_kind_of_wrong_json_is_named(folder: Path) -> None:
    source = all_have_fields(folder)
    for i, key in enumerate(WRONG):
        with pytest.raises(DecodeError, match=rf"^s\.tar/{key}: ") as error:
            source[2 * i]
        assert len(str(error.value)) < 200
        good = source[2 * i + 1]
        assert good.text == ["one", "two"] and good.label == i


def test_batches_keep_their_texts_and_labels(folder: Path) -> None:
    source = all_have_fields(folder)
    clip = Clip(4, 1, 16, 1, 0.0, Dense(), CentreCrop(), PyAV())
    train = TrainBatches(source, Order(len(source), 0), clip, 0, GlobalBatch(0, 1, 4, 1))
    skipped = set()
    for k in range(len(train)):
        batch = train[k]
        assert len(batch["label"]) == 4 and all(text in ("one", "two") for text in batch["text"])
        skipped |= {name for name, _ in batch["skipped"]}
    assert skipped == {f"s.tar/{key}" for key in WRONG}
    evaluation = EvalBatches(source, clip, 1, 1, 0, 1, 2)
    assert sum(float(evaluation[k]["weight"].sum()) for k in range(len(evaluation))) == len(WRONG)


def test_one_broken_json_does_not_take_the_texts(tmp_path: Path, folder: Path) -> None:
    """The index counts a wrong sample as having what others have: else no batch would have texts."""
    with tarfile.open(folder / "s.tar") as tar, tarfile.open(tmp_path / "t.tar", "w") as few:
        for member in tar:
            if member.name.startswith(("good-0", "good-1.", "nan", "nested")):
                few.addfile(member, tar.extractfile(member))
    rows = index_folder(tmp_path).rows
    assert (rows[0]["samples"], rows[0]["texts"], rows[0]["labels"]) == (4, 4, 4)


@pytest.mark.parametrize(
    "given, text, label",
    [
        (b"", None, None),
        (b"{}", None, None),
        (b'{"caption": "a", "label": "3"}', "a", 3),
        (b'{"text": ["a", "\xc3\xa9"], "label": 3.0}', ["a", "é"], 3),
        (b'{"text": "", "label": null}', None, None),
        ('{"text": "é"}'.encode("utf-16"), "é", None),  # as json allows
    ],
)
def test_what_is_accepted(given: bytes, text: object, label: int | None) -> None:
    assert read_annotation("k", given, Limits()) == (text, label)


def test_the_limit_can_be_raised(folder: Path) -> None:
    index = 2 * list(WRONG).index("large")
    assert np.char.str_len(Shards(str(folder), limits=Limits(meta_bytes=2**23))[index].text) == 2**22
