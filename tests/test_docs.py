"""The pages in docs/: commands are read by the parser, code runs as it is written, and links lead somewhere."""

import itertools
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from pretrain.cli import main
from pretrain.engine.short_options import written_out
from tests.helpers.paths import ROOT
from tests.helpers.runs import SMALL

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "recipes/README.md"]
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
COMMANDS = ("fit", "validate", "test", "predict")


def commands(page: Path) -> list[str]:
    """The commands of a page's shell blocks, without comments, each in one line."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").split("\n")
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def words_of(line: str) -> list[str] | None:
    """The words of a command of ours that takes recipes; None: another, or one that is left open."""
    words = shlex.split(line, comments=True)
    for start in (["tubelet"], ["python", "-m", "pretrain"]):
        if words[: len(start)] == start and words[len(start) :][:1] and words[len(start)] in COMMANDS:
            return None if "..." in words or "RECIPE" in words else words[len(start) :]
    return None


@EACH_PAGE
def test_commands_name_recipes_that_are_there(page: Path) -> None:
    """Short forms are written out, which fails for an unknown recipe."""
    for line in commands(page):
        words = words_of(line)
        if words is not None:
            given = [word for option, word in itertools.pairwise(words) if option in ("-c", "--config")]
            ours = [name for name in given if not name.startswith(("mine", "my", "runs/"))]
            written_out([words[0], *(word for name in ours for word in ("-c", name))])


@EACH_PAGE
def test_files_that_a_page_links_are_there(page: Path) -> None:
    found = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    made = {"recipes.md", "security.md", "changes.md"}  # by tools/site/hook.py
    missing = [link for link in found if "://" not in link and not (page.parent / link).exists() and link not in made]
    assert not missing


def test_extras_are_listed_and_named_by_the_way_they_are_installed() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    rows = re.findall(r"^\| (`.*?`) \|", (ROOT / "docs/install.md").read_text(), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == extras.keys()
    rooms = ("models", "datamodules", "pretrain", "tools", "recipes", "docs", "docker", "tests")
    files = [path for room in rooms for path in (ROOT / room).rglob("*") if path.suffix in (".py", ".md", ".yaml")]
    for path in [ROOT / "README.md", ROOT / "Makefile", *files]:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"install\S* '?tubelet\[", text), (
            f"{path}: extras are installed with the checkout: '.[name]'"
        )
        named = {name for each in re.findall(r"'?\.\[([a-z0-9,]+)\]'", text) for name in each.split(",")}
        assert named <= extras.keys() | {"name"}, f"{path} names {named - extras.keys()}"


def test_the_parts_of_the_page_of_ones_own_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    page = (ROOT / "docs/own.md").read_text()
    code = re.search(r"```python title=\"mine.py\"\n(.*?)```", page, re.DOTALL)
    assert code is not None
    (tmp_path / "mine.py").write_text(code[1])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    lines = [line for line in commands(ROOT / "docs/own.md") if line.startswith("tubelet fit")]
    assert len(lines) == 1
    main([*shlex.split(lines[0])[1:], *SMALL, "--trainer.max_steps=2", "--trainer.val_check_interval=2"])
    assert "validation   val/loss" in caplog.text and "val/spread" in caplog.text
    assert list((tmp_path / "runs/mine").glob("checkpoints/*.ckpt"))
    config = (tmp_path / "runs/mine/config.yaml").read_text()
    assert "class_path: mine.ArrowOfTime" in config and "class_path: mine.Convolutions" in config
    assert "base_lr: 0.064" in config, "the recipe's other settings stay"


def test_the_messages_of_the_page_of_errors_are_those_of_the_code() -> None:
    """Each piece of a message between its variable parts stands in the code, whose strings may span lines."""
    files = [path for room in ("pretrain", "datamodules", "models") for path in (ROOT / room).rglob("*.py")]
    code = re.sub(r"\"\s*\n\s*f?\"", "", "\n".join(path.read_text(encoding="utf-8") for path in files))
    rows = re.findall(r"^\| (`.*?`.*?) \|", (ROOT / "docs/troubleshooting.md").read_text(), re.MULTILINE)
    assert len(rows) > 10
    for row in rows:
        for message in re.findall(r"`([^`]+)`", row):
            pieces = re.split(r"\.\.\.|\b[A-Z]{4,}\b", message)
            absent = [piece.strip(" ()") for piece in pieces if len(piece.strip(" ()")) > 3]
            absent = [piece for piece in absent if piece not in code]
            assert not absent, f"no message has {absent}, of {message!r}"
