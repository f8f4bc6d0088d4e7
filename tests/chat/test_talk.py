"""Conversations in turns, the terminal, and videos in words (VideoChat-Text)."""

import io
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from datamodules.clips.chat_sampling import demo_centres
from datamodules.decoding.contract import DecodeError, Video
from datamodules.decoding.reader import PyAV
from datamodules.making.captions import Captioner
from models.chat.templates import Conversation, Mistral, Turn
from pretrain.chat import terminal
from pretrain.chat.answerer import Request, Writing
from pretrain.chat.describe import Statement, Tool, as_text, describe, read_subtitles
from pretrain.chat.media import read_clip
from pretrain.chat.talk import Talk
from pretrain.chat.text_model import TextModel
from tests.helpers import chat
from tests.helpers.videos import make, number, two_rates


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make(tmp_path_factory.mktemp("film") / "film.mp4", frames=48, fps=12, height=64, width=64)


def test_a_clip_is_of_the_middles_of_equal_parts_with_their_times(film: str, tmp_path: Path) -> None:
    clip = read_clip(film, "film", PyAV(), 4, 64)
    frames = [number(frame) for frame in clip.pixels.permute(1, 2, 3, 0).numpy()]
    assert frames == [5, 17, 29, 40] and clip.seconds == pytest.approx([n / 12 for n in frames])
    assert clip.times() == "The video contains 4 frames sampled at 0.4, 1.4, 2.4, 3.3 seconds."
    from PIL import Image

    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    picture = read_clip(str(tmp_path / "a.png"), "a", PyAV(), 4, 8)
    assert picture.kind == "image" and picture.pixels.shape == (3, 1, 8, 8) and picture.times() == ""
    with pytest.raises(DecodeError, match="lasts 4 s, and 3 s are allowed"):
        read_clip(film, "film", PyAV(), 4, 64, longest=3)


def test_turns_and_media_add_up_and_what_fails_changes_nothing(film: str) -> None:
    talk = Talk(chat.assistant(context=400), "Be brief.", times=True, writing=Writing(8))
    clip = read_clip(film, "film", PyAV(), 2, 16)
    talk.show(clip)
    first = talk.ask("What is it?")
    talk.show(clip)
    talk.ask("And this?")
    assert [turn.media for turn in talk.turns] == [("video",), ("video",)] and len(talk.clips) == 2
    assert talk.turns[0].answer == first.text and talk.turns[0].message == clip.times()
    with pytest.raises(ValueError, match="context"):
        talk.ask("x" * 400)
    with pytest.raises(ValueError, match="empty"):
        talk.ask(" ")
    assert len(talk.turns) == 2
    talk.forget()
    assert not talk.turns and talk.shown == [clip, clip]


def test_the_terminal_says_what_it_looks_at_and_goes_on_after_errors(film: str) -> None:
    talk, out = Talk(chat.Known()), io.StringIO()
    lines = [
        f"/show {film}\n",
        "hello\n",
        "/show nothing.mp4\n",
        "/dance\n",
        "\n",
        "/forget\n",
        "again\n",
        "/quit\n",
        "no",
    ]
    terminal.converse(talk, lines, PyAV(), out)
    said = out.getvalue().splitlines()
    assert said[0].startswith("[film.mp4: 8 frames at 0.2, ") and said[1] == "a shape"
    assert "no such file" in said[2] and "no command /dance" in said[3] and said[4:] == ["a shape"]


class Numbers(Captioner):
    """Tells the numbers of the frames, a few at a time."""

    def __init__(self, frames: int = 1, coarse: int = 1) -> None:
        self.frames, self.coarse = frames, coarse

    def __call__(self, clips: list[np.ndarray]) -> list[str]:
        return [" ".join(str(number(frame) // self.coarse) for frame in clip) for clip in clips]


def test_tools_describe_a_video_in_the_order_of_time(film: str) -> None:
    with PyAV().open(film) as video:
        found = describe(
            video, [Tool("caption", Numbers()), Tool("action", Numbers(4), None), Tool("part", Numbers(1, 24))]
        )
    assert [s.text for s in found if s.tool == "caption"] == ["6", "18", "30", "42"]
    assert Statement(0.0, 4.0, "action", "6 18 30 42") in found
    assert [(s.start, s.end, s.text) for s in found if s.tool == "part"] == [(0, 2, "0"), (2, 4, "1")]
    assert as_text(found[:1]) == "Second 0 to 1, caption: 6"
    short = as_text(found, 120)
    assert len(short) < 180 and "descriptions are left out here" in short and short.endswith("caption: 42")


def test_times_are_those_of_the_frames(tmp_path: Path) -> None:
    path, times = two_rates(tmp_path / "v.mkv")
    clip = read_clip(path, "v", PyAV(), 4, 16)
    assert clip.seconds == pytest.approx([times[i] for i in demo_centres(78, 4)], abs=2e-3)
    with pytest.raises(DecodeError, match="it lasts 12 s"):
        read_clip(path, "v", PyAV(), 4, 16, longest=11)
    with PyAV().open(path) as video:
        found = describe(video, [Tool("caption", Numbers(), 2.0)])
    assert [statement.text for statement in found] == [str(i) for i in (24, 51, 57, 63, 69, 75)]  # at 1, 3, ... 11 s


def test_a_long_video_is_described_at_longer_intervals() -> None:
    class Hours(Video):
        name, fps, size = "hours", 1.0, (8, 8)

        def __len__(self) -> int:
            return 10_000

        def _decode(self, wanted: np.ndarray) -> np.ndarray:
            return np.zeros((len(wanted), 8, 8, 3), np.uint8)

    class Counting(Captioner):
        asked = 0

        def __call__(self, clips: list[np.ndarray]) -> list[str]:
            self.asked += len(clips)
            return [str(self.asked)] * len(clips)

    counting = Counting()
    describe(Hours(), [Tool("caption", counting)])
    assert counting.asked == 256


class Large(Video):
    """64 seconds of 4K at a frame a second, of which few frames are held at once: they have 25 MB each."""

    name, fps, size = "large", 1.0, (2160, 3840)

    def __len__(self) -> int:
        return 64

    def _decode(self, wanted: np.ndarray) -> np.ndarray:
        assert len(wanted) <= 5, "134 MB"
        return np.zeros((len(wanted), *self.size, 3), np.uint8)


class Thumbnails(Captioner):
    """Reads few pixels of many frames."""

    frames = 64

    def picture(self, frames: np.ndarray) -> np.ndarray:
        return frames[:, ::60, ::60]

    def __call__(self, clips: list[np.ndarray]) -> list[str]:
        return [str(clip.shape) for clip in clips]


def test_large_videos_are_described_by_what_a_tool_reads() -> None:
    """At full size, 64 frames would be above the limit `clip_bytes`."""
    (found,) = describe(Large(), [Tool("action", Thumbnails(), None)])
    assert found.text == "(64, 36, 64, 3)"


def test_subtitles_are_speech(tmp_path: Path) -> None:
    file = tmp_path / "a.srt"
    file.write_text("1\n00:00:01,500 --> 00:00:02,000\n<i>Hello</i>\nthere\n\n2\n01:00:00,000 --> 01:00:01,000\nBye\n")
    assert read_subtitles(file) == [
        Statement(1.5, 2.0, "speech", "Hello there"),
        Statement(3600, 3601, "speech", "Bye"),
    ]
    file.write_text("no subtitles")
    with pytest.raises(ValueError, match="entry 1: no line with times"):
        read_subtitles(file)


def test_a_language_model_answers_as_transformers_writes() -> None:
    import torch

    words = chat.tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    llm = LlamaForCausalLM(
        LlamaConfig(vocab_size=len(words), max_position_embeddings=256, initializer_range=0.5, **sizes)
    )
    model = TextModel(llm, words, Mistral())
    request = Request(Conversation((Turn("What?"),)))
    ids = words("<s>[INST] What? [/INST]", add_special_tokens=False, return_tensors="pt").input_ids
    expected = llm.generate(ids, max_new_tokens=9, do_sample=False, pad_token_id=3, eos_token_id=2)[0, ids.shape[1] :]
    text = words.decode(expected, skip_special_tokens=True).strip()
    assert model.answer([request], Writing(9)) == [text]
    (odds,) = model.likelihoods(request, [words.decode(expected[:3])])
    other = model.likelihoods(request, ["zzz"])[0]
    assert other < odds < 0
    with pytest.raises(ValueError, match="context of 256"):
        model.answer([request], Writing(255))
