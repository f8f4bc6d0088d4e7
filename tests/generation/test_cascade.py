"""The cascade writes films that browsers play, repeats them exactly, and goes on where it was stopped."""

import json
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from safetensors import SafetensorError

from pretrain.errors import FAILED
from pretrain.generation.autoencoder import FrameCodec
from pretrain.generation.cascade import Cascade
from pretrain.generation.film_file import write_film
from pretrain.generation.pieces import Pieces, VideoFile
from pretrain.generation.settings import STAGES, Request, with_options
from pretrain.generation.tiny import write_tiny
from tools.generate import main

SETTINGS = with_options(STAGES, {"steps": {"all": 2}, "guidance": {"all": 2.0}})
REQUEST = Request("a red circle", seed=3, frames=3, height=16, width=16, settings=SETTINGS)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    write_tiny(folder)
    return folder


@pytest.fixture(scope="module")
def cascade(weights: Path) -> Cascade:
    return Cascade(weights, STAGES, progress=False)


@pytest.fixture(scope="module")
def film(cascade: Cascade, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    assert cascade.film(REQUEST, path)
    return path


def test_a_film_is_h264_that_browsers_play(film: Path) -> None:
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt, stream.average_rate) == ("h264", "yuv420p", 24)
        assert (stream.width, stream.height) == (64, 64) and sum(1 for _ in container.decode(stream)) == 9
    content = film.read_bytes()
    assert content.find(b"moov") < content.find(b"mdat")  # the index comes first: it plays while it is loaded
    assert sorted(path.name for path in film.parent.iterdir()) == ["film.json", "film.mp4", "film.png"]


def test_the_record_repeats_a_film_exactly(film: Path, cascade: Cascade, tmp_path: Path) -> None:
    record = json.loads(film.with_suffix(".json").read_text())
    request = Request.from_json(record["request"], "a record")
    assert request == replace(REQUEST, settings=request.settings) and record["film"]["frames"] == 9
    assert cascade.film(request, tmp_path / "again.mp4", repeats=film.with_suffix(".json"))
    assert (tmp_path / "again.mp4").read_bytes() == film.read_bytes()
    assert cascade.film(replace(request, seed=4), tmp_path / "other.mp4")
    assert (tmp_path / "other.mp4").read_bytes() != film.read_bytes()


def test_a_record_is_refused_with_other_weights(film: Path, tmp_path: Path) -> None:
    write_tiny(tmp_path / "weights", seed=1, stages=("base",))
    other = Cascade(tmp_path / "weights", ("base",), progress=False)
    with pytest.raises(ValueError, match="made with other weights of base"):
        other.film(replace(REQUEST, stages=("base",)), tmp_path / "a.mp4", repeats=film.with_suffix(".json"))


def test_finished_films_stay_and_others_are_not_replaced(film: Path, cascade: Cascade) -> None:
    before = film.stat().st_mtime_ns
    assert not cascade.film(REQUEST, film)
    with pytest.raises(FileExistsError, match="another film already"):
        cascade.film(replace(REQUEST, seed=4), film)
    assert film.stat().st_mtime_ns == before


def test_a_stopped_run_goes_on_to_the_same_film(
    film: Path, cascade: Cascade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops in the second window of super-resolution; only that one is computed again."""
    decoded, decode = [], FrameCodec.decode

    def stop(self: FrameCodec, latents: torch.Tensor) -> torch.Tensor:
        decoded.append(tuple(latents.shape))
        if len(decoded) == 4:
            raise KeyboardInterrupt
        return decode(self, latents)

    monkeypatch.setattr(FrameCodec, "decode", stop)
    with pytest.raises(KeyboardInterrupt):
        cascade.film(REQUEST, tmp_path / "film.mp4")
    assert not (tmp_path / "film.mp4").exists()
    assert cascade.film(REQUEST, tmp_path / "film.mp4") and len(decoded) == 5
    assert (tmp_path / "film.mp4").read_bytes() == film.read_bytes()
    assert not list(tmp_path.glob(".*"))


@contextmanager
def full_disk(size: int) -> Iterator[None]:
    """Files of this process end at `size` bytes, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_whole_pieces_and_the_film_goes_on(film: Path, cascade: Cascade, tmp_path: Path) -> None:
    place = tmp_path / "film.mp4"
    with (
        full_disk(20_000),
        pytest.raises((OSError, SafetensorError)),
    ):  # base and interpolation fit, a piece of 64 x 64 does not
        cascade.film(REQUEST, place)
    parts = tmp_path / ".film.mp4.parts"
    assert len(Pieces(parts / "interpolation", 24.0)) == 9 and not Pieces(parts / "vsr", 24.0).starts
    assert not list(tmp_path.rglob("*.draft"))
    assert cascade.film(REQUEST, place) and place.read_bytes() == film.read_bytes()


def test_parts_of_another_film_are_not_used(
    cascade: Cascade, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    base = replace(REQUEST, stages=("base",))
    monkeypatch.setattr("pretrain.generation.cascade.write_film", lambda *_: 1 / 0)
    for seed in (3, 4):
        with pytest.raises(ZeroDivisionError):
            cascade.film(replace(base, seed=seed), tmp_path / "film.mp4")
    assert "parts of a film with other settings: they are removed" in caplog.text


def test_a_video_can_take_the_place_of_the_base(film: Path, cascade: Cascade, tmp_path: Path) -> None:
    request = replace(REQUEST, stages=("interpolation",), source=str(film))
    assert cascade.film(request, tmp_path / "long.mp4")
    video = VideoFile(str(tmp_path / "long.mp4"))
    assert (len(video), video.size, video.fps) == (33, (64, 64), 96.0)
    first = replace(request, source=str(tmp_path / "one.mp4"))
    write_film(tmp_path / "one.mp4", [video.read(0, 1)[0].numpy()], (64, 64), 8.0)
    with pytest.raises(ValueError, match="nothing to interpolate"):
        cascade.film(first, tmp_path / "b.mp4")


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": " "}, "the prompt is empty"),
    ({"frames": 1}, "one frame has nothing to interpolate"),
    ({"frames": 0}, "sizes must be positive"),
    ({"stages": ("vsr",)}, "needs a video to start from"),
    ({"stages": ("base", "extra")}, "no stage 'extra'"),
    ({"source": "a.mp4"}, "the base makes its own clip"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_requests_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(REQUEST, **change)


def test_sizes_that_do_not_divide_are_refused_before_sampling(cascade: Cascade, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"20 x 16 pixels do not divide by 8.*take 16 x 16"):
        cascade.film(replace(REQUEST, height=20), tmp_path / "a.mp4")


def test_long_prompts_are_cut_with_a_word(cascade: Cascade, caplog: pytest.LogCaptureFixture) -> None:
    texts = cascade._load("base").texts
    long = "a very red circle " * 10 + "lost"
    states = texts(long)
    assert states.shape == (1, 77, 32) and "is cut to 77" in caplog.text and "lost" in caplog.text
    assert not torch.equal(states, texts("a red circle"))


def test_one_sentence_names_all_missing_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "lavie_base.pt").write_bytes(b"")
    assert main(["a", "--weights", str(tmp_path), "--out", str(tmp_path / "a.mp4")]) == FAILED
    (said,) = capsys.readouterr().err.strip().splitlines()
    for part in ("lavie_vsr.pt", "lavie_interpolation.pt", "stable-diffusion-v1-4/vae", "x4-upscaler/tokenizer"):
        assert said.count(part) == 1
    assert "huggingface.co/YaohuiW/LaVie" in said and "lavie_base.pt" not in said


def test_the_command_makes_a_film_for_each_line(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "prompts.csv").write_text('prompt,seed,width\na red circle,1,16\n"a square, blue",2,24\n')
    words = ["--prompts", str(tmp_path / "prompts.csv"), "--weights", str(weights), "--out", str(tmp_path / "films")]
    words += ["--stages", "base", "--frames", "2", "--height", "16", "--steps", "base=1", "--device", "cpu"]
    assert main(words) == 0
    said = capsys.readouterr()
    assert "base (1 of 1)" in said.err and "film 2 of 2: a square, blue" in said.err
    films = sorted(path.name for path in (tmp_path / "films").glob("*.mp4"))
    assert films == ["0000-a-red-circle.mp4", "0001-a-square-blue.mp4"]
    record = json.loads((tmp_path / "films/0001-a-square-blue.json").read_text())
    assert record["request"]["seed"] == 2 and record["film"] == {"frames": 2, "height": 16, "width": 24, "fps": 8.0}
    assert main(words) == 0 and "is finished already" in capsys.readouterr().out
