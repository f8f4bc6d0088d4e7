"""Mixtures: exact shares, no repeats within an epoch of a source, the same steps for every world size; images as videos
of one frame."""

import io
import itertools
import json
import logging
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from PIL import Image

from datamodules import DecodeError, Files, Mixture, PyAV, Shards, Synthetic, VideoData
from datamodules.clips.crops import CentreCrop
from datamodules.clips.sampling import Dense, Segments, Spaced, Span
from datamodules.loading.batches import TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.sources.mixture import MixedOrder
from datamodules.sources.order import Order, SampleRng, slots
from datamodules.sources.tars import index_folder
from tests.helpers import videos
from tests.helpers.paths import ROOT
from tests.helpers.recording import RecordingModule, by_name

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def mixed(lanes: int = 1, weights: tuple = (5, 3, 0.5), strip: int = 1) -> MixedOrder:
    orders = [Order(np.array([5, 9, 1, 12]), 1, lanes), Order(17, 2, lanes), Order(4, 3, lanes)]
    return MixedOrder(orders, weights, strip)


@pytest.mark.parametrize("weights", [(5, 3, 0.5), (1, 1, 1), (0.1, 0.2, 0.7), (1e-3, 1, 1000)])
@pytest.mark.parametrize("strip", [1, 4])
def test_positions_are_consecutive_and_shares_are_exact(weights: tuple, strip: int) -> None:
    order, counts = mixed(weights=weights, strip=strip), Counter()
    total = sum(weights)
    for n in range(6000):
        source, before = order.place(n)
        assert before == counts[source]  # arithmetic agrees with counting: nothing is skipped or repeated
        counts[source] += 1
        if (n + 1) % strip == 0:
            for j, weight in enumerate(weights):
                assert abs(counts[j] - (n + 1) * weight / total) <= 2 * strip


@pytest.mark.parametrize("lanes, strip", [(1, 1), (4, 1), (8, 4)])
def test_each_source_keeps_its_own_order(lanes: int, strip: int) -> None:
    """The samples of a source come in its own order, a permutation per epoch."""
    order = mixed(lanes, strip=strip)
    given = [[], [], []]
    for n in range(900):
        source, _ = order.place(n)
        epoch, index = order(n)
        given[source].append((epoch, index - int(order.starts[source])))
    for own, got in zip(order.orders, given, strict=True):
        assert got == [own(n) for n in range(len(got))]
        for epoch in range(len(got) // len(own)):
            assert sorted(i for _, i in got[epoch * len(own) : (epoch + 1) * len(own)]) == list(range(len(own)))


def test_without_weights_an_epoch_is_one_epoch_of_each_source() -> None:
    sources = [Synthetic(30), Synthetic(50, seed=1), Synthetic(7, seed=2)]
    order = Mixture(sources).order(seed=3, lanes=1)
    for epoch in range(3):
        got = [order(n) for n in range(epoch * 87, (epoch + 1) * 87)]
        assert {e for e, _ in got} == {epoch} and sorted(i for _, i in got) == list(range(87))


@pytest.mark.parametrize("lanes", [1, 8])
def test_every_world_size_gives_the_same_steps(lanes: int) -> None:
    order, one = mixed(lanes), {}
    for world, micro in [(1, 16), (2, 8), (2, 1), (4, 2), (16, 1)]:
        a = 16 // (world * micro)
        one[world] = [
            sorted(
                order(n) for k in range(s * a, s * a + a) for r in range(world) for n in slots(k, r, world, micro, a)
            )
            for s in range(20)
        ]
    assert len({str(steps) for steps in one.values()}) == 1


def test_a_strip_gives_ranks_equal_shares_and_their_own_shards() -> None:
    counts = np.full(30, 20)
    order = MixedOrder([Order(counts, 1, 16), Order(300, 2, 16)], [3, 1], strip=4)
    readers: dict[int, set[int]] = {}
    for k in range(100):
        shares = []
        for rank in range(4):
            numbers = slots(k, rank, 4, 8, 1)
            shares.append(Counter(order.place(n)[0] for n in numbers))
            for n in numbers:
                epoch, index = order(n)
                if order.place(n)[0] == 0 and epoch == 0:
                    readers.setdefault(index // 20, set()).add(rank)
        assert all(share == shares[0] for share in shares)
    assert sum(len(ranks) > 1 for ranks in readers.values()) <= 15  # the shards at the borders of lanes
    assert sum(map(len, readers.values())) <= 30 + 15


def test_late_numbers_of_a_run_are_as_fast() -> None:
    import time

    order = MixedOrder([Order(np.full(234_000, 1000), 0, 256), Order(10**7, 1, 256), Order(10**6, 2)], [0.7, 0.2, 0.1])
    order(0)
    began = time.perf_counter()
    for n in range(10**11, 10**11 + 1000):
        order(n)
    assert time.perf_counter() - began < 2


def test_numbers_never_change() -> None:
    """A change here breaks the resume of every existing run."""
    assert [mixed(strip=2)(n)[1] for n in range(8)] == [44, 46, 14, 26, 38, 37, 16, 17]


def test_invalid_mixtures_are_refused() -> None:
    with pytest.raises(ValueError, match="no source"):
        Mixture([])
    with pytest.raises(ValueError, match="2 sources and 1 weights"):
        Mixture([Synthetic(3), Synthetic(3)], [1])
    with pytest.raises(ValueError, match=r"\[1, 0\]; each must be above 0"):
        Mixture([Synthetic(3), Synthetic(3)], [1, 0])


# In a run


def trainer(**options: object) -> Trainer:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"), False)
    return Trainer(**{"accelerator": "cpu", **quiet, "max_steps": 12, "num_sanity_val_steps": 0, **options})


def data(weights: tuple = (5, 3), micro: int = 2, workers: int = 0) -> VideoData:
    source = Mixture([Synthetic(30, size=32), Synthetic(11, size=24, seed=1)], list(weights))
    return VideoData(source, global_batch=8, micro_batch=micro, size=16, frames=4, workers=workers, lanes=4)


def test_a_run_resumes_with_another_number_of_workers_but_not_with_other_weights(tmp_path: Path) -> None:
    whole, rest = RecordingModule(), RecordingModule()
    keep = ModelCheckpoint(dirpath=tmp_path, every_n_train_steps=5, save_top_k=-1, filename="{step}")
    trainer(enable_checkpointing=True, callbacks=[keep]).fit(whole, datamodule=data())
    trainer().fit(rest, datamodule=data(micro=4, workers=2), ckpt_path=tmp_path / "step=5.ckpt")
    assert by_name(rest.seen) == by_name(whole.seen)[5:]
    shares = Counter(name.split("-")[1] for _, _, names, _ in whole.seen for name in names)
    assert shares == {"0": 60, "1": 36}
    with pytest.raises(MisconfigurationException, match=r"weights \[5.0, 3.0\], now \[1.0, 1.0\]"):
        trainer().fit(RecordingModule(), datamodule=data((1, 1)), ckpt_path=tmp_path / "step=5.ckpt")


# Images


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images in many formats, a broken image and a video."""
    folder = tmp_path_factory.mktemp("images")
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (5, 7, 3), np.uint8)).resize((70, 50))
    for ending in ("jpg", "png", "webp", "bmp"):
        image.save(folder / f"a.{ending}")
    image.convert("L").save(folder / "grey.png")
    image.convert("RGBA").save(folder / "alpha.png")
    image.convert("P").save(folder / "palette.png")
    Image.fromarray(np.full((50, 70), 40000, np.uint16)).save(folder / "sixteen.png")
    (folder / "cut.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-300])
    videos.make(folder / "video.mp4", frames=8)
    return folder


def test_an_image_is_a_video_of_one_frame(images: Path) -> None:
    source = Files(str(images), pictures=True)
    assert len(source) == 10 and len(Files(str(images))) == 1
    for sample in source:
        if sample.name in ("cut.jpg", "video.mp4"):
            continue
        with sample.open(PyAV()) as video:
            assert len(video) == 1 and video.size == (50, 70)
            for sampler in (Dense(), Span(), Segments(), Spaced()):
                frames = video.frames(sampler.draw(1, 4, 4, SampleRng(0)))
                assert frames.shape == (4, 50, 70, 3) and frames.dtype == np.uint8
            expected = 156 if sample.name == "sixteen.png" else np.asarray(Image.open(sample.content).convert("RGB"))
            assert (frames[0] == expected).all() and (frames[0] == frames[3]).all()
    with pytest.raises(DecodeError, match=r"cut.jpg: not a readable image"):
        source[[s.name for s in source].index("cut.jpg")].open(PyAV())


def test_an_image_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    Image.new("RGB", (70, 50)).save(tmp_path / "a.jpg", exif=exif)
    assert PyAV().open(str(tmp_path / "a.jpg")).size == (70, 50)


def test_tars_hold_images_and_thumbnails_are_ignored(images: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "theirs.tar", "w") as tar:
        for name in ("1.jpg", "1.json", "2.mp4", "2.jpg", "2.json"):
            what = images / ("video.mp4" if name.endswith("mp4") else "a.jpg")
            content = what.read_bytes() if not name.endswith("json") else json.dumps({"caption": name}).encode()
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    index_folder(tmp_path)
    source = Shards(str(tmp_path))
    with source[0].open(PyAV()) as image, source[1].open(PyAV()) as video:
        assert (len(image), len(video)) == (1, 8)
    assert source.texts == 2


def test_videos_and_images_share_batches(images: Path) -> None:
    source = Mixture([Synthetic(20, size=32), Files(str(images / "a.png"))], [3, 1])
    clip = Clip(4, 4, 16, 2, 0.5, Dense(), CentreCrop(), PyAV())
    batches = TrainBatches(source, source.order(0, 1), clip, 0, GlobalBatch(0, 1, 4, 1))
    batch = batches[0]
    assert batch["video"].shape == (8, 3, 4, 16, 16) and Counter(batch["name"])["a.png"] == 2


def test_the_recipe_fragment_mixes_by_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = yaml.safe_load((ROOT / "recipes/data/mixture.yaml").read_text())
    train = recipe["data"]["init_args"]["train"]
    weights = train["init_args"]["weights"]
    order = MixedOrder([Order(10)] * 3, weights)
    assert Counter(order.place(n)[0] for n in range(16)) == dict(enumerate(weights))
    assert len(list(itertools.chain(train["init_args"]["sources"]))) == 3
