"""Every command of README, docs and recipes' headers is read by its parser; tiny runs are in `test_journeys.py`."""

import re
import sys
from pathlib import Path

import pytest

from tests.helpers.commands import commands_of_page, commands_of_recipe, read_by_parser, words_of
from tests.helpers.paths import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "recipes/README.md"]
RECIPES = sorted((ROOT / "recipes").rglob("*.yaml"))


def unique(lines: list[str]) -> list[list[str]]:
    """The words of each command that is ours, once; not of names of commands alone."""
    found = {tuple(words): words for line in lines if (words := words_of(line)) and len(words) > 2}
    return list(found.values())


def read_all(lines: list[str], place: Path, patch: pytest.MonkeyPatch) -> None:
    """Has the commands read from a folder with a user's own recipe and module, and the recipe of a run."""
    own = re.search(r"```python title=\"mine.py\"\n(.*?)```", (ROOT / "docs/own.md").read_text(), re.DOTALL)
    assert own is not None
    (place / "mine.py").write_text(own[1])
    (place / "mine.yaml").write_text("trainer: {log_every_n_steps: 7}\n")
    (place / "runs/mine").mkdir(parents=True)
    (place / "runs/mine/config.yaml").write_text((ROOT / "recipes/videomae_tiny.yaml").read_text())
    patch.chdir(place)
    patch.syspath_prepend(str(place))
    patch.setattr(sys, "dont_write_bytecode", True)
    wrong = []
    for words in unique(lines):
        try:
            read_by_parser(words, patch)
        except (Exception, SystemExit) as error:
            wrong.append(f"{' '.join(words)}: {error}")
    assert not wrong, "\n".join(wrong)


def test_the_commands_of_tools_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for page in PAGES for line in commands_of_page(page)]
    lines += [line for recipe in RECIPES for line in commands_of_recipe(recipe)]
    tools = [line for line in lines if (words := words_of(line)) and words[0] != "pretrain"]
    assert len(unique(tools)) > 40
    read_all(tools, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    "page",
    [pytest.param(p, marks=pytest.mark.slow, id=p.stem) for p in PAGES],
)
def test_the_commands_of_a_page_are_read(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for line in commands_of_page(page) if (words := words_of(line)) and words[0] == "pretrain"]
    read_all(lines, tmp_path, monkeypatch)


@pytest.mark.slow
def test_the_commands_of_recipes_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line for recipe in RECIPES for line in commands_of_recipe(recipe)]
    ours = [line for line in lines if (words := words_of(line)) and words[0] == "pretrain"]
    assert len(unique(ours)) > 100
    read_all(ours, tmp_path, monkeypatch)


def test_commands_are_found() -> None:
    assert "tubelet fit -c videomae_b --data my/videos" in [
        line.partition("  ")[0] for line in commands_of_page(ROOT / "README.md")
    ]
    found = commands_of_recipe(ROOT / "recipes/eval/retrieval.yaml")
    assert any(line.endswith("-c recipes/eval/retrieval.yaml --ckpt_path FILE") for line in found), found
    assert words_of("python -m pretrain test with the same options") is None
