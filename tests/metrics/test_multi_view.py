"""MultiView: results by hand, average precision, the same over views, batches and ranks; errors name their cause."""

import csv
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from pretrain.metrics import MultiView
from pretrain.metrics.report import write_csv
from pretrain.metrics.views import average_precision
from tests.helpers.metric_cases import batches, evaluate, over_ranks

VIDEOS, CLASSES = 11, 7
ONE, SEVERAL = partial(MultiView, False), partial(MultiView, True)


def clips(views: int = 3, several: bool = False) -> tuple[dict, dict]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(VIDEOS) % CLASSES
    scores = torch.randn(views * VIDEOS, CLASSES, generator=generator)
    scores[torch.arange(views * VIDEOS), labels.repeat(views)] += 1
    names = [f"{'ab'[i % 2]}/{i // 2}.mp4" for i in range(VIDEOS)]  # the same file names in two folders
    if several:
        labels = torch.stack((labels, torch.where(labels % 2 == 0, (labels + 3) % CLASSES, -1)), dim=1)
        labels[4] = -1
    return {"scores": scores}, {"name": names * views, "label": labels.repeat(views, *[1] * (labels.ndim - 1))}


def test_by_hand() -> None:
    outputs, batch = clips()
    metric, found = evaluate(ONE, [(outputs, batch)])
    mean = outputs["scores"].softmax(dim=1).view(3, VIDEOS, CLASSES).mean(dim=0)
    own = batch["label"][:VIDEOS]
    order = mean.argsort(dim=1, descending=True)
    top1 = (order[:, 0] == own).float()
    assert found["top1"] == pytest.approx(100 * top1.mean().item())
    assert found["top5"] == pytest.approx(100 * (order[:, :5] == own[:, None]).any(dim=1).float().mean().item())
    each = [top1[own == k].mean().item() for k in range(CLASSES)]
    assert found["mean_class"] == pytest.approx(100 * np.mean(each))
    assert metric.facts == {"videos": 11, "classes": 7, "views": 3, "classes with a video": 7}
    assert [row["top1"] for row in metric.rows()] == [round(100 * share, 2) for share in each]
    assert sum(row["videos"] for row in metric.rows()) == VIDEOS


def test_softmaxes_are_averaged_not_scores() -> None:
    """One confident view against two uncertain ones: the mean of scores would predict class 0."""
    scores = torch.tensor([[20.0, 0.0], [0.0, 3.0], [0.0, 3.0]])
    batch = {"name": ["a"] * 3, "label": torch.tensor([1, 1, 1])}
    assert evaluate(ONE, [({"scores": scores}, batch)])[1]["top1"] == 100


def test_equal_scores_and_unlisted_labels_count_against_the_model() -> None:
    batch = {"name": list("abc"), "label": torch.tensor([0, -1, 1])}
    metric, found = evaluate(ONE, [({"scores": torch.tensor([[1.0, 1.0], [5.0, 0.0], [0.0, 1.0]])}, batch)])
    assert found["top1"] == pytest.approx(100 / 3) and metric.facts["labels outside the list"] == 1


def test_average_precision_by_hand() -> None:
    """Without ties: the mean over hits of the precision at each; with all scores equal: the share of hits."""
    generator = torch.Generator().manual_seed(1)
    scores, right = torch.rand(40, 3, generator=generator), torch.rand(40, 3, generator=generator) < 0.3
    for k, found in enumerate(average_precision(scores, right).tolist()):
        hits = right[scores[:, k].argsort(descending=True), k].float()
        precisions = hits.cumsum(0) / torch.arange(1, 41)
        assert found == pytest.approx(100 * precisions[hits.bool()].mean().item(), rel=1e-5)
    assert average_precision(torch.ones(4, 1), torch.tensor([[1], [0], [0], [0]]).bool()).item() == 25


@pytest.mark.parametrize("several", [False, True])
def test_batches_and_ranks_change_nothing(several: bool) -> None:
    metric = SEVERAL if several else ONE
    outputs, batch = clips(several=several)
    whole = evaluate(metric, [(outputs, batch)])[1]
    assert evaluate(metric, batches(outputs, batch, [1, 4, 6], views=3))[1] == whole
    cut = batches(outputs, batch, [3, 3, 5], views=3)
    for result in over_ranks([(metric, [cut[:1], cut[1:]])])[0]:
        assert {name: value.item() for name, value in result.items()} == {n: v.item() for n, v in whole.items()}


def test_errors_name_their_cause() -> None:
    scores = {"scores": torch.zeros(1, 3)}
    for outputs, batch, message in (
        (scores, {"name": ["a"]}, "`label` of the data"),
        ({}, {"name": ["a"], "label": torch.zeros(1)}, "`scores` of the model"),
        (scores, {"name": ["x/a.mp4"], "label": torch.tensor([3])}, "'x/a.mp4' has the label .* gives 3 scores"),
    ):
        with pytest.raises(MisconfigurationException, match=message):
            ONE().update(outputs, batch)


def test_the_table_and_the_picture(tmp_path: Path) -> None:
    outputs, batch = clips()
    names = ["surfing", "yoga", "a", "b", "c", "d", "e"]
    metric, _ = evaluate(partial(MultiView, False, names), [(outputs, batch)])
    write_csv(tmp_path / "t.csv", metric.rows())
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [row["name"] for row in rows] == names
    picture = metric.picture()
    assert picture.dtype == np.uint8 and picture.shape[2] == 3
    assert evaluate(SEVERAL, [clips(several=True)])[0].picture() is None


def test_names_come_from_what_is_evaluated() -> None:
    """`attach` finds the evaluated source by the trainer."""
    from tests.helpers.metric_cases import HashedTexts

    model = HashedTexts()
    data = SimpleNamespace(test=SimpleNamespace(classes=["x"] * 7), val=None)
    model._trainer = SimpleNamespace(testing=True, datamodule=data)
    model.multi_label = True
    metric = MultiView()
    metric.attach(model)
    assert metric.classes == ["x"] * 7 and metric.multi_label is True
