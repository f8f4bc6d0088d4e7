"""`show` writes what a step sees: the same videos, crops, masks and tokens as the step of a run."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image

from models.tokenizers import BertTokenizer
from pretrain.cli import main
from pretrain.engine import show
from pretrain.learning.chat_rows import ChatRows
from pretrain.learning.language import Language
from tests.helpers.methods import METHODS
from tests.helpers.paths import ROOT
from tests.helpers.runs import SMALL, arguments

STEP = 3


class Seen(pl.Callback):
    """Records the batch of a step, and the masks that its forward pass draws."""

    batch: dict
    masks: dict
    levels: dict

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        if trainer.global_step == STEP:
            Seen.batch, (self.recorders, _) = batch, show._record(pl_module)
            self.recorded = show._record_noise(pl_module)

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if trainer.global_step == STEP + 1:  # before the validation draws masks too
            Seen.masks = {name: recorder.found for name, recorder in self.recorders.items()}
            Seen.levels = dict(self.recorded)


class Images(HTMLParser):
    """Counts the pictures of a page, and refuses any reference to another."""

    pictures = 0

    def handle_starttag(self, tag: str, attrs: list) -> None:
        assert tag not in ("script", "link")
        for name, value in attrs:
            if name in ("src", "href"):
                assert value.startswith("data:image/png;base64,")
                self.pictures += 1


def shown_after_a_run(method: str, folder: Path, patch: pytest.MonkeyPatch) -> tuple[list[tuple], str]:
    """What the sections of a page about `STEP` are made of, and the page; `Seen` has what a run's step was given."""
    few = ["--trainer.max_steps=4", "--trainer.val_check_interval=4"]
    main([*arguments(folder, METHODS[method]), *few, "--trainer.callbacks+=tests.engine.test_show.Seen"])
    sections, section = [], show._section
    patch.setattr(show, "_section", lambda *given: sections.append(given) or section(*given))
    out = folder / "step.html"
    main(["show", "--step", str(STEP), "--out", str(out), *METHODS[method], *SMALL])
    return sections, out.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["videomae", "vilp"])
def test_a_page_shows_what_the_step_sees(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sections, page = shown_after_a_run(method, tmp_path, monkeypatch)
    images = Images()
    images.feed(page)
    assert images.pictures == len(sections) == 4 * (4 if method == "videomae" else 1)  # views
    _, batch, _, masks, *_ = sections[0]
    assert batch["name"] == Seen.batch["name"] and torch.equal(batch["video"], Seen.batch["video"])
    assert masks.keys() == Seen.masks.keys() and "mask" in masks
    for name, recorder in masks.items():
        assert torch.equal(recorder.found, Seen.masks[name]), name
    if method == "vilp":
        assert batch["ids"].tolist() == Seen.batch["ids"].tolist()
        shown = re.findall(r'<span class="t( m)?">([^<]*)</span>', page)
        words = [word.removesuffix("&lt;/w&gt;") for _, word in shown]
        assert set(batch["text"][0].lower().split()) <= set(words) and any(hidden for hidden, _ in shown)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lavie", "align", "converse"])
def test_a_page_of_a_guest_shows_what_the_step_sees(method: str, tmp_path: Path, monkeypatch) -> None:
    """Texts as tokens, dropped ones too, the time steps of a denoiser, and a chat model's rows."""
    sections, page = shown_after_a_run(method, tmp_path, monkeypatch)
    _, batch, *_, levels = sections[0]
    assert len(sections) == 4 and batch["name"] == Seen.batch["name"]
    assert torch.equal(batch["video"], Seen.batch["video"])
    if method == "converse":
        for ours, theirs in zip(batch["chat"], Seen.batch["chat"], strict=True):
            assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
        assert page.count("conversation, learnt tokens in red") == 4
        return
    assert batch["ids"].tolist() == Seen.batch["ids"].tolist() and batch["text"] == Seen.batch["text"]
    if method == "lavie":
        assert torch.equal(levels["timestep"], Seen.levels["timestep"])
        assert np.array_equal(levels["dropped"], Seen.levels["dropped"])
        shown = [int(step) for step in re.findall(r"time step (\d+) of 1000", page)]
        assert shown == levels["timestep"].tolist()
        assert page.count("is read instead") == int(levels["dropped"].sum())
    words = [word.removesuffix("&lt;/w&gt;") for word in re.findall(r'<span class="t[^>]*>([^<]*)</span>', page)]
    assert set(batch["text"][0].lower().split()[:4]) <= set(words)


def test_only_the_tokens_of_a_mask_are_left() -> None:
    encoder = type("Encoder", (), {"tubelet": 2, "patch": 2, "grid": (2, 2, 2)})
    video = torch.ones(1, 3, 4, 4, 4)
    left = show._only(video, torch.tensor([0, 7]), encoder)[0, 0]
    assert (left[:2, :2, :2] == 1).all() and (left[2:, 2:, 2:] == 1).all() and int((left == 1).sum()) == 16
    assert (left[:2, 2:] == 0.5).all()


def test_conversations_are_shown_as_tokens() -> None:
    shapes = str(ROOT / "recipes/data/shapes_chat")
    reader = BertTokenizer(f"{shapes}/bert.txt", 40)
    rows = ChatRows(Language({}, random=0, tokenizer=shapes), "vicuna", visual=3, reader=reader)
    row = rows.row([("what colour is it ?", "red", "look"), ("where does it move ?", "left", "look")], None)
    page = show._section(SimpleNamespace(row_encoder=rows), {"name": ["a"], "chat": [row]}, 0, {}, [])
    talk, read = re.findall(r"<p>(.*?)</p>", page)
    shown = re.findall(r'<span class="t( m)?">([^<]*)</span>', talk)
    learnt = [word.strip("\u2581\u0120") for red, word in shown if red]
    assert "red" in learnt and "left" in learnt and "colour" not in learnt
    assert len(learnt) == int((row["labels"] >= 0).sum())
    assert [word for _, word in shown].count("[3 visual tokens]") == 1
    assert len(shown) == len(row["ids"]) - 3 + 1 and "0 are cut" in talk
    assert "look" in re.findall(r'<span class="t">([^<]*)</span>', read)


def test_latents_are_pictures() -> None:
    latents = torch.randn(2, 8, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    page = show._section(SimpleNamespace(), {"name": ["a", "b"], "latents": latents}, 1, {}, [])
    (picture,) = re.findall(r"data:image/png;base64,([^\"]*)", page)
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))))
    expected = show._stretched(latents[1:, :3])[0].permute(1, 2, 3, 0)  # [T, h, w, 3]
    frame = (expected[1] * 255).round().byte().repeat_interleave(8, 0).repeat_interleave(8, 1).numpy()
    windows = np.lib.stride_tricks.sliding_window_view(pixels, frame.shape)
    assert (windows == frame).all(axis=(-3, -2, -1)).any(), "the second frame is on the page as it is"
