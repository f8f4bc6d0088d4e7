"""Two ranks equal one: the same global batch over two gloo processes gives the weights of one process.

The two are started as `trainer/gpu8.yaml` starts eight.
"""

from pathlib import Path

import pytest
import torch

from tests.helpers.methods import METHODS
from tests.helpers.runs import ROOT, arguments, fit, losses, run_together, weights, without_key_bias

# Methods that compare or blend the samples of a batch: ranks share one batch, accumulated micro-batches do not.
COMPARED = ("viclip", "vilp", "umt2", "internvideo", "align")
# A chat model's loss is the mean over the tokens of all ranks, which accumulated micro-batches weight equally.
COUPLED = ("finetune", "converse", *COMPARED)
SLOW = ("vilp", "umt2", "internvideo", "lavie", "align", "converse")


@pytest.fixture(scope="module")
def two(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of two ranks, one for each method of this test session."""
    at = tmp_path_factory.mktemp("two")
    tested = {item.callspec.params["method"] for item in request.session.items if item.module is request.module}
    run_together([_command(at / method, method) for method in sorted(tested)])
    return at


def _command(folder: Path, method: str) -> list[str]:
    folder.mkdir()
    parts = [] if method in COUPLED else ["--data.init_args.micro_batch=1"]  # accumulates twice
    node = ["-c", str(ROOT / "recipes/trainer/gpu8.yaml")]
    here = ["--trainer.accelerator=cpu", "--trainer.devices=2", "--trainer.precision=32-true"]
    return arguments(folder, [*METHODS[method], *node], "--data.init_args.views=2", *here, *_noted(folder), *parts)


@pytest.mark.parametrize("method", [pytest.param(m, marks=[pytest.mark.slow] * (m in SLOW)) for m in METHODS])
def test_two_ranks_equal_one(two: Path, tmp_path: Path, method: str) -> None:
    one = fit(tmp_path, METHODS[method], "--data.init_args.views=2", *_noted(tmp_path))
    if method not in COMPARED:  # 3 videos: two on one rank, one on the other
        found = [losses(folder)["val", 6] for folder in (tmp_path, two / method)]
        # Masks of evaluation are drawn per batch, and two ranks have other batches than one process.
        assert found[0] == pytest.approx(found[1], rel=1e-4 if method == "finetune" else 2e-2)
    ours, theirs = weights(one, 6), weights(two / method / "run", 6)
    assert ours.keys() == theirs.keys()
    assert method != "lavie" or any(".temporal_res." in name for name in ours)  # its convolutions over time, too
    for name, tensor in ours.items():
        tensor, other = without_key_bias(name, tensor), without_key_bias(name, theirs[name])
        torch.testing.assert_close(other, tensor, atol=2e-5, rtol=1e-3, msg=lambda m, name=name: f"{name}: {m}")


def _noted(folder: Path) -> list[str]:
    return ["--trainer.callbacks+=tests.helpers.runs.LossRecorder", f"--trainer.callbacks.path={folder}/losses.tsv"]
