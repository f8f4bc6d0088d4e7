"""A wrong option, value or class is one sentence: the whole name of the option, the cause, and the nearest name."""

import re

import pytest

from pretrain.cli import main
from pretrain.engine.option_errors import OptionError, said
from pretrain.errors import reports_errors

# Options after `fit -c videomae_tiny`, and what is said. All ways that lead to a class inside a class are among them.
WRONG = {
    "--trainer.max_stpes=3": "there is no option --trainer.max_stpes: did you mean --trainer.max_steps",
    "--modle.weights=x": "there is no option --modle.weights: did you mean --model?",
    "--trainer.max_steps=many": "trainer.max_steps is a whole number, not many",
    "--float32_matmul_precision=hi": "float32_matmul_precision is one of highest, high, medium, not hi",
    "--model=VideoMEA": "model: there is no class VideoMEA: did you mean VideoMAE",
    "--model mine.Method": "model: No module named 'mine', of the class mine.Method",
    "--model.encoder=VideoVit": "model.encoder: there is no class VideoVit: did you mean VideoViT?",
    "--model.encoder.widht=3": "model.encoder: VideoViT takes no widht: did you mean width?",
    "--model.encoder.no.such=3": "model.encoder: VideoViT takes no no.such",
    "--model.init_args.mask.init_args.ratio=high": "model.mask.ratio is a number, not high",
    "--model.optim.base_lr=fast": "model.optim.base_lr is a number or null, not fast",
    "--data.train=Shardz": "data.train: there is neither a class nor a path Shardz: did you mean Shards?",
    "--data my_videos": "data: there is neither a class nor a path my_videos",
    "--trainer.callbacks+=EMA --trainer.callbacks.dcay=3": "trainer.callbacks: EMA takes no dcay: did you mean decay?",
    "-c {trainer:{max_stps:3}}": "fit takes no trainer.max_stps in a recipe: did you mean trainer.max_steps",
    "-c {model:{init_args:{encoder:{init_args:{widht:3}}}}}": "did you mean width? (in a recipe)",
}


FAST = ("--model.encoder.widht", "--data.train", "-c {trainer")


@pytest.mark.parametrize(
    "option", [pytest.param(o, marks=[pytest.mark.slow] * (not o.startswith(FAST))) for o in WRONG]
)
def test_a_wrong_option_is_one_sentence(option: str, capsys: pytest.CaptureFixture) -> None:
    words = option.replace(":{", ": {").replace(":3", ": 3") if option.startswith("-c ") else option
    first, _, rest = words.partition(" ")
    words = [first, *([rest] if first == "-c" else rest.split())]
    assert reports_errors(main)(["fit", "-c", "videomae_tiny", *words]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and WRONG[option] in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["fit"], "fit needs a recipe: -c NAME"),
        (["fti", "-c", "videomae_tiny"], "there is no command fti: did you mean fit?"),
        (["fit", "-c", "videomae_tin"], "no recipe videomae_tin: did you mean videomae_tiny"),
        (["export", "--two", "x"], "there is no option --two: did you mean --to"),
        pytest.param(
            ["fit", "-c", "videomae_tiny", "--trainer.accelerator=cpu", "--trainer.devices=-3x"],
            "should be an int > 0",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ["fit", "-c", "videomae_tiny", "--model.encoder.tubelet=0"],
            "tubelet is 0: it must be at least 1",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_wrong_command_is_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture) -> None:
    assert reports_errors(main)(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and sentence in error and len(error) < 200


def test_the_parser_s_own_message_is_the_cause() -> None:
    """`--debug` shows it."""
    with pytest.raises(OptionError) as error:
        main(["fit", "-c", "videomae_tiny", "--model.encoder.widht=3"])
    assert re.search(r"Union subtypes(.|\n)*'widht' is not accepted", str(error.value.__cause__))


def test_a_class_that_is_no_objective_gets_the_remedy() -> None:
    message = 'Parser key "model":\n  Import path plain.Plain does not correspond to a subclass of Objective'
    assert said(message).endswith(
        "subclass of Objective: a method subclasses pretrain.objectives.Objective, as docs/own.md shows"
    )


def test_a_message_of_another_form_stays() -> None:
    assert said("argument --to: expected one argument") == "argument --to: expected one argument"
    assert said('Parser key "a.b":\n  too large by 3') == "a.b: too large by 3"
