"""Distances of features and CLIPSIM: against torchmetrics, closed forms and by hand; sets that differ are refused."""

import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from safetensors.torch import save_file
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import poly_mmd

from pretrain.metrics import CLIPSIM, FeatureDistance
from pretrain.metrics.bootstrap import estimate_mean
from pretrain.metrics.feature_distance import estimate_distance, kernel_distances
from pretrain.metrics.feature_file import Header, read_features, write_features
from tests.helpers.metric_cases import WIDTH, batches, evaluate, over_ranks, vector


def normal(count: int, width: int = WIDTH, seed: int = 0, mean: float = 0.0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


@pytest.mark.parametrize("width", [8, 80])
def test_distances_are_torchmetrics(width: int) -> None:
    """At fewer and at more channels than videos."""
    a, b = normal(50, width), 1.3 * normal(50, width, 1, mean=0.2)
    assert estimate_distance(a, b, draws=0).value == pytest.approx(float(poly_mmd(a, b)), rel=1e-9)
    theirs = _compute_fid(a.mean(0), torch.cov(a.T), b.mean(0), torch.cov(b.T))
    assert estimate_distance(a, b, "frechet", draws=0).value == pytest.approx(float(theirs), rel=1e-4)


def test_frechet_of_known_gaussians() -> None:
    """Sets with exactly the moments (0, 1) and (m, s^2) have the distance D ((s - 1)^2 + m^2)."""
    white = torch.linalg.qr(normal(64, 8) - normal(64, 8).mean(0)).Q * 63**0.5
    found = estimate_distance(white, 3 * white + 0.5, "frechet", draws=0).value
    assert found == pytest.approx(8 * (2**2 + 0.5**2), rel=1e-9)


def test_the_kernel_distance_is_the_mean_over_pairs_of_two_videos() -> None:
    """For sets of unequal numbers, and for a resampled set, whose copies of one video are no pair."""
    a, b, times = normal(5, 3), normal(7, 3, 1, mean=0.3), [2, 0, 1, 1, 1]
    kernel = lambda x, y: float((x @ y / 3 + 1) ** 3)  # noqa: E731

    def mean(pairs: list[tuple]) -> float:
        return sum(kernel(x, y) for x, y in pairs) / len(pairs)

    rows = [i for i, n in enumerate(times) for _ in range(n)]
    within_a = mean([(a[i], a[j]) for i in rows for j in rows if i != j])
    within_b = mean([(b[i], b[j]) for i in range(7) for j in range(7) if i != j])
    across = mean([(a[i], y) for i in rows for y in b])
    weights = torch.tensor([times], dtype=torch.float64), torch.ones(1, 7, dtype=torch.float64)
    assert float(kernel_distances(a, b, *weights)) == pytest.approx(within_a + within_b - 2 * across, rel=1e-9)


def test_the_interval_covers_the_distance() -> None:
    """In 24 experiments the interval of 95 % misses the distance of the populations a few times at most."""
    true = estimate_distance(normal(3000, 4), normal(3000, 4, 1, mean=0.7), draws=0).value
    hits = 0
    for seed in range(24):
        found = estimate_distance(
            normal(60, 4, 2 * seed + 2), normal(60, 4, 2 * seed + 3, mean=0.7), draws=200, seed=seed
        )
        hits += found.low <= true <= found.high
    assert hits >= 19


def test_equal_populations_are_at_zero() -> None:
    found = estimate_distance(normal(100), normal(70, seed=1))
    assert found.low < 0 < found.high and found == estimate_distance(normal(100), normal(70, seed=1))
    shifted = estimate_distance(normal(100), normal(70, seed=1, mean=1.0))
    assert shifted.low > found.high


def test_a_mean_and_its_interval() -> None:
    found = estimate_mean(normal(400, 1)[:, 0])
    half = 1.96 / 400**0.5
    assert found.value == pytest.approx(float(normal(400, 1).mean()))
    assert found.high - found.low == pytest.approx(2 * half, rel=0.2)


@pytest.mark.parametrize(
    ("real", "generated", "said"),
    [
        (normal(1), normal(5), "the real features"),
        (normal(5), normal(5, 3), "two models"),
        (normal(5), normal(5) * float("nan"), "not all finite"),
    ],
)
def test_sets_without_a_distance(real: torch.Tensor, generated: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        estimate_distance(real, generated)


def clips(count: int, views: int = 1, seed: int = 0, size: int = 32, mean: float = 0.0) -> tuple[dict, dict]:
    """Features of `count` videos that lie near their captions."""
    texts = [f"caption {i}" for i in range(count)]
    near = torch.stack([vector(text) for text in texts]).repeat(views, 1)
    features = F.normalize(near + 0.3 * normal(count * views, seed=seed, mean=mean).float(), dim=1)
    video = torch.zeros(count * views, 3, 4, size, size, dtype=torch.uint8)
    return {"features": features}, {
        "name": [f"{i}.mp4" for i in range(count)] * views,
        "text": texts * views,
        "video": video,
    }


def test_generated_videos_against_saved_real_ones(tmp_path: Path) -> None:
    """The result is the functions'; batches, views and ranks change nothing."""
    file = str(tmp_path / "real.safetensors")
    real, generated = clips(20, views=2), clips(24, views=2, seed=3, mean=0.5)
    _, saved = evaluate(partial(FeatureDistance, 8.0, save=file), batches(*real, [20], views=2))
    assert saved == {"videos": 20}
    metric = partial(FeatureDistance, 8.0, reference=file, draws=20)
    made, found = evaluate(metric, batches(*generated, [24], views=2))
    means = [part["features"].unflatten(0, (2, -1)).mean(0) for part, _ in (real, generated)]
    order = [torch.tensor(sorted(range(len(rows)), key=lambda i: f"{i}.mp4")) for rows in means]
    hand = estimate_distance(*(rows[at] for rows, at in zip(means, order, strict=True)), draws=20)
    assert [float(found[name]) for name in ("kernel", "kernel_low", "kernel_high")] == pytest.approx(
        list(hand), rel=1e-4
    )
    assert made.facts["videos"] == 24 and made.facts["real videos"] == 20
    shares = [batches(*generated, [5, 7, 12], views=2)[::2], batches(*generated, [5, 7, 12], views=2)[1:2]]
    for rank in over_ranks([(metric, shares)])[0]:
        assert {name: float(value) for name, value in rank.items()} == pytest.approx(
            {name: float(value) for name, value in found.items()}, rel=1e-6
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"extractor": "other"}, "extractor"),
        ({"fps": 25.0}, "fps 25.0"),
        ({"height": 64}, "height 64"),
        ({"frames": 16}, "frames 16"),
        ({"output": "tokens"}, "output"),
        ({"clips": 4}, "clips 4"),
    ],
)
def test_sets_of_other_clips_or_models_are_refused(tmp_path: Path, change: dict, said: str) -> None:
    file = tmp_path / "real.safetensors"
    metric, _ = evaluate(partial(FeatureDistance, 8.0, save=str(file)), [clips(20)])
    features, header = read_features(file)
    write_features(file, features, replace(header, **change))
    with pytest.raises(ValueError, match=f"made with {said}"):
        evaluate(partial(FeatureDistance, 8.0, reference=str(file)), [clips(20)])
    assert metric.facts["videos"] == 20


def test_only_the_biased_distance_needs_equal_numbers(tmp_path: Path) -> None:
    file = str(tmp_path / "real.safetensors")
    evaluate(partial(FeatureDistance, 8.0, save=file), [clips(20)])
    evaluate(partial(FeatureDistance, 8.0, reference=file, draws=2), [clips(24)])
    with pytest.raises(ValueError, match="videos 20"):
        evaluate(partial(FeatureDistance, 8.0, reference=file, kinds=["frechet"]), [clips(24)])


def test_files_that_hold_no_features(tmp_path: Path) -> None:
    (tmp_path / "junk").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="holds no features"):
        read_features(tmp_path / "junk")
    header = json.dumps(asdict(Header("a", "pooled", 8, 32, 32, 8.0, 1, 2)))
    for features, about in (
        (torch.tensor([[1.0, torch.nan]]), header),
        (torch.ones(2), header),
        (torch.ones(1, 2).int(), header),
        (torch.ones(1, 2), "[" * 100_000),
        (torch.ones(1, 2), "[]"),
    ):
        save_file({"features": features}, tmp_path / "odd", {"header": about})
        with pytest.raises(ValueError, match="odd holds no features"):
            read_features(tmp_path / "odd")
    with pytest.raises(FileNotFoundError, match="make them first"):
        read_features(tmp_path / "none")
    with pytest.raises(ValueError, match="nothing to do"):
        FeatureDistance(8.0)
    with pytest.raises(ValueError, match="knows the kinds kernel, frechet"):
        FeatureDistance(8.0, save="x", kinds=["fvd"])
    with pytest.raises(ValueError, match="frames a second"):
        FeatureDistance(0.0, save="x")


def test_clips_of_two_sizes_are_refused(tmp_path: Path) -> None:
    other = clips(20, size=16)
    with pytest.raises(MisconfigurationException, match="different sizes"):
        evaluate(partial(FeatureDistance, 8.0, save=str(tmp_path / "x")), [clips(20), other])


def test_clipsim_by_hand() -> None:
    outputs, batch = clips(9, views=3)
    outputs = {"features": 2 * outputs["features"]}  # features need not be of unit length
    texts = torch.stack([vector(text) for text in batch["text"]])
    cosines = F.cosine_similarity(outputs["features"], texts)
    for sizes in ([9], [2, 3, 4]):
        made, found = evaluate(CLIPSIM, batches(outputs, batch, sizes, views=3))
        assert float(found["clipsim"]) == pytest.approx(float(cosines.mean()), rel=1e-5)
        assert found["clipsim_low"] < found["clipsim"] < found["clipsim_high"]
        assert made.facts == {"videos": 9, "views": 3}
    swapped = {**batch, "text": [*batch["text"][1:], batch["text"][0]]}
    assert evaluate(CLIPSIM, [(outputs, swapped)])[1]["clipsim"] < found["clipsim_low"]


def test_clipsim_needs_one_text_a_video() -> None:
    outputs, batch = clips(3)
    with pytest.raises(MisconfigurationException, match="has 2 texts"):
        evaluate(CLIPSIM, [(outputs, {**batch, "text": [["a", "b"]] * 3})])
