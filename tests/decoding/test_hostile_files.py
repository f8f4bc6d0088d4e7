"""A folder of hostile files through the loader: every intact video comes out, every other file is named, and memory
and time stay small.

For a thousand variants of each kind: `python -m tests.decoding.test_hostile_files 1000`.
"""

import random
import re
import sys
import tempfile
import time
from pathlib import Path

import pytest

from datamodules import Decord, Files, PyAV
from datamodules.clips.crops import MultiScaleCrop
from datamodules.clips.sampling import Dense
from datamodules.decoding.contract import DecodeError
from datamodules.decoding.reader import Decoder
from datamodules.loading.clip import Clip
from tests.helpers import hostile_files, videos

ENDINGS = (".mp4", ".mkv", ".avi", ".ts", ".gif", ".mpg", ".flv")
MOST_MB, MOST_SECONDS = 700.0, 10.0  # of growth while one file is read, and for it


def variants(folder: Path, count: int) -> dict[str, bytes]:
    """`count` files of each kind, of random sizes, under the endings of random containers."""
    made: dict[str, bytes] = {}
    draw = random.Random(0)
    other = videos.make(folder / "other.mp4")

    def add(kind: str, data: bytes) -> None:
        made[f"{kind}-{len(made)}{draw.choice(ENDINGS)}"] = data

    for _ in range(count):
        for kind, text in hostile_files.texts(other, draw.randrange(20_000, 60_000, 2)).items():
            add(kind, text.encode())
            add(f"{kind}-spaced", b"\n \n" + text.encode())
            add(f"{kind}-marked", b"\xef\xbb\xbf" + text.encode())
            add(f"{kind}-long", text.encode() + b"\n#" + bytes(draw.randrange(1, 2**20)))
        add("samples", hostile_files.many_samples(folder, draw.randrange(3 * 10**7, 2**31)))
        add("fragments", hostile_files.many_in_fragments(folder, draw.randrange(3 * 10**6, 2**31)))
        add("edits", hostile_files.many_edits(folder, draw.randrange(10_000, 50_000), draw.randrange(2000, 5000)))
        add("gif", hostile_files.wide_gif(draw.randrange(6000, 65535), draw.randrange(6000, 65535), 16))
        add("png", hostile_files.wide_png(draw.randrange(6000, 20_000)))
        add("text", bytes(draw.choices(range(32, 127), k=draw.randrange(1, 10_000))))
        add("noise", draw.randbytes(draw.randrange(1, 10_000)))
        add("zeros", bytes(draw.randrange(1, 2**20)))
        whole = Path(other).read_bytes()
        at = draw.randrange(len(whole) // 2)
        add("cut", whole[: draw.randrange(len(whole) - 200)])
        add("begun-late", whole[at:])
        add("inside-a-box", b"\0\0\0\x08junk" * draw.randrange(1, 50) + hostile_files.many_samples(folder, 10**8))
    Path(other).unlink()
    return made


def read_all(folder: Path, decoder: Decoder) -> dict[str, str]:
    """The reason by name of each file that is refused; all others give a clip."""
    clip = Clip(8, 4, 64, 1, 0.0, Dense(), MultiScaleCrop(), decoder)
    refused = {}
    for sample in Files(str(folder), pictures=True):
        began = time.monotonic()
        try:
            with sample.open(clip.decoder) as video:
                video.frames(range(min(8, len(video))))
        except DecodeError as error:
            refused[sample.name] = error.reason
        assert time.monotonic() - began < MOST_SECONDS, sample.name
    return refused


def peak() -> float:
    """MB of the peak of this process's resident memory."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def trial(folder: Path, count: int, decoder: Decoder) -> dict[str, str]:
    (folder / "work").mkdir()
    (folder / "files").mkdir()
    made = variants(folder / "work", count)
    for name, data in made.items():
        (folder / "files" / name).write_bytes(data)
    videos.make(folder / "files" / "intact.mp4")
    reset_peak()
    before = peak()
    refused = read_all(folder / "files", decoder)
    assert peak() - before < MOST_MB
    served = made.keys() - refused.keys()
    # A file that has lost its end or its beginning may still hold frames.
    assert not [name for name in served if not name.startswith(("cut", "begun-late"))]
    assert "intact.mp4" not in refused and all("\n" not in reason for reason in refused.values())
    return refused


@pytest.mark.slow
@pytest.mark.parametrize("decoder", [PyAV(), Decord()], ids=lambda d: type(d).__name__)
def test_a_folder_of_hostile_files(tmp_path: Path, decoder: Decoder) -> None:
    trial(tmp_path, 4, decoder)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        print(len(trial(Path(folder), int(sys.argv[1]), PyAV())), f"refused in {time.monotonic() - began:.0f} s")
