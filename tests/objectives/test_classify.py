"""Classify and its probes: mixup, erasing, errors, trained parameters, and weights to start from."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import models
from pretrain.learning.mixup import Mix, blend
from pretrain.learning.random_erasing import Erase
from pretrain.learning.randomness import RandomKey
from pretrain.objectives import Classify
from pretrain.objectives.classify import read_rows

SIZES = {"width": 32, "depth": 2, "heads": 2, "mlp": 64, "patch": 8, "frames": 4, "size": 32}


def encoder(**options) -> models.VideoViT:
    return models.VideoViT(**SIZES, tubelet=2, **options)


def objective(classes: int = 5, **options) -> Classify:
    torch.manual_seed(0)
    return Classify(models.VideoClassifier(encoder(norm=False), classes, head_scale=1.0), **options)


def batch(label: torch.Tensor, rows: int = 4) -> dict:
    video = torch.randint(0, 256, (rows, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return {"video": video, "name": [f"folder/{i}.mp4" for i in range(rows)], "label": label}


def test_smoothed_targets_are_torchs_own() -> None:
    data = batch(torch.tensor([0, 4, 2, 2]))
    model = objective(smoothing=0.1)
    scores = model.model(model.normalize(data["video"]))
    expected = F.cross_entropy(scores, data["label"], label_smoothing=0.1)
    torch.testing.assert_close(model(data)["classes"], expected)
    plain = F.cross_entropy(scores, data["label"])
    torch.testing.assert_close(model.eval()(data)["classes"], plain)
    torch.testing.assert_close(model.losses_from_outputs(model.predict(data), data)["classes"], plain)


def test_several_labels_per_video() -> None:
    data = batch(torch.tensor([[0, 3], [1, -1], [-1, -1], [4, 0]]))
    model = objective(multi_label=True)
    target, counts = model.targets(data)
    assert target.tolist() == [[1, 0, 0, 1, 0], [0, 1, 0, 0, 0], [0] * 5, [1, 0, 0, 0, 1]] and counts.all()
    scores = model.model(model.normalize(data["video"]))
    torch.testing.assert_close(model(data)["classes"], F.binary_cross_entropy_with_logits(scores, target))


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (torch.tensor([0, 1, 5, 2]), "folder/2.mp4 has the label 5, and the model has 5 classes"),
        (torch.tensor([0, -1, 1, 2]), "folder/1.mp4 has the label -1"),
        (torch.tensor([[0, -1], [1, 2], [0, -1], [1, -1]]), r"folder/1.mp4 has the label \[1, 2\].*set multi_label"),
    ],
)
def test_a_wrong_label_names_the_video(label: torch.Tensor, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        objective().on_host(batch(label))
    padded = {**batch(label), "weight": torch.zeros(4)}
    assert objective().on_host(padded) is padded  # rows that only fill up a batch do not count


def test_a_label_outside_the_list_makes_no_loss_in_evaluation() -> None:
    model = objective().eval()
    some = model(batch(torch.tensor([0, -1, 3, -1])))["classes"]
    scores = model.predict(batch(torch.zeros(4)))["scores"]
    torch.testing.assert_close(some, F.cross_entropy(scores[[0, 2]], torch.tensor([0, 3])))


def test_blended_clips_have_the_returned_weights() -> None:
    """Clips of one colour each: pixels, and their mean, show the weights."""
    own, other = torch.zeros(64, 1, 2, 16, 16), torch.ones(64, 1, 2, 16, 16)
    for mix in (Mix(cutmix=0), Mix(mixup=0), Mix(), Mix(prob=0.5)):
        draws = [mix.draw(np.random.RandomState(i), 16, 16) for i in range(64)]
        made, share = blend(own, other, draws)
        torch.testing.assert_close(made.mean(dim=(1, 2, 3, 4)), 1 - share[:, 0])
        assert (made[:, :, :1] == made[:, :, 1:]).all(), "a box is the same in all frames"
        cut = torch.tensor([box is not None for _, box in draws])
        assert ((made == 0) | (made == 1))[cut].all()
        untouched = sum(share == 1.0 for share, _ in draws)
        assert (20 <= untouched <= 44) if mix.prob == 0.5 else untouched < 12


def test_partners_and_targets_have_the_same_weights() -> None:
    model = objective(mix=Mix())
    data = batch(torch.tensor([0, 1, 2, 3]))
    target, _ = model.targets(data)
    clips, mixed = model.augment(data["video"], target)
    plain = model.normalize(data["video"])
    assert torch.allclose(mixed.sum(dim=1), torch.ones(4)) and not torch.equal(mixed, target)
    share = mixed.gather(1, data["label"][:, None])[:, 0]
    torch.testing.assert_close(share, share.flip(0))
    torch.testing.assert_close(clips + clips.flip(0), plain + plain.flip(0), atol=1e-5, rtol=0)


@pytest.mark.parametrize("together", [False, True])
def test_pairs_are_within_a_rank(together: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any exchange of clips; each rank and each pair draws for itself."""
    data, target = batch(torch.arange(4)), torch.eye(5)[:4]
    model, weights = objective(mix=Mix(cutmix=0, together=together), global_batch=8), []
    model.random_key = RandomKey("train", 3)
    for rank in range(2):
        monkeypatch.setattr(Classify, "position", property(lambda self, rank=rank: (rank, 2)))
        clips, mixed = model.augment(data["video"], target)
        weight = mixed.gather(1, torch.arange(4)[:, None])
        torch.testing.assert_close(mixed, weight * target + (1 - weight) * target.flip(0))
        plain, weight = model.normalize(data["video"]), weight.view(4, 1, 1, 1, 1)
        torch.testing.assert_close(clips, weight * plain + (1 - weight) * plain.flip(0), atol=1e-5, rtol=1e-5)
        weights.append(weight.flatten().tolist())
    for own in weights:
        assert own[0] == own[3] and own[1] == own[2] and (own[0] == own[1]) == together
    assert weights[0] != weights[1]


def test_erasing_does_not_depend_on_accumulation() -> None:
    """Boxes of noise depend on the index in the global batch: two micro-batches give the same as one."""
    data = batch(torch.arange(4))
    whole, parts = objective(erase=Erase(prob=1.0), global_batch=4), objective(erase=Erase(prob=1.0), global_batch=4)
    whole.random_key = RandomKey("train", 3)
    expected, _ = whole.augment(data["video"], torch.zeros(4, 5))
    for part in range(2):
        parts.random_key = RandomKey("train", 3, part, 2)
        made, _ = parts.augment(data["video"][2 * part : 2 * part + 2], torch.zeros(2, 5))
        assert torch.equal(made, expected[2 * part : 2 * part + 2])
    assert not torch.equal(expected, whole.normalize(data["video"]))


def test_erasing_is_one_box_of_noise() -> None:
    video = torch.zeros(200, 3, 4, 32, 32)
    made = Erase(prob=0.25)(video.clone(), lambda i: np.random.RandomState(i))
    changed = (made != 0).any(dim=1)  # [B, T, H, W]
    assert (changed == changed[:, :1]).all(), "another box in another frame"
    erased = changed.flatten(1).any(dim=1)
    assert 30 <= erased.sum() <= 70
    area = changed[erased, 0].float().mean(dim=(1, 2))
    assert area.min() > 0.01 and area.max() < 0.36
    for clip in changed[erased, 0]:
        rows, columns = clip.any(dim=1).sum(), clip.any(dim=0).sum()
        assert clip.sum() == rows * columns
    noise = made[made != 0]
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1) < 0.02


@pytest.mark.parametrize("kind", [models.LinearProbe, models.AttentiveProbe])
@pytest.mark.parametrize("make", [lambda: encoder(drop_path=0.5), lambda: models.ViCLIPVision(**SIZES, drop_path=0.5)])
def test_a_probe_trains_all_but_its_encoder(kind: type, make) -> None:
    """Also with stochastic depth: the encoder runs in eval mode."""
    probe = kind(make(), 5, **({"heads": 2} if kind is models.AttentiveProbe else {}))
    model = Classify(probe).train()
    data = batch(torch.tensor([0, 1, 2, 3]))
    before = {name: tensor.clone() for name, tensor in probe.encoder.state_dict().items()}
    optimizer = model.optim.build(model)
    first, again = model(data)["classes"], model(data)["classes"]
    torch.testing.assert_close(first, again)
    first.backward()
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without and all(p.grad is None for p in probe.encoder.parameters())
    optimizer.step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in probe.encoder.state_dict().items())
    made = model.eval().predict(data)
    assert made["scores"].shape == (4, 5) and made["features"].shape == (4, 32)


def test_freezing_by_name() -> None:
    model = objective(freeze=["encoder.patch_embed", "encoder.blocks.0"])
    still = {name for name, p in model.named_parameters() if not p.requires_grad}
    assert still and all(name.startswith(("model.encoder.patch_embed", "model.encoder.blocks.0")) for name in still)
    with pytest.raises(ValueError, match="begins 'backbone'"):
        objective(freeze=["backbone"])


def test_rows_of_a_head(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[3, 1]")
    (tmp_path / "a.txt").write_text("3\n1\n")
    (tmp_path / "bad.txt").write_text("three\n")
    assert read_rows(str(tmp_path / "a.json")) == read_rows(str(tmp_path / "a.txt")) == [3, 1]
    with pytest.raises(ValueError, match="is no list of the numbers of rows"):
        read_rows(str(tmp_path / "bad.txt"))
    large = objective(classes=5)
    for rows, expected in {str(tmp_path / "a.json"): [3, 1], "first": [0, 1]}.items():
        small = objective(classes=2, head_rows=rows)
        small.weights = large.state_dict()
        models.load_weights(small, large.state_dict(), small.head_rows_to_load())
        assert torch.equal(small.model.head.weight, large.model.head.weight[expected])
