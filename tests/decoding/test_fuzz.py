"""Damaged videos through the loader: no crash, no hang, every failure counted and named.

For a thousand mutations of your own clips: `python -m tests.decoding.test_fuzz FOLDER 1000`.
"""

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from datamodules import Decord, Files, PyAV
from datamodules.clips.crops import MultiScaleCrop
from datamodules.clips.sampling import Dense
from datamodules.decoding import avi_index, mkv_index
from datamodules.decoding.endings import VIDEO_SUFFIXES
from datamodules.decoding.reader import Decoder
from datamodules.loading.batches import TrainBatches
from datamodules.loading.clip import Clip
from datamodules.loading.global_batch import GlobalBatch
from datamodules.loading.loader import Loader
from datamodules.sources.order import Order
from datamodules.sources.source import Source
from tests.helpers import videos

KINDS = ("bits", "cut", "double", "lose", "zero", "header")


def mutate(data: bytes, seed: int) -> tuple[str, bytes]:
    """(kind of damage, damaged copy): bits flipped, the end cut off, a block doubled, lost or zeroed, or the header (or
    an mp4's `moov` table, wherever it lies) scrambled."""
    rng, kind, out = np.random.RandomState(seed), KINDS[seed % len(KINDS)], bytearray(data)
    at, length = int(rng.randint(len(data))), int(rng.randint(1, 1 + len(data) // 8))
    if kind == "bits":
        for place in rng.randint(len(data), size=int(rng.randint(1, 200))):
            out[place] ^= 1 << int(rng.randint(8))
    elif kind == "cut":
        del out[at:]
    elif kind == "double":
        out[at:at] = out[at : at + length]
    elif kind == "lose":
        del out[at : at + length]
    elif kind == "zero":
        out[at : at + length] = bytes(len(out[at : at + length]))
    else:
        start = max(0, data.find(b"moov")) if rng.randint(2) else 0
        for place in start + rng.randint(min(2000, len(data) - start), size=int(rng.randint(1, 12))):
            out[place] = int(rng.randint(256))
    return kind, bytes(out)


def write(clips: list[Path], folder: Path, count: int) -> None:
    """Writes mutation i of clip i % len(clips), all to one folder."""
    for i in range(count):
        clip = clips[i % len(clips)]
        kind, data = mutate(clip.read_bytes(), i)
        (folder / f"{i:05d}-{kind}{clip.suffix}").write_bytes(data)


class WithIntact(Source):
    """The damaged videos, each followed by an intact one, so that a substitute is always available."""

    def __init__(self, damaged: Source, intact: Source) -> None:
        self.damaged, self.intact = damaged, intact
        self.counts = 2 * len(damaged)

    def __getitem__(self, index: int) -> object:
        return self.damaged[index // 2] if index % 2 == 0 else self.intact[index // 2 % len(self.intact)]


def run(folder: Path, clips: Path, workers: int, limit: float, decoder: Decoder) -> tuple[Counter, Counter, float]:
    """One pass over the videos: unreadable ones by kind of damage, their reasons, and the seconds it took."""
    source = WithIntact(Files(str(folder)), Files(str(clips)))
    clip = Clip(8, 4, 64, 1, 0.0, Dense(), MultiScaleCrop(), decoder)
    batches = TrainBatches(source, Order(len(source), 0), clip, 0, GlobalBatch(0, 1, 4, 1))
    count = -(-len(source) // 4)
    loader = Loader(batches, batch_size=None, sampler=range(count), num_workers=workers, limit=limit)
    began, kinds, reasons, names = time.perf_counter(), Counter(), Counter(), Counter()
    for batch in loader:
        assert batch["video"].shape == (4, 3, 8, 64, 64) and len(batch["name"]) == 4
        names.update(batch["name"])
        for name, reason in batch["skipped"]:
            assert name and reason and "\n" not in reason
            kinds[name.split("-")[1].split(".")[0]] += 1
            reasons[reason.split("(")[0].split(":")[0][:60]] += 1
            names[name] += 1
    requested = {name for name in names if name[:5].isdigit()}
    assert len(requested) == len(source.damaged)  # each came out, as frames or as a named failure
    return kinds, reasons, time.perf_counter() - began


def use_indexes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes of small files are read as those of large ones."""
    monkeypatch.setattr(mkv_index, "SMALL", 0)
    monkeypatch.setattr(avi_index, "SMALL", 0)


@pytest.mark.parametrize("decoder", [PyAV(), Decord()], ids=lambda d: type(d).__name__)
def test_sixty_mutations(tmp_path: Path, decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    use_indexes(monkeypatch)
    clips, damaged = tmp_path / "clips", tmp_path / "damaged"
    clips.mkdir(), damaged.mkdir()
    made = [
        videos.make(clips / "a.mp4", frames=60),
        videos.make(clips / "b.mp4", frames=60, options={"movflags": "faststart"}),
        videos.make(clips / "c.mkv", frames=60),
        videos.make(clips / "d.ts", frames=60),
        videos.make(clips / "e.avi", frames=60, codec="mpeg4", b_frames=0),
        videos.make(clips / "f.mov", frames=60),
        videos.make(clips / "g.webm", frames=60, codec="libvpx", b_frames=0),
        videos.make(clips / "h.mp4", frames=60, options={"movflags": "frag_keyframe+empty_moov"}),
    ]
    write([Path(path) for path in made], damaged, 60)
    kinds, reasons, _ = run(damaged, clips, 2, 20.0, decoder)
    assert kinds.total() >= 5
    assert not [reason for reason in reasons if reason.startswith(("given up", "its worker"))]  # no hang, no crash


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mp4", "mp4 in fragments", "mov", "mkv", "webm", "avi"])
def test_a_thousand_mutations(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    use_indexes(monkeypatch)
    ending, _, fragments = kind.partition(" ")
    clips, damaged = tmp_path / "clips", tmp_path / "damaged"
    clips.mkdir(), damaged.mkdir()
    codec = {"webm": "libvpx", "avi": "mpeg4"}.get(ending, "libx264")
    options = {"movflags": "frag_keyframe+empty_moov"} if fragments else {}
    b_frames = 2 if codec == "libx264" else 0
    made = videos.make(clips / f"a.{ending}", frames=60, codec=codec, b_frames=b_frames, options=options)
    write([Path(made)], damaged, 1000)
    kinds, reasons, _ = run(damaged, clips, 2, 20.0, PyAV())
    assert kinds.total() >= 50
    assert not [reason for reason in reasons if reason.startswith(("given up", "its worker"))]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = sorted(path for path in Path(sys.argv[1]).iterdir() if path.suffix in VIDEO_SUFFIXES)
        write(found, Path(folder), int(sys.argv[2]))
        name = sys.argv[3] if len(sys.argv) > 3 else "PyAV"
        kinds, reasons, seconds = run(
            Path(folder), Path(sys.argv[1]), 1, 20.0, {"PyAV": PyAV, "Decord": Decord}[name]()
        )
        print(f"{sys.argv[2]} mutations in {seconds:.0f} s: {kinds.total()} unreadable {dict(kinds)}")
        print(*(f"{n:5d}  {reason}" for reason, n in reasons.most_common(20)), sep="\n")
