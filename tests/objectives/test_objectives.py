"""Properties of every method: losses without a Trainer, a gradient for every trained parameter, masks by step."""

import pytest
import torch

from pretrain.export.load_run import build
from pretrain.learning.batch import without_padding
from pretrain.learning.randomness import RandomKey
from pretrain.objectives import Objective
from tests.helpers.methods import EACH_METHOD, resolved


@pytest.fixture
def small(capsys: pytest.CaptureFixture, recipe: list[str]) -> tuple[Objective, dict]:
    """A method at 4 frames of 32 pixels and a batch for it; the same weights every time."""
    truth = resolved(capsys, recipe, "--data.init_args.frames=4", "--data.init_args.size=32")
    torch.manual_seed(0)
    video = torch.randint(0, 256, (4, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    text = ["a red circle moves left", "a green square moves up", "a blue cross moves right", "a yellow triangle"]
    batch = {"video": video, "name": list("abcd"), "text": text, "label": torch.arange(4)}
    return build(truth["model"]), batch


@EACH_METHOD
def test_losses_need_no_trainer_and_are_finite(small) -> None:
    objective, batch = small
    losses = objective(batch)
    assert losses and all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())


@EACH_METHOD
def test_every_trained_parameter_gets_a_gradient(small) -> None:
    objective, batch = small
    with torch.no_grad():
        for parameter in objective.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.02)  # a parameter of 0 may block all gradients before its first step
    sum(objective(batch).values()).backward()
    without = [n for n, p in objective.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not without


@EACH_METHOD
def test_masks_follow_the_step_and_nothing_else(small) -> None:
    objective, batch = small
    objective.random_key = RandomKey("train", 5)
    first = {name: loss.item() for name, loss in objective(batch).items()}
    torch.manual_seed(99)
    again = {name: loss.item() for name, loss in objective(batch).items()}
    objective.random_key = RandomKey("train", 6)
    other = {name: loss.item() for name, loss in objective(batch).items()}
    assert first == again and first != other


@EACH_METHOD
def test_normalised_floats_and_bytes_give_the_same_losses(small) -> None:
    objective, batch = small
    bytes_ = objective(batch)
    floats = objective({**batch, "video": objective.normalize(batch["video"])})
    for name, loss in bytes_.items():
        torch.testing.assert_close(loss, floats[name])


@EACH_METHOD
def test_recompute_changes_no_gradient(small) -> None:
    objective, batch = small
    sum(objective(batch).values()).backward()
    plain = {name: p.grad.clone() for name, p in objective.named_parameters() if p.grad is not None}
    objective.zero_grad()
    objective.recompute = True
    objective.configure_model()
    sum(objective(batch).values()).backward()
    for name, gradient in plain.items():
        torch.testing.assert_close(objective.get_parameter(name).grad, gradient)


@EACH_METHOD
def test_predict_returns_a_row_per_video(small) -> None:
    objective, batch = small
    made = objective.eval().predict(batch)
    assert made and all(len(tensor) == 4 and tensor.isfinite().all() for tensor in made.values())


@EACH_METHOD
def test_padding_does_not_count_in_evaluation(small) -> None:
    _, batch = small
    padded = {**batch, "weight": torch.tensor([1.0, 0.0, 1.0, 0.0])}
    kept, rows = without_padding(padded)
    assert rows == 2 and kept["name"] == ["a", "c"] and torch.equal(kept["video"], batch["video"][[0, 2]])
    kept, rows = without_padding({**batch, "weight": torch.zeros(4)})
    assert rows == 0 and kept["name"] == ["a"]
