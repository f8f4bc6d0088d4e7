"""Videos that cannot be read are skipped, counted and named; over a budget they stop the run."""

import logging
import os
from pathlib import Path

import pytest
import torch

from datamodules import Files
from tests.helpers import videos
from tests.helpers.recording import RecordingModule, data, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return videos.make_odd(tmp_path_factory.mktemp("videos"))


def bad_list(folder: Path, tmp_path: Path, good: int, bad: int) -> Files:
    names = [f"good ü/{i % 6} é.mp4" for i in range(good)] + [
        f"bad/{sorted(os.listdir(folder / 'bad'))[i % 5]}" for i in range(bad)
    ]
    (tmp_path / "mixed.csv").write_text(
        "\n".join(["path,text", *(f"{n},t{i}" for i, n in enumerate(names))]), encoding="utf-8"
    )
    return Files(str(tmp_path / "mixed.csv"), root=str(folder))


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_files_are_skipped_counted_and_named(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, workers: int
) -> None:
    source, toy = bad_list(folder, tmp_path, 25, 5), RecordingModule()
    module = data(source, frames=4, views=1, workers=workers)
    with caplog.at_level(logging.WARNING, "datamodules.video"):
        trainer(max_steps=5).fit(toy, datamodule=module)  # one epoch
    failed = module.failures.failed["train"]
    assert {name for name, _ in failed} >= {f"bad/{n}.mp4" for n in ("audio", "cut", "cut_fast", "empty", "text")}
    assert (
        len(caplog.messages) == len(failed) and "unreadable of" in caplog.messages[-1] and "bad/" in caplog.messages[0]
    )
    assert len(toy.seen) == 15 and not any("bad/" in name for _, _, names, _ in toy.seen for name in names)
    again = RecordingModule()
    trainer(max_steps=5).fit(again, datamodule=data(source, frames=4, views=1))
    assert again.seen == toy.seen  # substitutes too depend on (seed, step) only


def test_over_the_budget_the_run_stops(folder: Path, tmp_path: Path) -> None:
    source = bad_list(folder, tmp_path, 25, 5)
    module = data(source, frames=4, failure_grace=2, failure_budget=0.05)
    with pytest.raises(RuntimeError, match=r"could not be read, more than the budget of 5.00%") as error:
        trainer(max_steps=50).fit(RecordingModule(), datamodule=module)
    assert "bad/" in str(error.value) and "data.failure_budget" in str(error.value)
    assert len(module.failures.failed["train"]) == 3


def test_only_bad_files_do_not_loop_forever(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"8 substitutes for it cannot be read.*is the storage there"):
        trainer().fit(
            RecordingModule(), datamodule=data(bad_list(folder, tmp_path, 0, 5), frames=4, failure_grace=1000)
        )


def test_bad_files_have_weight_zero_in_evaluation(folder: Path, tmp_path: Path) -> None:
    module = data(predict=bad_list(folder, tmp_path, 6, 5), frames=4, micro_batch=4)
    rows = trainer().predict(RecordingModule(), datamodule=module)
    weight = torch.cat([b["weight"] for b in rows])
    pixels = torch.cat([b["video"].flatten(1).sum(1) for b in rows])
    assert weight.tolist() == [1] * 6 + [0] * 6 and (pixels[6:11] == 0).all() and (pixels[:6] > 0).all()
    assert rows[1]["text"][:3] == ["t4", "t5", "t6"] and len(module.failures.failed["predict"]) == 5
