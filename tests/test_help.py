"""The first page of help is short, quick, and lists options that the parser takes."""

import re
import subprocess
import sys

import pytest
import yaml

from pretrain.cli import main
from pretrain.help import COMMANDS, answers_help, for_parser
from tests.helpers.paths import ROOT

# A value for each option of the page whose example is none.
VALUES = {"N": "2", "X": "0.001", "NAME": "mine", "PATH": "recipes", "WHAT": "clip_b16", "RECIPE": "videomae_tiny"}


@pytest.mark.parametrize("command", ["fit", "validate", "test", "predict"])
def test_the_first_page_is_short(command: str, capsys: pytest.CaptureFixture) -> None:
    assert answers_help([command, "--help"])
    assert len(capsys.readouterr().out.splitlines()) <= 30
    assert not answers_help([command, "-c", "videomae_tiny"]) and not answers_help([command, "--help=all"])
    assert for_parser([command, "--help=all"]) == [command, "--help"]


def test_the_options_of_the_first_page_are_taken(capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.chdir(ROOT)
    answers_help(["fit", "--help"])
    options = re.findall(r"(--?[\w.]+)(\+?=| )([\w|-]+)", capsys.readouterr().out.partition("--print_config")[0])
    words = []
    for option, sign, value in options:
        if option in ("-c", "--ckpt_path") or value.startswith("trainer"):
            continue
        words += [f"{option}{sign.strip() or '='}{VALUES.get(value, value.split('|')[0])}"]
    assert len(words) > 15
    with pytest.raises(SystemExit) as stop:
        main(["fit", "-c", "videomae_tiny", *words, "--print_config"])
    assert stop.value.code == 0
    made = yaml.safe_load(capsys.readouterr().out)
    assert made["model"]["init_args"]["weights"] == "clip_b16" and made["data"]["init_args"]["micro_batch"] == 2


def test_help_imports_no_package() -> None:
    code = (
        "import sys; sys.argv = ['tubelet', 'fit', '--help']\nfrom pretrain.help import main\nmain()\n"
        "assert not {'torch', 'lightning', 'numpy', 'jsonargparse'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "--trainer.max_steps" in done.stdout


def test_all_commands_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert answers_help([]) and answers_help(["--help"])
    listed = capsys.readouterr().out
    assert all(re.search(rf"^  {name} ", listed, re.MULTILINE) for name in COMMANDS)
