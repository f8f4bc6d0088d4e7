"""The tiny stages of VideoChat2 learn colours and directions of moving shapes, in CPU minutes; a still frame gives no
direction away.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from datamodules import ShapeQuestions
from datamodules.clips.sampling import dense_centre
from pretrain.cli import main
from pretrain.export.load_run import load_objective
from pretrain.objectives import Converse
from tests.helpers.paths import ROOT

CLIPS = 256  # of the test
SECONDS = 120  # of processor time, for a stage


def train(folder: Path, stage: str, *options: str) -> tuple[str, float]:
    """The checkpoint of a stage, and the processor time that it took."""
    began = time.process_time()
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.accelerator=cpu"]
    place = [f"--trainer.logger.init_args.save_dir={folder}", "--data.init_args.workers=0"]
    main(["fit", "-c", str(ROOT / f"recipes/videochat2_{stage}_tiny.yaml"), *quiet, *place, *options])
    took = time.process_time() - began
    (run,) = folder.glob(f"videochat2_{stage}_tiny/checkpoints")
    return str(max(run.glob("*.ckpt"))), took


@pytest.fixture(scope="module")
def stages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, float]]:
    """Checkpoints of the stages, each of which starts from the one before."""
    folder, found = tmp_path_factory.mktemp("stages"), {}
    with torch.random.fork_rng():
        before: Sequence[str] = ()
        for stage in ("encoder", "connect", "instruct"):
            found[stage] = train(folder, stage, *before)
            before = (f"--model.init_args.weights={found[stage][0]}",)
    return found


def shapes(still: bool = False, **options: object) -> tuple[ShapeQuestions, torch.Tensor]:
    """Unseen videos, and their central clips `[V, C, T, H, W]`."""
    source = ShapeQuestions(CLIPS, size=32, noise=2, texture=0, seed=1, still=still, **options)
    frames = dense_centre(source.length, 8, 4)
    clips = [torch.from_numpy(source[i].content.frames(frames)) for i in range(CLIPS)]  # pyrefly: ignore
    return source, torch.stack(clips).permute(0, 4, 1, 2, 3)


def answers_right(model: Converse, ask: str, **options: object) -> float:
    """The share of answers that greedy generation would write word by word."""
    source, clips = shapes(ask=(ask,), **options)
    chats = [source[i].chat or [] for i in range(CLIPS)]
    rows = [model.row_encoder.row([(e.question, e.answer, e.instruction) for e in chat], None) for chat in chats]
    return model.predict({"video": clips, "name": [""] * CLIPS, "chat": rows})["exact"].mean().item()


def words_right(model: Converse, still: bool = False) -> dict[str, float]:
    """The share of captions, each `a COLOUR SHAPE moves DIRECTION`, whose word is the likeliest one."""
    source, clips = shapes(still=still)
    rows = [model.row_encoder.row([], str(source[i].text)) for i in range(CLIPS)]
    batch = {"video": clips, "name": [""] * CLIPS}
    with torch.no_grad():
        _, right, counted = model.token_errors(batch, rows, model.chat_batch(rows, packed=False))
    words = right.view(CLIPS, -1)[counted.view(CLIPS, -1) > 0].view(CLIPS, -1).float().mean(0)  # a caption's tokens
    assert len(words) == 6
    return {"colour": words[1].item(), "direction": words[4].item()}


def loaded(checkpoint: str) -> Converse:
    model, _ = load_objective(checkpoint)
    assert isinstance(model, Converse)
    return model


@pytest.mark.slow
def test_captions_name_colours_and_directions(stages: dict[str, tuple[str, float]]) -> None:
    checkpoint, seconds = stages["connect"]
    model = loaded(checkpoint)
    found, control = words_right(model), words_right(model, still=True)
    assert found["colour"] == 1 and found["direction"] >= 0.95
    assert control["direction"] < 0.4  # chance is 0.25
    assert seconds < SECONDS


@pytest.mark.slow
def test_questions_about_colours_and_directions_are_answered(stages: dict[str, tuple[str, float]]) -> None:
    checkpoint, seconds = stages["instruct"]
    model = loaded(checkpoint)
    assert answers_right(model, "colour") == 1 and answers_right(model, "direction") >= 0.95
    for ask, least in (("colour", 0.95), ("direction", 0.9)):
        assert answers_right(model, ask, wording="other") >= least
    # If the Q-Former read the answer, still frames would do as well.
    assert answers_right(model, "direction", still=True) < 0.4
    assert seconds < SECONDS
