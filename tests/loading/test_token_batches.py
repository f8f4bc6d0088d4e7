"""Captions become ids in the loading processes: of every method with a text tower, and the step needs no tokenizer."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.loading.token_batches import WithTokens
from pretrain.export.load_run import build
from pretrain.learning.batch import without_padding
from tests.helpers.methods import METHODS, resolved
from tests.helpers.runs import fit

TEXTS = ["a red circle moves left", "a blue square", "a red circle moves left", "a green circle moves up"]


class Batches:
    """One micro-batch of two views of two videos."""

    def __init__(self, text: list, **more: object) -> None:
        self.text, self.more = text, more

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> dict:
        return {"text": self.text, "name": list("abcd"), **self.more}


def test_rows_of_one_text_are_made_once() -> None:
    asked = []

    def tokenize(texts: list[str]) -> np.ndarray:
        asked.append(texts)
        return np.array([[len(text)] for text in texts])

    made = WithTokens(Batches(TEXTS), tokenize)[0]
    assert asked == [[TEXTS[0], TEXTS[1], TEXTS[3]]] and made["ids"][:, 0].tolist() == [len(text) for text in TEXTS]
    assert "ids" not in WithTokens(Batches([["two", "texts"]] * 4), tokenize)[0]
    assert "ids" not in WithTokens(Batches(TEXTS, text_states=torch.zeros(4, 2, 3)), tokenize)[0]
    images = [["ab", "c"], ["c", "ab"], ["", "abc"], ["ab", "ab"]]
    made = WithTokens(Batches(TEXTS, image_text=images), tokenize)[0]
    assert made["image_ids"][..., 0].tolist() == [[2, 1], [1, 2], [0, 3], [2, 2]] and made["ids"].shape == (4, 1)


def test_padding_rows_are_removed_from_ids_too() -> None:
    batch = {"video": torch.zeros(3, 1), "ids": np.arange(6).reshape(3, 2), "weight": torch.tensor([1.0, 0.0, 1.0])}
    kept, rows = without_padding(batch)
    assert rows == 2 and kept["ids"].tolist() == [[0, 1], [4, 5]]


@pytest.mark.parametrize(
    "method", ["viclip", "umt2", *(pytest.param(m, marks=pytest.mark.slow) for m in ("vilp", "internvideo", "align"))]
)
def test_a_step_with_ids_needs_no_tokenizer(method: str, capsys: pytest.CaptureFixture) -> None:
    few = ["--data.init_args.frames=4", "--data.init_args.size=32"]
    objective = build(resolved(capsys, METHODS[method], *few)["model"])
    video = torch.randint(0, 256, (4, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = {"video": video, "text": TEXTS, "name": list("abcd")}
    torch.manual_seed(0)  # for dropout
    right = objective(batch)
    sent = pickle.loads(pickle.dumps(objective.token_encoder()))  # as to a process that is not forked
    made = {**batch, **WithTokens(Batches(TEXTS), sent)[0]}

    def refuse(texts: list[str]) -> None:
        raise AssertionError("the step tokenizes")

    tokenizer = getattr(objective.words, "tokenizer", objective.words)
    objective.words = type(
        "Words", (), {"tokenizer": tokenizer, "pad": tokenizer.pad, "__call__": staticmethod(refuse)}
    )()
    torch.manual_seed(0)
    for name, loss in objective(made).items():
        assert torch.equal(loss, right[name]), name


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_loader_gives_ids(workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the host, from this process, where torch's loader makes tensors of arrays, and from loading processes."""
    from pretrain.objectives import ViCLIP

    seen, forward = [], ViCLIP.forward
    monkeypatch.setattr(ViCLIP, "forward", lambda self, batch: seen.append(batch["ids"]) or forward(self, batch))
    few = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", f"--data.init_args.workers={workers}"]
    fit(tmp_path, METHODS["viclip"], *few)
    assert len(seen) == 2 and all(isinstance(ids, np.ndarray) and ids.ndim == 2 for ids in seen)
