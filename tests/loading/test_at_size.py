"""Large data sets: start-up and memory do not grow, an epoch is complete when the world size changes, RSS is flat.

`TUBELET_DECODES=20000 pytest tests/loading/test_at_size.py -k decodes` for the long run.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from datamodules import PyAV, Shards
from datamodules.clips.crops import CentreCrop
from datamodules.clips.sampling import Dense
from datamodules.loading.batches import TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.loader import Loader
from datamodules.sources.tars import write_index, write_shard
from tests.helpers import videos
from tests.helpers.paths import ROOT

SCALE = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from datamodules.sources.shards import Shards
from datamodules.sources.order import slots
import fsspec, fsspec.implementations.local

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 / 2**20

opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)
before, began = resident(), time.process_time()
source = Shards("file://" + sys.argv[2])
read = time.process_time() - began
began = time.process_time()
order = source.order(0, 256)
first = [order(n)[1] for n in slots(0, 3, 64, 16, 1)]
fresh = time.process_time() - began
began = time.process_time()
later = [order(n)[1] for n in slots(2_000_000, 3, 64, 16, 1)]
far = time.process_time() - began
grown = resident() - before
began, more = time.process_time(), resident()
for k in range(100, 1100):
    [order(n) for n in slots(k, 3, 64, 16, 1)]
print(json.dumps({
    "samples": len(source), "first": len(set(first)), "later": len(set(later)), "read": read, "fresh": fresh,
    "far": far, "grown": grown, "drift": resident() - more, "each": (time.process_time() - began) / 16000,
    "opened": [name for name in opened if name.endswith((".tar", ".idx"))],
}))
"""


def test_two_hundred_million_clips(tmp_path: Path) -> None:
    """234,000 shards of 1,000 clips, of which only the index exists: starting opens none of them."""
    rows = "".join(f"shard-{i:06d}.tar,1000,500000000,1000,0\n" for i in range(234_000))
    (tmp_path / "shards.csv").write_text("shard,samples,bytes,texts,labels\n" + rows)
    command = [sys.executable, "-c", SCALE, str(ROOT), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    print(found)
    assert found["samples"] == 234_000_000 and found["first"] == found["later"] == 16 and not found["opened"]
    assert found["read"] < 5 and found["fresh"] < 1 and found["far"] < 1 and found["each"] < 1e-3
    assert found["grown"] < 200 and found["drift"] < 16  # MiB


# The epoch


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven shards of unequal length, 41 samples, each known by its key."""
    folder = tmp_path_factory.mktemp("shards")
    video = Path(videos.make(folder / "v.mp4", frames=6, height=32, width=32)).read_bytes()
    rows, n = [], 0
    for shard, count in enumerate((3, 9, 1, 12, 5, 7, 4)):
        samples = [(f"{i:06d}", "mp4", video, {"text": str(i)}) for i in range(n, n + count)]
        rows.append(write_shard(folder / f"s-{shard}.tar", samples))
        n += count
    write_index(folder, rows)
    return folder


def stretch(folder: str, world: int, micro: int, workers: int, steps: range) -> list[tuple[int, str]]:
    """(step, key) of all ranks over some steps of 8 videos, with one loader per rank."""
    seen, accumulate = [], 8 // (world * micro)
    for rank in range(world):
        source = Shards(folder)
        clip = Clip(2, 1, 8, 1, 0.0, Dense(), CentreCrop(), PyAV())
        batches = TrainBatches(source, source.order(5, 4), clip, 5, GlobalBatch(rank, world, micro, accumulate))
        ks = range(steps.start * accumulate, steps.stop * accumulate)
        loader = Loader(
            batches, batch_size=None, sampler=ks, num_workers=workers, prefetch_factor=2 if workers else None
        )
        for k, batch in zip(ks, loader, strict=True):
            assert not batch["skipped"] and batch["text"] == [str(int(name[-6:])) for name in batch["name"]]
            seen += [(k // accumulate, name) for name in batch["name"]]
    return seen


@pytest.mark.parametrize("remote", [False, True], ids=["local", "remote"])
def test_an_epoch_in_changing_worlds_is_the_epoch(shards: Path, remote: bool) -> None:
    """Each sample once among the first 41, and the same samples in every step with any ranks and workers."""
    folder = f"file://{shards}" if remote else str(shards)
    one = stretch(folder, 1, 8, 0, range(11))
    keys = [name for _, name in one]
    every = Counter(
        f"s-{s}.tar/{i:06d}" for i, s in enumerate(s for s, c in enumerate((3, 9, 1, 12, 5, 7, 4)) for _ in range(c))
    )
    assert Counter(keys[:41]) == Counter(keys[41:82]) == every
    mixed = stretch(folder, 4, 1, 1, range(2)) + stretch(folder, 1, 2, 3, range(2, 4))
    mixed += stretch(folder, 2, 4, 2, range(4, 7)) + stretch(folder, 4, 2, 0, range(7, 11))
    assert sorted(mixed) == sorted(one)


# Decoding


def test_twenty_thousand_decodes_take_no_memory(tmp_path: Path) -> None:
    """The RSS of a process that decodes all the time is flat after the first tenth. The default is shorter."""
    path = videos.make(tmp_path / "v.mp4", frames=40)
    count = int(os.environ.get("TUBELET_DECODES", "1000"))
    code = (
        "import sys\nsys.path.insert(0, sys.argv[1])\nfrom datamodules import PyAV\n"
        "data, count, marks = open(sys.argv[2], 'rb').read(), int(sys.argv[3]), []\n"
        "for i in range(count + 1):\n"
        "    with PyAV().open(data if i % 2 else sys.argv[2], 'v') as video:\n"
        "        video.frames([i % 30, i % 30 + 4, i % 30 + 8])\n"
        "    if i % (count // 10) == 0:\n"
        "        marks.append(int(open('/proc/self/statm').read().split()[1]) * 4096 / 2**20)\n"
        "print(*marks)\n"
    )
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), path, str(count)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    marks = [float(x) for x in done.stdout.split()]
    print(f"{count} decodes in {time.perf_counter() - began:.0f} s; RSS in MiB by tenths: {marks}")
    assert marks[-1] - marks[1] < 4
