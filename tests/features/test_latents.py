"""Latents are made once, as the same bytes however often the run is killed; anything else than what was begun is
refused; runs train on them."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules import Latents, Mixture, Synthetic
from datamodules.clips.rectangles import CentreRectangle
from datamodules.decoding.contract import DecodeError
from datamodules.making import shard_progress
from datamodules.sources.buckets import Bucket
from datamodules.sources.latents import read_latent
from datamodules.sources.source import Sample
from datamodules.sources.tars import index_folder
from datamodules.storage import whole_files
from datamodules.storage.lock import InUse, lock_folder
from models.diffusion.autoencoder import KLAutoencoder, PixelAutoencoder
from models.diffusion.text_encoder import TextEncoder
from pretrain.features import latents
from pretrain.features.latent_clips import content_key
from pretrain.features.latent_encoders import LatentEncoders
from pretrain.features.latents import make_latents
from pretrain.learning.prompts import Prompts
from pretrain.learning.teachers import Frozen
from tests.helpers.paths import ROOT
from tests.helpers.sized_videos import SizedVideos
from tests.helpers.videos import make as make_video

WIDE, STILL = Bucket(4, 16, 32), Bucket(1, 16, 16)


def vae(seed: int = 0) -> KLAutoencoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return KLAutoencoder((8, 16), 1, 4, 4, frames=2)


def encoders(seed: int = 0) -> LatentEncoders:
    text = TextEncoder(16, 1, 2, 16, context=8)
    return LatentEncoders(vae(seed), Prompts(Frozen(text, random=1)))


def source(samples: int = 11, changed: tuple[int, ...] = ()) -> SizedVideos:
    """Wide videos, squares that are too short for any clip but a still, and one in four that cannot be read."""
    return SizedVideos([(12, 24, 48), (3, 20, 20), (0, 0, 0), (12, 8, 8)], samples, True, changed)


def make(out: Path, videos=None, made_by: LatentEncoders | None = None, **options) -> dict:
    own = {"stride": 2, "shard_samples": 3, "workers": 0, "progress": False}
    return make_latents(videos or source(), str(out), made_by or encoders(), [WIDE, STILL], **{**own, **options})


def contents(folder: Path) -> dict[str, str]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("latents") / "whole"
    make(folder)
    return folder


def test_shards_hold_what_the_encoders_give(whole: Path) -> None:
    read, given = Latents(str(whole)), encoders()
    assert len(read) == 6 and read.texts == 6 and read.latents == given.name
    assert {tuple(size) for size in read.sizes().tolist()} == {(4, 16, 32), (1, 16, 16)}
    sample = read[0]
    latent = read_latent(sample.content, sample.name, read.latents)
    assert latent.moments.shape == (8, 4, 8, 16) and latent.moments.dtype == np.float16 and latent.fps == 4.0
    clip = CentreRectangle()(source()[0].content.frames([2, 4, 6, 8]), (16, 32))  # the middle of twelve frames
    assert np.array_equal(latent.moments, given.moments(clip).astype(np.float16)) and np.abs(latent.moments).max() > 0.1
    assert latent.text.shape == (1, 8, 16)
    states, cut = given.states([sample.text])
    assert np.array_equal(latent.text, states.astype(np.float16)) and not cut
    report = json.loads((whole / "report.json").read_text())
    assert report["buckets"] == {"1x16x16": 3, "4x16x32": 3} and report["dropped"] == 5
    assert {row["reason"] for row in report["dropped_files"]} == {
        "made to be unreadable",
        "12 frames of 8x8 fit no bucket",
    }


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("calls", [1, 4, 5])
def test_a_killed_run_continues_to_the_same_bytes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    left = calls

    def dies(self: LatentEncoders, clip: np.ndarray) -> np.ndarray:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return moments(self, clip)

    moments = LatentEncoders.moments
    monkeypatch.setattr(LatentEncoders, "moments", dies)
    with pytest.raises(Killed):
        make(tmp_path)
    assert not (tmp_path / "latents.json").exists() and not (tmp_path / "shards.csv").exists()
    left = 99
    make(tmp_path)
    assert contents(tmp_path) == contents(whole) and 99 - left <= 6 - calls + 2  # finished shards are not made again


def test_a_kill_between_shard_report_and_header_changes_nothing(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = whole_files.write_whole
    for stop in range(1, 8):  # at every file that is written besides the tars

        def dies(path: Path, content: str, left: list[int] = [stop]) -> None:  # noqa: B006 (a counter of its own)
            left[0] -= 1
            if not left[0]:
                raise Killed
            write(path, content)

        with monkeypatch.context() as patch, pytest.raises(Killed):
            for module in (latents, shard_progress):
                patch.setattr(module, "write_whole", dies)
            make(tmp_path / str(stop))
        make(tmp_path / str(stop))
        assert contents(tmp_path / str(stop)) == contents(whole)


def test_worker_processes_give_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    make(tmp_path, workers=2)
    assert contents(tmp_path) == contents(whole)


def test_other_encoders_settings_or_videos_are_refused(whole: Path) -> None:
    before = contents(whole)
    with pytest.raises(ValueError, match="begun with another encoders"):
        make(whole, made_by=encoders(seed=1))
    with pytest.raises(ValueError, match="begun with another stride"):
        make(whole, stride=3)
    with pytest.raises(ValueError, match="begun with another samples"):
        make(whole, source(12))
    with pytest.raises(ValueError, match="0004-12x24x48 has changed since its latents were made"):
        make(whole, source(changed=(4,)))
    with pytest.raises(ValueError, match="do not divide by 2"):
        make_latents(source(), str(whole), encoders(), [Bucket(1, 16, 15)])
    make(whole)  # all as before: nothing to do
    assert contents(whole) == before


def test_shards_of_other_encoders_are_no_part_of_a_folder(whole: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    make(other, made_by=encoders(seed=1))
    with pytest.raises(ValueError, match="latents of different encoders"):
        Latents([str(whole), str(other)])
    with pytest.raises(ValueError, match="Mixture got videos and latents"):
        Mixture([Latents(str(whole)), Synthetic(3)])
    with pytest.raises(ValueError, match="latents of different encoders"):
        Mixture([Latents(str(whole)), Latents(str(other))])
    more = tmp_path / "more"
    shutil.copytree(whole, more)
    shutil.copy(other / "latents-000000.tar", more / "latents-000009.tar")
    index_folder(more)
    with pytest.raises(ValueError, match="is a mixture of several folders"):
        Latents(str(more))
    shutil.copy(other / "latents-000000.tar", more / "latents-000000.tar")  # as many samples as before
    (more / "latents-000009.tar").unlink(), (more / "latents-000009.idx").unlink()
    index_folder(more)
    read = Latents(str(more))
    with pytest.raises(DecodeError, match="the folder is a mixture"):
        read_latent(read[0].content, read[0].name, read.latents)
    with pytest.raises(FileNotFoundError, match=r"holds no latents.json.*tools/latents.py"):
        (more / "latents.json").unlink()
        Latents(str(more))


def test_a_second_run_in_a_folder_is_refused(tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(InUse, match=f"{tmp_path} is in use by process"):
        make(tmp_path)


def test_a_pipe_among_the_videos_costs_itself(tmp_path: Path) -> None:
    """Its content was read for a key before a decoder refused it."""
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "zero.mp4").symlink_to("/dev/zero")
    for name in ("pipe.mp4", "zero.mp4"):
        with pytest.raises(DecodeError, match=f"{name}: not a regular file"):
            content_key(Sample(name, str(tmp_path / name)))


def test_an_autoencoder_without_weights_is_named_by_its_factor() -> None:
    autoencoders = [PixelAutoencoder(2), PixelAutoencoder(4), vae(), vae(seed=1), vae()]
    names = [LatentEncoders(each).name for each in autoencoders]
    assert len(set(names)) == 4 and names[2] == names[4]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline's folders `vae` and `text_encoder`, and a list of videos and a picture."""
    folder = tmp_path_factory.mktemp("files")
    vae().vae.save_pretrained(folder / "model" / "vae")
    TextEncoder(16, 1, 2, 16, context=8).model.save_pretrained(folder / "model" / "text_encoder")
    rows = ["path,text,label"]
    for i in range(8):
        make_video(folder / f"{i}.mp4", frames=20, height=48, width=96)
        rows.append(f"{i}.mp4,a video that is number {i} of many in a long list,{i}")
    (folder / "cut.mp4").write_bytes((folder / "0.mp4").read_bytes()[:2000])
    (folder / "list.csv").write_text("\n".join([*rows, "cut.mp4,cut,9"]) + "\n")
    return folder


def options(files: Path, out: Path) -> list[str]:
    model = str(files / "model")
    sizes = ["--buckets", "4x16x32", "--stride", "2", "--clips", "2", "--shard-samples", "2"]
    own = ["--vae", model, "--text", model, *sizes, "--workers", "1", "--device", "cpu", "--quiet"]
    return [str(files / "list.csv"), str(out), *own]


def test_the_tool_reads_a_list_and_the_folders_of_a_pipeline(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tools.latents import main

    assert main(options(files, tmp_path / "out")) == 0
    said = capsys.readouterr().out
    assert "kept 16 clips: 16 of 4x16x32" in said and "dropped 1: " in said and "cut 8: captions" in said
    read = Latents(str(tmp_path / "out"))
    assert len(read) == read.texts == read.labels == 16 and read[2].label == 1
    first, second = (read_latent(read[i].content, "", read.latents).moments for i in (0, 1))
    assert not np.array_equal(first, second)  # the two clips of a video
    assert main(["nothing", str(tmp_path / "none"), "--vae", str(files)]) == 2
    assert main([str(files), str(tmp_path / "none"), "--vae", str(files)]) == 2
    assert "holds no config.json: it should be an AutoencoderKL" in capsys.readouterr().err


@pytest.mark.slow
def test_a_process_killed_at_any_moment_continues_to_the_same_bytes(files: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools/latents.py")]
    subprocess.run([*command, *options(files, tmp_path / "whole")], check=True, cwd=ROOT)
    parts = tmp_path / "killed" / ".latents"
    for shards in range(1, 5):  # a kill while each shard but the first is made
        process = subprocess.Popen([*command, *options(files, tmp_path / "killed")], cwd=ROOT)
        until = time.monotonic() + 120
        while len(list(parts.glob("0*.json"))) < shards and process.poll() is None and time.monotonic() < until:
            time.sleep(0.002)
        process.kill()
        process.wait()
    subprocess.run([*command, *options(files, tmp_path / "killed")], check=True, cwd=ROOT)
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
