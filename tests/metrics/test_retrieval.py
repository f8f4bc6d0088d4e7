"""Retrieval: ranks with several captions a video, ties, re-ranking; the same for any batches, order and ranks."""

import pickle
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from torch import nn

from pretrain.metrics import Retrieval
from pretrain.metrics.ranking import by_video, dual_softmax, ranks, recalls, rerank
from tests.helpers.metric_cases import WIDTH, HashedTexts, batches, evaluate, over_ranks, vector

VIDEOS = 13
FULL = partial(Retrieval, dual_softmax=True, rerank=3, by_video=True, pictures=2)


def clips(views: int = 1, videos: int = VIDEOS, noise: float = 0.25) -> tuple[dict, dict]:
    """Videos near their captions, of which there are one to three each, with tokens."""
    generator = torch.Generator().manual_seed(0)
    names = [f"clip {i}.mp4" for i in range(videos)]
    texts = [[f"caption {j} of {i}" for j in range(1 + i % 3)] for i in range(videos)]
    centre = torch.stack([sum(vector(text) for text in own) for own in texts])
    features = F.normalize(centre, dim=1).repeat(views, 1)
    features = features + noise * torch.randn(views * videos, WIDTH, generator=generator)
    tokens = features[:, None] + 0.3 * torch.randn(views * videos, 4, WIDTH, generator=generator)
    video = torch.randint(0, 256, (views * videos, 3, 2, 20, 20), dtype=torch.uint8, generator=generator)
    return {"features": features, "tokens": tokens}, {"video": video, "name": names * views, "text": texts * views}


def same(a: dict, b: dict) -> None:
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_ranks_by_hand() -> None:
    sim = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.3, 0.4], [0.5, 0.5, 0.5]])
    right = torch.tensor([[False, True, False], [True, True, False], [False, False, True]])
    assert ranks(sim, right).tolist() == [2, 2, 3]
    found = recalls(torch.tensor([1, 1, 4, 12]))
    assert [round(v.item(), 2) for v in found.values()] == [50, 75, 75, 2.5, 4.5]
    with pytest.raises(ValueError, match="query 1 has no right"):
        ranks(sim, right & torch.tensor([[True], [False], [True]]))


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_a_constant_model_is_the_worst(value: float) -> None:
    assert ranks(torch.full((4, 7), value), torch.eye(4, 7).bool()).tolist() == [7] * 4
    outputs, batch = clips()
    outputs = {"features": torch.full((VIDEOS, WIDTH), value)}
    _, found = evaluate(Retrieval, [(outputs, batch)])
    assert found["t2v/R1"] == found["t2v/R10"] == 0 and found["t2v/MdR"] == VIDEOS


def test_reranking_moves_the_top_and_leaves_the_rest_below() -> None:
    sim = torch.tensor([[0.9, 0.8, 0.7, 0.1, 0.2]])
    scores = torch.tensor([[1.0, 3.0, 2.0, 99.0, 99.0]])
    assert rerank(sim, scores, 3).argsort(descending=True).tolist() == [[1, 2, 0, 4, 3]]
    assert rerank(sim, scores, 99).argsort(descending=True).tolist()[0][2:] == [1, 2, 0]


def test_the_metric_is_its_functions() -> None:
    outputs, batch = clips()
    _, found = evaluate(FULL, [(outputs, batch)])
    texts = [(text, i) for i, own in enumerate(batch["text"]) for text in own]
    right = F.one_hot(torch.tensor([i for _, i in texts])).bool()
    sim = torch.stack([vector(text) for text, _ in texts]) @ outputs["features"].t()
    model = HashedTexts()
    scores = torch.stack([model.match(outputs["tokens"], [text] * VIDEOS) for text, _ in texts])
    expected = {
        "t2v": (sim, right),
        "v2t": (sim.t(), right.t()),
        "dsl/t2v": (dual_softmax(sim), right),
        "dsl/v2t": (dual_softmax(sim.t()), right.t()),
        "rerank/t2v": (rerank(sim, scores, 3), right),
        "rerank/v2t": (rerank(sim.t(), scores.t(), 3), right.t()),
        "by_video/v2t": (by_video(sim.t(), right), torch.eye(VIDEOS).bool()),
    }
    for name, (matrix, own) in expected.items():
        for key, value in recalls(ranks(matrix, own)).items():
            torch.testing.assert_close(found.pop(f"{name}/{key}"), value.float())
    assert not found


@pytest.mark.parametrize("views", [1, 3])
def test_batches_and_their_order_change_nothing(views: int) -> None:
    whole = evaluate(FULL, batches(*clips(views), [VIDEOS], views))[1]
    for sizes in ([5, 5, 5], [1] * VIDEOS, [12, 1, 4]):
        same(evaluate(FULL, batches(*clips(views), sizes, views))[1], whole)
        same(evaluate(FULL, batches(*clips(views), sizes, views)[::-1])[1], whole)


def test_views_are_averaged() -> None:
    outputs, batch = clips(3)
    mean = {name: value.unflatten(0, (3, VIDEOS)).mean(0) for name, value in outputs.items()}
    one = {name: value[:VIDEOS] for name, value in batch.items()}
    kind = partial(Retrieval, dual_softmax=True)
    metric, found = evaluate(kind, [(outputs, batch)])
    same(found, evaluate(kind, [(mean, one)])[1])
    assert metric.facts == {"videos": VIDEOS, "captions": 25, "views": 3}


def test_two_ranks_equal_one() -> None:
    """Videos dealt to ranks in turn; the second has fewer of them, and a batch of padding only."""
    whole = evaluate(FULL, batches(*clips(2), [VIDEOS], 2))[1]
    outputs, batch = clips(2)
    shares = []
    for rank in range(2):
        rows = [view * VIDEOS + i for view in range(2) for i in range(rank, VIDEOS, 2)]
        take = lambda value, rows=rows: value[rows] if torch.is_tensor(value) else [value[i] for i in rows]  # noqa: E731
        part = [{name: take(value) for name, value in some.items()} for some in (outputs, batch)]
        shares.append(batches(*part, [4, 3 if rank == 0 else 2, 1], 2))
    assert not shares[1][2][1]["name"]
    for found in over_ranks([(FULL, shares)])[0]:
        same(found, whole)


def test_equal_captions() -> None:
    outputs = {"features": torch.stack([vector("a dog"), vector("a dog"), vector("a cat")])}
    batch = {"name": ["a", "b", "c"], "text": ["a dog", "a dog", "a cat"]}
    apart, merged = (evaluate(partial(Retrieval, merge_texts=m), [(outputs, batch)])[1] for m in (False, True))
    assert apart["t2v/R1"] == pytest.approx(100 / 3) and apart["t2v/MdR"] == 2  # each is a query for its own video only
    assert merged["t2v/R1"] == merged["v2t/R1"] == 100
    twice = {"name": ["a", "c"], "text": [["a dog", "a dog"], ["a cat"]]}
    metric, _ = evaluate(Retrieval, [({"features": outputs["features"][::2]}, twice)])
    assert metric.facts["captions"] == 3  # as MSVD counts them


def test_a_list_with_a_line_a_caption_is_a_video_with_several() -> None:
    outputs = {"features": torch.stack([vector("x"), vector("x"), vector("y")])}
    batch = {"name": ["a", "a", "b"], "text": ["x", "z", "y"]}
    lines = evaluate(Retrieval, batches(outputs, batch, [1, 1, 1]))[1]
    rows = {"features": outputs["features"][1:]}
    same(lines, evaluate(Retrieval, [(rows, {"name": ["a", "b"], "text": [["x", "z"], ["y"]]})])[1])


def test_errors_name_what_is_missing() -> None:
    with pytest.raises(MisconfigurationException, match="Retrieval needs a model with `encode_text`, which Linear"):
        Retrieval().attach(nn.Linear(1, 1))
    with pytest.raises(RuntimeError, match=r"metric.attach"):
        evaluate(Retrieval, [clips()])[0].__class__().objective  # noqa: B018
    outputs, batch = clips()
    with pytest.raises(MisconfigurationException, match="needs the texts of each video"):
        evaluate(Retrieval, [(outputs, {"name": batch["name"]})])
    for text in ([], [" "], ""):
        with pytest.raises(MisconfigurationException, match=r"'clip 1.mp4' has no caption"):
            evaluate(Retrieval, [(outputs, {**batch, "text": [["x"], text, *batch["text"][2:]]})])
    with pytest.raises(MisconfigurationException, match="predicts `tokens`"):
        evaluate(partial(Retrieval, rerank=2), [({"features": outputs["features"]}, batch)])
    with pytest.raises(RuntimeError, match="not one video could be read"):
        evaluate(Retrieval, batches(outputs, batch, [VIDEOS, 1])[1:])


def test_odd_captions_and_names() -> None:
    texts = ["😀 a dog", "x" * 10_000, "\ud800 half a character", "кот"]
    batch = {"name": ["a\udcff.mp4", "b", "c", "影片"], "text": texts}
    _, found = evaluate(
        Retrieval,
        batches({"features": torch.eye(4, WIDTH)}, batch, [2, 2]),
        OnlyText({t: i for i, t in enumerate(texts)}),
    )
    assert found["t2v/R1"] == found["v2t/R1"] == 100


class OnlyText(nn.Module):
    def __init__(self, number: dict[str, int]) -> None:
        super().__init__()
        self.number = number

    def encode_text(self, texts: list[str]) -> torch.Tensor:
        return torch.stack([torch.eye(WIDTH)[self.number[text]] for text in texts])


def test_the_model_is_no_submodule_of_the_metric() -> None:
    metric, model = Retrieval(), HashedTexts()
    metric.attach(model)
    assert not list(metric.modules())[1:] and not metric.state_dict()
    assert pickle.loads(pickle.dumps(metric)).output == "features"


def test_the_picture_shows_the_retrieved_videos() -> None:
    metric, _ = evaluate(FULL, batches(*clips(2), [5, 5, 5], 2))
    row = metric.result_rows[0]
    assert len(metric.result_rows) == 2 and len(row.tiles) >= 5 and any(tile.correct for tile in row.tiles)
    assert row.tiles[0].frames[0].shape == (96, 96, 3)
    picture = metric.picture()
    assert picture.dtype == np.uint8 and picture.shape[2] == 3 and (picture != 255).any()
    assert evaluate(Retrieval, [clips()])[0].picture() is None
    metric.reset()
    assert metric.picture() is None
