"""The data module in a real Trainer: batches, resume, evaluation, and refused configurations."""

import pickle
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from datamodules import Files, PyAV, Synthetic, VideoData
from datamodules.clips.crops import CentreCrop
from datamodules.clips.sampling import Dense
from datamodules.loading.batches import TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.defaults import accumulation, default_lanes
from datamodules.loading.global_batch import GlobalBatch
from datamodules.sources.order import Order
from tests.helpers import videos
from tests.helpers.paths import ROOT
from tests.helpers.recording import RecordingModule, by_name, data, trainer

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[RecordingModule, Path]:
    """Twelve uninterrupted steps of three micro-batches, with checkpoints every five steps."""
    toy, folder = RecordingModule(), tmp_path_factory.mktemp("run")
    keep = ModelCheckpoint(dirpath=folder, every_n_train_steps=5, save_top_k=-1, filename="{step}")
    trainer(enable_checkpointing=True, callbacks=[keep]).fit(toy, datamodule=data())
    return toy, folder / "step=5.ckpt"


def test_the_contents_of_a_batch() -> None:
    class KeepsBatch(RecordingModule):
        def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
            self.batch = batch
            return super().training_step(batch, batch_idx)

    toy = KeepsBatch()
    trainer(max_steps=1).fit(toy, datamodule=data(size=24, frames=8))
    batch = toy.batch
    assert set(batch) == {"video", "name", "text", "label"}
    assert batch["video"].shape == (4, 3, 8, 24, 24) and batch["video"].dtype == torch.uint8
    assert batch["video"].is_contiguous(memory_format=torch.channels_last_3d)
    assert batch["label"].dtype == torch.int64 and batch["label"].shape == (4,)
    assert batch["name"][:2] == batch["name"][2:] and batch["name"][0] != batch["name"][1]  # views outermost
    assert batch["text"][0] == batch["text"][2] and (batch["video"][0] != batch["video"][2]).any()


def test_the_run_has_max_steps(run: tuple[RecordingModule, Path]) -> None:
    toy, _ = run
    assert [s[0] for s in toy.seen] == list(range(36)) and [s[1] for s in toy.seen] == [i // 3 for i in range(36)]
    assert len(toy.evaluated) == 4 * 5  # every 3 steps, 10 videos by 2


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_resume_continues_with_the_next_batch(run: tuple[RecordingModule, Path], workers: int) -> None:
    reference, checkpoint = run
    toy, t = RecordingModule(), trainer()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        t.fit(toy, datamodule=data(workers=workers), ckpt_path=checkpoint)
    assert toy.seen == reference.seen[15:]
    assert t.global_step == 12 and not any("not resumable" in str(w.message) for w in caught)
    assert len(toy.evaluated) == 3 * 5


@pytest.mark.parametrize("micro", [1, 6])
def test_resume_with_another_micro_batch(run: tuple[RecordingModule, Path], micro: int) -> None:
    reference, checkpoint = run
    toy, t = RecordingModule(), trainer()
    t.fit(toy, datamodule=data(micro_batch=micro), ckpt_path=checkpoint)
    assert t.global_step == 12 and len(toy.seen) == 7 * 6 // micro and toy.seen[0][0] == 5 * 6 // micro
    assert by_name(toy.seen) == by_name(reference.seen)[5:]


def test_resume_of_a_finished_run_does_nothing_and_of_a_longer_one_continues(
    run: tuple[RecordingModule, Path], tmp_path: Path
) -> None:
    reference, _ = run
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=6, save_top_k=-1, filename="{step}")
    trainer(max_steps=6, enable_checkpointing=True, callbacks=[keep]).fit(RecordingModule(), datamodule=data())
    done, more = RecordingModule(), RecordingModule()
    trainer(max_steps=6).fit(done, datamodule=data(), ckpt_path=tmp_path / "step=6.ckpt")
    assert done.seen == []
    trainer(max_steps=12).fit(more, datamodule=data(), ckpt_path=tmp_path / "step=6.ckpt")
    assert [s[1:] for s in more.seen] == [s[1:] for s in reference.seen[18:]]


@pytest.mark.parametrize("when", ["exception", "validation"])
def test_resume_from_checkpoints_saved_elsewhere(run: tuple[RecordingModule, Path], tmp_path: Path, when: str) -> None:
    """In the middle of gradient accumulation (the step starts again), and at the end of a validation."""
    reference, _ = run

    class Saves(RecordingModule):
        def on_train_batch_end(self, outputs: object, batch: dict, batch_idx: int) -> None:
            if when == "exception" and batch_idx == 19:
                self.trainer.save_checkpoint(tmp_path / "c.ckpt")
                raise KeyboardInterrupt

        def on_validation_end(self) -> None:
            if when == "validation" and self.global_step == 6:
                self.trainer.save_checkpoint(tmp_path / "c.ckpt")

    try:
        trainer().fit(Saves(), datamodule=data())
    except (SystemExit, KeyboardInterrupt):
        assert when == "exception"
    toy, t = RecordingModule(), trainer()
    t.fit(toy, datamodule=data(), ckpt_path=tmp_path / "c.ckpt")
    assert toy.seen == reference.seen[18:] and t.global_step == 12


@pytest.mark.parametrize(
    "options, batches, steps",
    [
        ({"fast_dev_run": True}, 1, 1),
        ({"fast_dev_run": 2}, 2, 1),
        ({"limit_train_batches": 6}, 12, 4),
        ({"limit_val_batches": 0}, 12, 4),
        ({"overfit_batches": 3}, 12, 4),
        ({"val_check_interval": 1.0, "check_val_every_n_epoch": 1}, 12, 4),
    ],
    ids=str,
)
def test_lightnings_other_switches(run: tuple[RecordingModule, Path], options: dict, batches: int, steps: int) -> None:
    toy, t = RecordingModule(), trainer(**{"max_steps": 4, **options})
    t.fit(toy, datamodule=data())
    assert (len(toy.seen), t.global_step) == (batches, steps)
    if "limit_train_batches" in options:  # limited epochs continue the order
        assert by_name(toy.seen) == by_name(run[0].seen)[:4]


def test_evaluation_covers_every_sample_once() -> None:
    for workers in (0, 2):
        rows = trainer().predict(
            RecordingModule(), datamodule=data(predict=Synthetic(7, size=40), micro_batch=3, workers=workers)
        )
        names = [n for b in rows for n in b["name"]]
        weights = torch.cat([b["weight"] for b in rows]).tolist()
        assert [n for n, w in zip(names, weights, strict=True) if w] == [f"synthetic-0-{i:08d}" for i in range(7)]
        assert len(names) == 9 and all(b["video"].shape == (3, 3, 16, 32, 32) for b in rows)
    again = trainer().predict(RecordingModule(), datamodule=data(predict=Synthetic(7, size=40), micro_batch=3))
    assert all((a["video"] == b["video"]).all() for a, b in zip(rows, again, strict=True))


def test_a_test_has_views(tmp_path: Path) -> None:
    toy = RecordingModule()
    for i in range(3):
        videos.make(tmp_path / f"{i}.mp4", frames=100)
    views = data(test=Files(str(tmp_path)), test_clips=2, test_crops=3, micro_batch=6)
    trainer().test(toy, datamodule=views, verbose=False)
    batch = toy.evaluated[0]  # as many clips as in training, 6 of 2 views
    assert batch["video"].shape == (12, 3, 16, 32, 32) and batch["name"] == batch["name"][:2] * 6
    assert len({int(v.long().sum()) for v in batch["video"][::2]}) == 6


def test_a_validation_set_is_optional() -> None:
    toy = RecordingModule()
    trainer().fit(toy, datamodule=VideoData(Synthetic(20, size=32), global_batch=2, size=32, workers=0))
    assert len(toy.seen) == 12


@pytest.mark.parametrize("options", [{"max_steps": -1}, {"max_steps": 5, "max_epochs": 2}])
def test_a_run_needs_max_steps(options: dict) -> None:
    with pytest.raises(MisconfigurationException, match=r"set trainer.max_steps.*50 videos is 9 steps of 6"):
        trainer(**options).fit(RecordingModule(), datamodule=data())


def test_batch_sizes_that_do_not_divide() -> None:
    assert accumulation(24, 2, 4) == 3 and accumulation(24, None, 4) == 1
    with pytest.raises(
        MisconfigurationException, match=r"global_batch 20 .* 4 devices x micro_batch 2: .*16 or 24 or micro_batch to 1"
    ):
        accumulation(20, 2, 4)
    with pytest.raises(MisconfigurationException, match=r"global_batch 2 .* 4 devices.* set global_batch to 4$"):
        accumulation(2, None, 4)


@pytest.mark.parametrize(
    "options, message", [({"seed": 3}, "seed 0, now 3"), ({"global_batch": 12}, "global_batch 6, now 12")]
)
def test_resume_refuses_another_order(run: tuple[RecordingModule, Path], options: dict, message: str) -> None:
    with pytest.raises(MisconfigurationException, match=message):
        trainer().fit(RecordingModule(), datamodule=data(**options), ckpt_path=run[1])


def test_resume_refuses_other_data_but_evaluation_accepts_them(run: tuple[RecordingModule, Path]) -> None:
    with pytest.raises(MisconfigurationException, match="samples 50, now 51"):
        trainer().fit(RecordingModule(), datamodule=data(Synthetic(51, size=32)), ckpt_path=run[1])
    toy = RecordingModule()
    trainer().validate(toy, datamodule=data(Synthetic(51, size=32)), ckpt_path=run[1], verbose=False)
    assert toy.evaluated


def test_missing_training_data_and_invalid_numbers() -> None:
    with pytest.raises(MisconfigurationException, match=r"data\.train"):
        trainer().fit(RecordingModule(), datamodule=VideoData(predict=Synthetic(3), global_batch=1))
    with pytest.raises(ValueError, match="frames must be 1 or more"):
        data(frames=0)


def test_lanes_mix_shards_by_default() -> None:
    class Sharded(Synthetic):
        pass

    source = Sharded(50)
    assert default_lanes(source, 64) == 1
    source.counts = np.full(40, 10)
    assert default_lanes(source, 64) == 32 and default_lanes(source, 37) == 37 and default_lanes(source, 41) == 1


def test_batches_can_be_pickled_for_workers() -> None:
    clip = Clip(16, 4, 32, 1, 0.0, Dense(), CentreCrop(), PyAV())
    source = Synthetic(5)
    batches = TrainBatches(source, Order(source.counts), clip, 0, GlobalBatch(0, 1, 1, 1))
    assert (pickle.loads(pickle.dumps(batches))[3]["video"] == batches[3]["video"]).all()


def test_importing_loads_no_heavy_packages() -> None:
    import subprocess

    code = (
        "import sys; from datamodules import Files, Shards, Synthetic, PyAV\n"
        "print([m for m in ('lightning', 'av', 'decord', 'cv2', 'webdataset') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
