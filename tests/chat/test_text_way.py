"""VideoChat-Text from file to answer: `tools/chat.py --way text` with small models that are loaded from folders."""

import re
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from models.chat.templates import Conversation, Turn
from pretrain.chat.answerer import Request, Writing
from pretrain.chat.describe import INSTRUCTION, load_tool
from pretrain.chat.text_model import is_text_model, load_text_model
from tests.helpers import chat
from tests.helpers.captioner import WORDS, save_blip
from tests.helpers.paths import ROOT
from tests.helpers.runs import fit
from tests.helpers.videos import make
from tools.chat import main

TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film of 4 s with subtitles, a language model and a captioner."""
    place = tmp_path_factory.mktemp("text_way")
    make(place / "film.mp4", frames=48, fps=12, height=64, width=64)
    (place / "film.srt").write_text("1\n00:00:01,500 --> 00:00:02,000\nHello there\n")
    words = chat.tokenizer()
    words.chat_template = TEMPLATE
    words.save_pretrained(place / "llm")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(words), max_position_embeddings=2048, initializer_range=0.5, **sizes)
    LlamaForCausalLM(config).save_pretrained(place / "llm")
    save_blip(place / "blip")
    return place


def test_a_film_is_described_by_tools_and_a_language_model_answers(folder: Path, capsys: pytest.CaptureFixture) -> None:
    film, llm, blip = (str(folder / name) for name in ("film.mp4", "llm", "blip"))
    command = [film, "--way", "text", "--model", llm, "--tool", f"caption={blip}@2", "--tool", f"all={blip}"]
    assert main([*command, "--subtitles", str(folder / "film.srt"), "--question", "What is it?", "--most", "9"]) == 0
    said = capsys.readouterr().out
    lines = said.partition(INSTRUCTION)[2].strip().splitlines()
    assert lines[0] == "film.mp4:" and "Second 1.5 to 2, speech: Hello there" in lines
    described = [re.fullmatch(r"Second (\d) to (\d), (caption|all): (.*)", line) for line in lines[1:]]
    found = [each.groups() for each in described if each]
    assert ("0", "4", "all") in [each[:3] for each in found] and {each[2] for each in found} == {"caption", "all"}
    assert {word for each in found for word in each[3].split()} <= set(WORDS)
    told = said[: said.index("\n", said.rindex("Second "))].strip()
    request = Request(Conversation((Turn("What is it?"),), told))
    (answer,) = load_text_model(llm).answer([request], Writing(9))
    assert answer and answer in said[said.rindex("Second ") :]


def test_what_is_no_tool_is_named(folder: Path, capsys: pytest.CaptureFixture) -> None:
    command = [str(folder / "film.mp4"), "--way", "text", "--model", str(folder / "llm"), "--question", "What?"]
    for tool, message in (
        ("caption", "NAME=CAPTIONER"),
        ("caption=@2", "NAME=CAPTIONER"),
        ("caption=nothing", "package.module:Class"),
        ("caption=no_such:Class", "there is no captioner"),
        (f"caption={folder / 'blip'}@0", "above 0"),
        (f"action={folder}", "no checkpoint"),
    ):
        assert main([*command, "--tool", tool]) == 2
        assert message in capsys.readouterr().err, tool
    assert main(command) == 2
    assert "nothing describes the video" in capsys.readouterr().err


@pytest.mark.slow
def test_a_trained_classifier_names_the_actions(tmp_path: Path) -> None:
    run = fit(tmp_path / "run", ["-c", str(ROOT / "recipes/finetune_tiny.yaml")], "--trainer.max_steps=2")
    film = make(tmp_path / "film.mp4", frames=48, fps=12, height=64, width=64)
    from datamodules.decoding.reader import PyAV
    from pretrain.chat.describe import describe

    with PyAV().open(film) as video:
        (found,) = describe(video, [load_tool(f"action={run}")])
    assert (found.start, found.end, found.tool) == (0.0, 4.0, "action")
    assert found.text in ("left", "right", "up", "down")


def test_a_folder_of_a_language_model_alone_is_told_from_others(folder: Path) -> None:
    assert is_text_model(str(folder / "llm"))
    assert not is_text_model(str(folder / "blip")) and not is_text_model(str(folder / "nothing"))
