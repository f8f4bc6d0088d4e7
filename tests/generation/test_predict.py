"""`python -m pretrain predict` generates the films of a file, whatever the number of processes."""

from pathlib import Path

import pytest

from pretrain.cli import main
from pretrain.generation.predict import Prompts
from pretrain.generation.tiny import write_tiny
from tests.helpers.paths import ROOT
from tests.helpers.runs import run_together


@pytest.mark.slow
def test_two_processes_share_the_films_of_one(tmp_path: Path) -> None:
    write_tiny(tmp_path / "weights", stages=("base",))
    prompts = tmp_path / "prompts.csv"
    prompts.write_text("prompt,seed,name\na red circle,1,a\na blue square,2,b\na green star,3,c\n")

    def words(out: str, devices: int) -> list[str]:
        return [
            *("predict", "-c", str(ROOT / "recipes/eval/generate.yaml")),
            *(f"--model.init_args.folder={tmp_path / 'weights'}", f"--model.init_args.out={tmp_path / out}"),
            *("--model.init_args.stages=[base]", "--data.init_args.stages=[base]", "--model.init_args.steps={all: 1}"),
            *(f"--data.init_args.file={prompts}", "--data.init_args.frames=2"),
            *("--data.init_args.height=16", "--data.init_args.width=16"),
            *("--trainer.accelerator=cpu", f"--trainer.devices={devices}", "--trainer.logger=false"),
            *("--trainer.enable_progress_bar=false", f"--features.folder={tmp_path / out / 'features'}"),
        ]

    main(words("one", 1))
    run_together([words("two", 2)])
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "one" / name).read_bytes()


def test_each_line_is_in_one_share(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\n\ntwo\n")
    data = Prompts(str(tmp_path / "prompts.txt"), seed=5)
    data.setup("predict")
    assert [(name, request.prompt, request.seed) for name, request in data.films] == [
        ("0000-one", "one", 5),
        ("0001-two", "two", 5),
    ]
    assert [batch["name"] for batch in data.predict_dataloader()] == [["0000-one"], ["0001-two"]]
