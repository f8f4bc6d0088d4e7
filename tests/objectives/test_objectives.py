"""What every method owes: losses without a Trainer, gradients for all that trains, masks that follow the step."""

import pytest
import torch
import yaml

from pretrain.cli import main
from pretrain.export.load_run import build
from pretrain.learning.batch import without_padding
from pretrain.learning.randomness import RandomKey
from pretrain.objectives import Objective
from tests.helpers.paths import ROOT

# A row a method. It buys the tests here, and those of resuming and of ranks.
ROWS = {
    "finetune": ["-c", str(ROOT / "recipes/finetune_tiny.yaml"), "--model.init_args.mix.prob=1"],
    "internvideo": ["-c", str(ROOT / "recipes/internvideo_mm_tiny.yaml")],
    "videomae": ["-c", str(ROOT / "recipes/videomae_tiny.yaml")],
    "umt": ["-c", str(ROOT / "recipes/umt_tiny.yaml")],
    "umt2": ["-c", str(ROOT / "recipes/umt2_tiny.yaml")],
    "viclip": ["-c", str(ROOT / "recipes/viclip_tiny.yaml")],
    "vilp": ["-c", str(ROOT / "recipes/vilp_tiny.yaml")],
}
EACH = pytest.mark.parametrize("recipe", ROWS.values(), ids=list(ROWS))


def resolved(capsys: pytest.CaptureFixture, recipe: list[str], *more: str) -> dict:
    """The whole truth about a recipe, as `--print_config` tells it."""
    with pytest.raises(SystemExit) as stop:
        main(["fit", *recipe, *more, "--print_config"])
    assert stop.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


@pytest.fixture
def small(capsys: pytest.CaptureFixture, recipe: list[str]) -> tuple[Objective, dict]:
    """A method at 4 frames of 32 pixels and a batch for it; the same weights every time."""
    truth = resolved(capsys, recipe, "--data.init_args.frames=4", "--data.init_args.size=32")
    torch.manual_seed(0)
    video = torch.randint(0, 256, (4, 3, 4, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    text = ["a red circle moves left", "a green square moves up", "a blue cross moves right", "a yellow triangle"]
    batch = {"video": video, "name": list("abcd"), "text": text, "label": torch.arange(4)}
    return build(truth["model"]), batch


@EACH
def test_losses_need_no_trainer_and_are_finite(small) -> None:
    objective, batch = small
    losses = objective(batch)
    assert losses and all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())


@EACH
def test_every_trained_parameter_gets_a_gradient(small) -> None:
    objective, batch = small
    with torch.no_grad():
        for parameter in objective.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.02)  # what starts at 0 may let nothing through before its first step
    sum(objective(batch).values()).backward()
    without = [n for n, p in objective.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
    assert not without


@EACH
def test_masks_follow_the_step_and_nothing_else(small) -> None:
    objective, batch = small
    objective.random_key = RandomKey("train", 5)
    first = {name: loss.item() for name, loss in objective(batch).items()}
    torch.manual_seed(99)
    again = {name: loss.item() for name, loss in objective(batch).items()}
    objective.random_key = RandomKey("train", 6)
    other = {name: loss.item() for name, loss in objective(batch).items()}
    assert first == again and first != other


@EACH
def test_normalised_floats_and_bytes_give_the_same_losses(small) -> None:
    objective, batch = small
    bytes_ = objective(batch)
    floats = objective({**batch, "video": objective.normalize(batch["video"])})
    for name, loss in bytes_.items():
        torch.testing.assert_close(loss, floats[name])


@EACH
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


@EACH
def test_predict_is_a_row_a_video(small) -> None:
    objective, batch = small
    made = objective.eval().predict(batch)
    assert made and all(len(tensor) == 4 and tensor.isfinite().all() for tensor in made.values())


@EACH
def test_padding_does_not_count_in_evaluation(small) -> None:
    _, batch = small
    padded = {**batch, "weight": torch.tensor([1.0, 0.0, 1.0, 0.0])}
    kept, rows = without_padding(padded)
    assert rows == 2 and kept["name"] == ["a", "c"] and torch.equal(kept["video"], batch["video"][[0, 2]])
    kept, rows = without_padding({**batch, "weight": torch.zeros(4)})
    assert rows == 0 and kept["name"] == ["a"]
