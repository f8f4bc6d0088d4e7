"""Questions about videos: how answers are ranked, what lists and labels may be, and weights of pretraining."""

from pathlib import Path

import pytest
import torch

import models
from models.convert import umt2 as names
from pretrain.objectives import VideoQA
from tests.helpers.umt2 import batch, official, random_state, student, tower, whole, words

ANSWERS = ["circle", "square", "a red circle", "left", "yellow"]


def answerer(**options) -> VideoQA:
    torch.manual_seed(0)
    writer = tower(depth=2, fusion=0, source=32, causal=True)
    return VideoQA(student(), tower(head=False), writer, words(), **{"answers": ANSWERS, "candidates": 3, **options})


def asked() -> dict:
    return {**batch(), "label": torch.tensor([0, 1, 2, 3])}


def test_answers_train_everything_and_are_ranked() -> None:
    model = answerer()
    model(asked())["answer"].backward()
    assert not [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    made = model.eval().predict(asked())
    assert made["answer"].shape == (4,) and made["candidates"].shape == made["scores"].shape == (4, 3)
    assert torch.equal(made["answer"], made["candidates"][:, 0]) and (made["scores"].diff(dim=1) <= 0).all()
    torch.testing.assert_close(made["scores"].sum(1), torch.ones(4))
    assert answerer(candidates=128).eval().predict(asked())["scores"].shape == (4, 5)


def test_an_answer_is_learnt() -> None:
    model = answerer(candidates=5)
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(60):
        model(asked())["answer"].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert torch.equal(model.eval().predict(asked())["answer"], asked()["label"])


def test_answers_have_start_and_end_and_independent_losses() -> None:
    model = answerer().eval()
    ids = model.answer_tokens()
    assert ids.shape == (5, 5) and (ids[:, 0] == 2).all() and ids[0, 2:4].tolist() == [3, 3] and ids[2, -1] == 3
    states, seen = model.encode_questions(asked())
    both = model.answer_loss(states[:1].expand(2, -1, -1), seen[:1].expand(2, -1), ids[[0, 2]], ids[[0, 2]] != 0)
    alone = model.answer_loss(states[:1], seen[:1], ids[[0], :4], ids[[0], :4] != 0)
    torch.testing.assert_close(both[:1], alone)  # padding after a shorter answer does not matter


def test_a_label_without_an_answer_is_named() -> None:
    model, wrong = answerer(), asked()
    wrong["label"] = torch.tensor([0, 1, 5, 3])
    with pytest.raises(ValueError, match="c has the label 5, and the answers are numbered from 0 to 4"):
        model.on_host(wrong)
    wrong["label"] = torch.tensor([0, -1, 2, 3])
    with pytest.raises(ValueError, match="b has the label -1"):
        model.on_host(wrong)
    model.eval()  # an answer outside the list is wrong, and not in the loss
    some = {k: v[[0, 2, 3]] if isinstance(v, torch.Tensor) else [v[0], *v[2:]] for k, v in wrong.items()}
    torch.testing.assert_close(model(wrong)["answer"], model(some)["answer"])


def test_lists_of_answers(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("yes\nno\n")
    (tmp_path / "b.json").write_text('["no", "yes"]')
    (tmp_path / "c.json").write_text('{"no": 1, "yes": 0}')
    found = [answerer(answers=str(tmp_path / name)).answers for name in ("a.txt", "b.json", "c.json")]
    assert found == [["yes", "no"], ["no", "yes"], ["yes", "no"]]
    for answers, said in (
        ([], "list of answers is empty"),
        (["yes", "no", "yes"], "'yes' is in the list 2 times"),
    ):
        with pytest.raises(ValueError, match=said):
            answerer(answers=answers)
    with pytest.raises(FileNotFoundError, match=r"no list of answers at .*none.txt"):
        answerer(answers=str(tmp_path / "none.txt"))
    with pytest.raises(Exception, match="the data have no such lists"):
        answerer(answers=None)(asked())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"text": tower()}, "predicts no tokens"),
        ({"answer_decoder": tower(fusion=0, source=32)}, "causal: true and fusion: 0"),
        ({"answer_decoder": tower(fusion=0, causal=True)}, "attends to 48 channels"),
        ({"answer_context": 2}, "answers have 2 places"),
    ],
)
def test_parts_that_do_not_fit_raise(options: dict, said: str) -> None:
    parts = {"text": tower(head=False), "answer_decoder": tower(fusion=0, source=32, causal=True), **options}
    with pytest.raises(ValueError, match=said):
        VideoQA(student(), words=words(), answers=ANSWERS, **parts)


def test_the_answer_decoder_starts_from_the_cross_attention_layers() -> None:
    pretrained = whole()
    state, model = random_state(pretrained), answerer()
    for weights in (state, official(pretrained)):
        report = models.load_weights(model, weights)
        other = "answer_decoder.blocks.{}.cross.kv.{}"  # here questions and videos have different widths
        assert report.missing == [other.format(i, part) for i in range(2) for part in ("weight", "bias")], report
        assert torch.equal(model.answer_decoder.blocks[1].cross.q.weight, state["text.blocks.2.cross.q.weight"])
        assert torch.equal(model.answer_decoder.head.bias, state["text.head.bias"])
        assert torch.equal(model.text.blocks[0].attn.q.weight, state["text.blocks.0.attn.q.weight"])
    theirs, unknown = names.to_official(model.state_dict(), tuned=True)
    assert not unknown
    report = models.load_weights(answerer(), theirs)
    assert not report.missing and not report.unused
    writer = tower(depth=1, fusion=0, source=32, causal=True)
    with pytest.raises(ValueError, match="another architecture"):
        models.load_weights(VideoQA(student(), tower(head=False), writer, words(), answers=ANSWERS), state)
