"""Instructions: the published json layout, parts of videos, folders of pictures, GIFs, and what is refused."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules import DecodeError, Exchange, Instructions, PyAV
from datamodules.sources.shape_questions import QUESTIONS, ShapeQuestions
from datamodules.sources.synthetic import COLOURS
from tests.helpers.videos import make

QA = [{"i": "Look.", "q": "What is it?", "a": "A test."}, {"q": "", "a": "A caption."}]


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    make(folder / "film.mp4", 20, fps=10)
    (folder / "frames").mkdir()
    shades = [Image.new("RGB", (32, 24), (60 * i, 0, 0)) for i in range(4)]
    for i, shade in enumerate(shades):
        shade.save(folder / f"frames/{i:05d}.png")
    shades[0].save(folder / "moving.gif", save_all=True, append_images=shades[1:], duration=40)
    shades[1].save(folder / "still.png")
    return folder


def source(media: Path, *entries: dict, **options) -> Instructions:
    file = media / "train.json"
    file.write_text(json.dumps(list(entries)))
    return Instructions(str(file), str(media), **options)


def test_conversations_and_parts_are_as_published(media: Path) -> None:
    made = source(
        media, {"video": "film.mp4", "QA": QA, "start": 0.5, "end": 1.2}, {"image": "still.png", "QA": QA[:1]}
    )
    film, still = made[0], made[1]
    assert film.chat == [Exchange("What is it?", "A test.", "Look."), Exchange("", "A caption.")]
    with film.open(PyAV()) as video:
        assert film.part(video) == (5, 12)
    with still.open(PyAV()) as image:
        assert len(image) == 1 and still.part(image) == (0, 1)
    assert film.name != source(media, {"video": "film.mp4", "QA": QA})[0].name  # parts of a video differ in name
    with pytest.raises(DecodeError, match=r"starts at 0\.5 s"), film.open(PyAV()) as video:
        film.length(video)  # for what cannot begin elsewhere


def test_folders_of_pictures_and_gifs_are_videos(media: Path) -> None:
    made = source(media, {"video": "frames", "QA": QA}, {"video": "moving.gif", "QA": QA}, fps=2.0)
    with made[0].open(PyAV()) as folder, made[1].open(PyAV()) as gif:
        assert len(folder) == len(gif) == 4 and folder.fps == 2.0
        assert folder.seconds([3])[0] == 1.5
        assert np.abs(folder.frames([0, 3]).astype(int) - gif.frames([0, 3])).max() < 12


def test_a_video_that_ends_before_its_part_is_named(media: Path) -> None:
    sample = source(media, {"video": "film.mp4", "QA": QA, "start": 7, "end": 9})[0]
    with (
        pytest.raises(DecodeError, match=r"starts at 7 s, and the video ends after 2\.0 s"),
        sample.open(PyAV()) as video,
    ):
        sample.part(video)


@pytest.mark.parametrize(
    "entry, words",
    [
        ({"QA": QA}, "one of `video` and `image`"),
        ({"video": "film.mp4", "image": "still.png", "QA": QA}, "one of `video` and `image`"),
        ({"video": "film.mp4", "QA": []}, "no list of questions"),
        ({"video": "film.mp4", "QA": [{"q": "a", "a": " "}]}, "an answer is empty"),
        ({"video": "film.mp4", "QA": [{"q": 3, "a": "b"}]}, "needs the texts"),
        ({"video": "film.mp4", "QA": QA, "start": 3, "end": 2}, "ends at 2 s, and starts at 3 s"),
        ({"video": "film.mp4", "QA": QA, "start": -1}, "seconds from 0 on"),
    ],
)
def test_entries_of_another_layout_are_refused_by_number(media: Path, entry: dict, words: str) -> None:
    with pytest.raises(ValueError, match=f"entry 1.*{words}"):
        source(media, {"video": "film.mp4", "QA": QA}, entry)


def test_missing_files_are_an_error_or_counted(media: Path, caplog: pytest.LogCaptureFixture) -> None:
    entries = {"video": "film.mp4", "QA": QA}, {"video": "none.mp4", "QA": QA}
    with pytest.raises(FileNotFoundError, match=r"1 of 2 files .* none.mp4"):
        source(media, *entries)
    with caplog.at_level(logging.WARNING):
        assert len(source(media, *entries, allow_missing=True)) == 1
    assert "none.mp4" in caplog.text


def test_shapes_are_asked_about_and_answered_truly() -> None:
    made = ShapeQuestions(64, ask=("colour", "direction"), turns=2, size=32, length=8)
    for i in range(0, 64, 7):
        sample = made[i]
        assert sample.chat is not None and len({exchange.answer for exchange in sample.chat}) == 2
        assert all(exchange.answer in str(sample.text) for exchange in sample.chat)
        assert all(any(e.question in asked for asked in QUESTIONS["familiar"].values()) for e in sample.chat)
    first, again = (ShapeQuestions(8, still=True, size=32, length=8)[3].content for _ in range(2))
    frames = first.frames([0, 5])
    assert np.array_equal(frames[0], frames[1]) and np.array_equal(frames, again.frames([0, 5]))
    questions = [{q for asked in QUESTIONS[kind].values() for q in asked} for kind in ("familiar", "other")]
    assert not questions[0] & questions[1]
    written = [exchange for sample in ShapeQuestions(64, turns=2, sentences=True) for exchange in sample.chat or ()]
    ways = ("to the left", "to the right", "up", "down")
    expected = {f"The shape is {colour}." for colour in COLOURS} | {f"It moves {way}." for way in ways}
    assert {exchange.answer for exchange in written} == expected
    assert "What colour is it?" in {exchange.question for exchange in written}
    with pytest.raises(ValueError, match="3 turns cannot be asked"):
        ShapeQuestions(8, turns=3)
