"""Zero-shot, multiple choice and answers: by hand, over views, batches and ranks; errors name their cause."""

import json
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pretrain.metrics import Accuracy, MultipleChoice, ZeroShot
from pretrain.metrics.zero_shot import TEMPLATES, template_scores
from tests.helpers.metric_cases import WIDTH, HashedTexts, batches, evaluate, over_ranks, vector

VIDEOS = 11
CLASSES = ["surfing", "ice skating", "playing the guitar", "yoga", "sword {} fighting", "juggling", "knitting"]
KINDS = {"cosines": partial(ZeroShot, CLASSES), "softmaxes": partial(ZeroShot, CLASSES, scale=20.0)}


def clips(views: int = 1) -> tuple[dict, dict]:
    """Videos with features near the sentences of their class."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(VIDEOS) % len(CLASSES)
    centre = torch.stack([sum(vector(t.replace("{}", name)) for t in TEMPLATES) for name in CLASSES])
    features = F.normalize(centre, dim=1)[labels].repeat(views, 1)
    features = features + 0.35 * torch.randn(VIDEOS * views, WIDTH, generator=generator)
    names = [f"{i}.mp4" for i in range(VIDEOS)] * views
    return {"features": features}, {"name": names, "label": labels.repeat(views)}


def questions(views: int = 1) -> tuple[dict, dict]:
    """Videos with two to five captions, one of them correct; the last two questions are of one video."""
    generator = torch.Generator().manual_seed(1)
    texts = [[f"choice {j} of {i}" for j in range(2 + i % 4)] for i in range(VIDEOS)]
    labels = torch.tensor([i % len(own) for i, own in enumerate(texts)])
    right = torch.stack([vector(own[label]) for own, label in zip(texts, labels, strict=True)])
    features = right.repeat(views, 1) + 0.4 * torch.randn(VIDEOS * views, WIDTH, generator=generator)
    names = [f"{min(i, VIDEOS - 2)}.mp4" for i in range(VIDEOS)] * views
    return {"features": features}, {"name": names, "text": texts * views, "label": labels.repeat(views)}


def same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_there_are_sixteen_templates() -> None:
    assert len(TEMPLATES) == 16 == len(set(TEMPLATES)) and all(t.count("{}") == 1 for t in TEMPLATES)


@pytest.mark.parametrize("kind", KINDS.values(), ids=list(KINDS))
def test_scores_by_hand(kind: partial) -> None:
    outputs, batch = clips()
    metric, found = evaluate(kind, [(outputs, batch)])
    scores = []
    for template in TEMPLATES:
        texts = torch.stack([vector(template.replace("{}", name)) for name in CLASSES])
        cosines = outputs["features"] @ texts.t()
        scores.append(cosines if metric.scale is None else (20 * cosines).softmax(dim=1))
    best = torch.stack(scores).mean(0).topk(5, dim=1).indices
    hit = best == batch["label"][:, None]
    one, five = 100 * hit[:, 0].float().mean(), 100 * hit.any(1).float().mean()
    torch.testing.assert_close(found, {"top1": one, "top5": five, "average": (one + five) / 2})
    assert 0 < one < 100
    assert metric.facts["classes"] == 7 and metric.facts["templates"] == 16 and metric.facts["videos"] == VIDEOS


def test_one_template_at_scale_100_is_the_released_demo() -> None:
    texts, video = F.normalize(torch.randn(7, 1, 8), dim=-1), F.normalize(torch.randn(2, 8), dim=-1)
    expected = (100 * video.double() @ texts[:, 0].double().t()).softmax(dim=1)
    torch.testing.assert_close(template_scores(video, texts, 100.0), expected)


def test_a_constant_model_is_never_right() -> None:
    outputs, batch = clips()
    _, found = evaluate(KINDS["cosines"], [({"features": torch.zeros_like(outputs["features"])}, batch)])
    assert found["top1"] == found["top5"] == 0


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize(
    ("kind", "make"),
    [*((kind, clips) for kind in KINDS.values()), (MultipleChoice, questions)],
    ids=[*KINDS, "choice"],
)
def test_batches_and_their_order_change_nothing(kind: partial, make, views: int) -> None:
    whole = evaluate(kind, batches(*make(views), [VIDEOS], views))[1]
    for sizes in ([4, 4, 4], [1] * VIDEOS, [10, 1, 3]):
        same(evaluate(kind, batches(*make(views), sizes, views))[1], whole)
        same(evaluate(kind, batches(*make(views), sizes, views)[::-1])[1], whole)


def test_views_are_averaged() -> None:
    outputs, batch = clips(3)
    mean = {"features": outputs["features"].unflatten(0, (3, VIDEOS)).mean(0)}
    one = {name: value[:VIDEOS] for name, value in batch.items()}
    metric, found = evaluate(KINDS["cosines"], [(outputs, batch)])
    same(found, evaluate(KINDS["cosines"], [(mean, one)])[1])
    assert metric.facts["views"] == 3


def test_two_ranks_equal_one() -> None:
    jobs, whole = [], []
    answers = (
        {"answer": torch.arange(2 * VIDEOS) % 3},
        {"label": torch.arange(2 * VIDEOS) % 2, "name": ["x"] * 2 * VIDEOS},
    )
    for kind, data in [*((k, clips(2)) for k in KINDS.values()), (MultipleChoice, questions(2)), (Accuracy, answers)]:
        parts = batches(*data, [2, 3, 4, 2, 1], 2)  # the last holds nothing, as padding leaves it
        jobs.append((kind, [[parts[0], parts[3], parts[4]], [parts[2], parts[1]]]))
        whole.append(evaluate(kind, batches(*data, [VIDEOS], 2))[1])
    for expected, both in zip(whole, over_ranks(jobs), strict=True):
        for found in both:
            same(found, expected)


def test_class_features_are_computed_once_an_evaluation() -> None:
    model = HashedTexts()
    evaluate(KINDS["cosines"], batches(*clips(), [1] * VIDEOS), model)
    assert sum(model.text_counts) == len(CLASSES) * len(TEMPLATES)


def test_classes_come_from_a_list_a_file_or_the_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("surfing\nice skating\n")
    (tmp_path / "list.json").write_text(json.dumps(["surfing", "ice skating"]))
    (tmp_path / "names.json").write_text(json.dumps({"ice skating": 1, "surfing": 0}))
    for file in tmp_path.iterdir():
        metric = ZeroShot(str(file))
        metric.attach(HashedTexts())
        assert metric.classes == ["surfing", "ice skating"]
    with pytest.raises(FileNotFoundError, match=r"no list of classes at .*none.txt"):
        ZeroShot(str(tmp_path / "none.txt"))
    metric, model = ZeroShot(), HashedTexts()
    source = SimpleNamespace(classes=["left", "right"])
    precision = SimpleNamespace(forward_context=nullcontext)
    datamodule = SimpleNamespace(test=source, val=None)
    model._trainer = SimpleNamespace(testing=True, datamodule=datamodule, precision_plugin=precision)
    metric.attach(model)
    assert metric.classes == ["left", "right"]
    model._trainer.testing = False
    with pytest.raises(MisconfigurationException, match="does not know the names of the classes"):
        metric.attach(model)


def test_errors_of_labels_and_templates() -> None:
    outputs, batch = clips()
    with pytest.raises(MisconfigurationException, match=r"'3.mp4' has the label 7, and the 7 classes \('surfing' to"):
        evaluate(KINDS["cosines"], [(outputs, {**batch, "label": torch.tensor([0, 1, 2, 7] + [0] * 7)})])
    metric, found = evaluate(KINDS["cosines"], [(outputs, {**batch, "label": torch.full((VIDEOS,), -1)})])
    assert found["top5"] == 0 and metric.facts["labels outside the list"] == VIDEOS
    with pytest.raises(MisconfigurationException, match="give the data a `label`"):
        evaluate(KINDS["cosines"], [(outputs, {"name": batch["name"]})])
    with pytest.raises(MisconfigurationException, match="'yoga' twice"):
        evaluate(partial(ZeroShot, ["yoga", "yoga"]), [])
    with pytest.raises(ValueError, match=r"a sentence with a \{\}"):
        ZeroShot(CLASSES, templates=["a video"])


def test_choice_by_hand() -> None:
    outputs, batch = questions()
    right = 0
    for video, texts, label in zip(outputs["features"], batch["text"], batch["label"], strict=True):
        right += int((torch.stack([vector(text) for text in texts]) @ video).argmax() == label)
    metric, found = evaluate(MultipleChoice, [(outputs, batch)])
    assert found[""] == pytest.approx(100 * right / VIDEOS) and 0 < right < VIDEOS
    assert metric.facts == {"questions": VIDEOS, "choices": 5, "views": 1}
    same_words = {"name": ["a"], "text": [["x", "x"]], "label": torch.tensor([0])}
    assert evaluate(MultipleChoice, [({"features": vector("x")[None]}, same_words)])[1][""] == 0
    with pytest.raises(MisconfigurationException, match=r"'a' has 2 captions to choose from and the label 2"):
        evaluate(MultipleChoice, [({"features": vector("x")[None]}, {**same_words, "label": torch.tensor([2])})])


def test_answers() -> None:
    answers, labels = torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 0, -1])
    metric, found = evaluate(Accuracy, batches({"answer": answers}, {"name": list("abcd"), "label": labels}, [3, 2]))
    assert found[""] == 50 and metric.facts == {"questions": 4}
    with pytest.raises(MisconfigurationException, match="there is no `answer`"):
        evaluate(Accuracy, [({}, {"name": list("abcd"), "label": labels})])
