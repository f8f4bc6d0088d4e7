"""A trained run talks, and answers a benchmark by the command, as it does in Python."""

from pathlib import Path

import pytest

from pretrain.chat.load import load_assistant
from pretrain.cli import main
from pretrain.questions.answers import read_answers
from pretrain.questions.synthetic import write_synthetic
from tests.helpers.paths import ROOT
from tests.helpers.runs import fit
from tests.helpers.videos import make
from tools.chat import main as chat


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    few = ["--trainer.max_steps=1", "--data.init_args.global_batch=2", "--data.init_args.val.init_args.samples=1"]
    recipe = ["-c", str(ROOT / "recipes/videochat2_instruct_tiny.yaml"), "--model.init_args.weights=null"]
    return fit(tmp_path_factory.mktemp("run"), recipe, *few)


def test_a_run_answers_a_benchmark_by_the_command_and_films_in_the_terminal(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assistant = load_assistant(str(run))
    assert (assistant.frames, assistant.size, assistant.reader is None) == (8, 32, False)
    write_synthetic(tmp_path / "shapes", 1, size=32)
    options = {"model.init_args.folder": run, "model.init_args.out": tmp_path / "out", "model.init_args.most": 3}
    options |= {"model.init_args.system": "", "model.init_args.likelihood": "true", "data.init_args.frames": 16}
    options |= {"data.init_args.questions.init_args.path": tmp_path / "shapes", "data.init_args.workers": 0}
    options |= {"trainer.accelerator": "cpu", "trainer.enable_progress_bar": "false"}
    main(["test", "-c", str(ROOT / "recipes/eval/mvbench.yaml"), *(f"--{k}={v}" for k, v in options.items())])
    said = capsys.readouterr().out
    answers = read_answers(tmp_path / "out")
    assert len(answers) == 20 and {answer.model for answer in answers} == {
        load_assistant(str(run), frames=16).identity()
    }
    assert all(len(answer.likelihoods) == len(answer.candidates) for answer in answers)
    assert "no average: 20 of 20 tasks, 20 of 4000 questions" in said and "likelihood" in said
    film = make(tmp_path / "film.mp4", frames=24)
    assert chat([film, film, "--model", str(run), "--question", "which way does it move?"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[film.mp4: 8 frames at ") and len(lines) == 3
    assert chat(["--model", str(tmp_path / "nothing"), "--question", "x"]) == 2
    assert "no checkpoint at" in capsys.readouterr().err
