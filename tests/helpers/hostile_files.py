"""Files that claim more than they hold, refer to other files, or are damaged: each kind made from a valid one."""

import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np

from tests.helpers import videos
from tests.helpers.paths import ROOT

_PARENTS = {b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf"}
_FLAGS = bytes(4)  # version and flags of a box


def texts(other: str, port: int = 5004) -> dict[str, str]:
    """Texts that make FFmpeg open `other`, or a port, by the names of its formats."""
    return {
        "sdp": f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "late_sdp": f"s=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\n{other}\n#EXT-X-ENDLIST\n",
        "ffconcat": f"ffconcat version 1.0\nfile '{other}'\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"><Period>'
        f"<AdaptationSet><Representation><BaseURL>{other}</BaseURL></Representation></AdaptationSet></Period></MPD>",
    }


def rebuild(data: bytes, change: Callable[[bytes, bytes], bytes | None]) -> bytes:
    """A copy of an mp4 in which `change` (kind, contents) has replaced or removed boxes."""
    out = b""
    for kind, body in _boxes(data):
        new = change(kind, rebuild(body, change) if kind in _PARENTS else body)
        if new is not None:
            out += struct.pack(">I4s", len(new) + 8, kind) + new
    return out


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack(">I4s", data[at : at + 8])
        yield kind, data[at + 8 : at + size]
        at += size


def many_samples(folder: Path, count: int) -> bytes:
    """An mp4 whose table of sizes (`stsz`) declares `count` samples in twenty bytes."""
    tables = {
        b"stsz": _FLAGS + struct.pack(">II", 1, count),
        b"stsc": _FLAGS + struct.pack(">IIII", 1, 1, count, 1),
        b"stco": _FLAGS + struct.pack(">II", 1, 48),
        b"stts": _FLAGS + struct.pack(">III", 1, count, 1),
    }
    absent = (b"ctts", b"stss", b"sdtp", b"sgpd", b"sbgp")
    whole = Path(videos.make(folder / "samples.mp4")).read_bytes()
    (folder / "samples.mp4").unlink()
    return rebuild(whole, lambda kind, body: None if kind in absent else tables.get(kind, body))


def many_edits(folder: Path, samples: int, edits: int) -> bytes:
    """An mp4 whose edit list (`elst`) shows all its samples `edits` times."""
    shown = _FLAGS + struct.pack(">I", edits) + struct.pack(">IiI", max(1, samples // 24), 0, 0x10000) * edits
    return rebuild(many_samples(folder, samples), lambda kind, body: shown if kind == b"elst" else body)


def many_in_fragments(folder: Path, count: int) -> bytes:
    """A fragmented mp4, each of whose runs (`trun`) declares `count` samples of one size."""
    options = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
    whole = Path(videos.make(folder / "fragments.mp4", options=options)).read_bytes()
    (folder / "fragments.mp4").unlink()

    def change(kind: bytes, body: bytes) -> bytes:
        if kind == b"trun":
            return struct.pack(">IIi", 1, count, 100)
        if kind == b"tfhd":
            return struct.pack(">I", 0x020018) + body[4:8] + struct.pack(">II", 1, 1)
        return body

    return rebuild(whole, change)


def wide_gif(width: int, height: int, frames: int = 1) -> bytes:
    """A gif of a few bytes a frame; FFmpeg fills the rest of each frame."""
    frame = b"\x21\xf9\x04\x00\x0a\x00\x00\x00\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
    return b"GIF89a" + struct.pack("<HH", width, height) + b"\x80\0\0\0\0\0\xff\xff\xff" + frame * frames + b";"


def wide_png(side: int) -> bytes:
    """A black-and-white PNG of side x side pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + -(-side // 8)) * side), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def corrupt_frame(folder: Path, ending: str, at: int) -> bytes:
    """A video of 40 frames, mp4 or avi, in which most data of frame `at` (within a group of 30) is noise."""
    codec = {"mp4": "libx264", "avi": "mpeg4"}[ending]
    path = videos.make(folder / f"v.{ending}", codec=codec, b_frames=0, gop=30, height=96, width=160)
    with av.open(path) as container:
        packet = bytes([p for p in container.demux(container.streams.video[0]) if p.size][at])
    whole = bytearray(Path(path).read_bytes())
    start, end = whole.find(packet) + len(packet) // 4, whole.find(packet) + len(packet)
    whole[start:end] = bytes(np.random.RandomState(0).randint(256, size=end - start, dtype=np.uint8))
    return bytes(whole)


PEAK = """
import re, sys
from pathlib import Path
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
"""


def peak_growth(prepare: str, code: str) -> tuple[float, str]:
    """(MB by which the peak of resident memory grows, last line printed) when `code` runs in a process of its own.

    The peak of the memory map is read: that of `getrusage` begins with the parent's.

    Args:
        prepare: imports and what else must not be counted.
        code: what is measured.
    """
    whole = f"{PEAK}{prepare}\nbefore = peak()\n{code}\nprint(peak() - before)"
    done = subprocess.run(
        [sys.executable, "-c", whole], capture_output=True, text=True, cwd=ROOT, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *lines, growth = done.stdout.splitlines()
    return float(growth), lines[-1] if lines else ""
