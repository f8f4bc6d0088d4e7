"""No option is written with `init_args`: in README, docs, headers of recipes, and messages of the code."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT

# A key of a command or a message, as `--data.init_args.size` and "set model.init_args.weights"; a recipe refers to its
# own keys by `${data.init_args.size}`.
LONG = re.compile(r"(?<![\w.{])(--)?(model|data|trainer)(\.[\w{}]+)*\.init_args\b")
ROOMS = ("models", "datamodules", "pretrain", "tools")
# Code that takes the long form too, or that writes a recipe or a link of the parser, which need it.
ALLOWED = {
    "data.init_args.global_batch",
    "model.init_args.global_batch",
    "--data.init_args.",
    "--data.init_args.val",
    "--model.init_args.weights",
    "model.init_args.encoder.init_args",
    "model.init_args.decoder.init_args",
    "model.init_args.optim",
    "data.init_args",
}


def texts(path: Path) -> Iterator[str]:
    """What a reader sees of a file: of a recipe the comments, of code the strings."""
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        yield from (line.partition("#")[2] for line in content.splitlines())
    elif "init_args" not in content:
        return
    elif path.suffix == ".py":
        found = (node.value for node in ast.walk(ast.parse(content)) if isinstance(node, ast.Constant))
        yield from (each for each in found if isinstance(each, str) and each not in ALLOWED)
    else:
        yield content


FILES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "recipes").rglob("*.md")]
FILES += [*(ROOT / "recipes").rglob("*.yaml"), *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]


@pytest.mark.parametrize("room", ["README.md", "docs", "recipes", *ROOMS])
def test_no_option_is_written_with_init_args(room: str) -> None:
    files = [path for path in FILES if path.relative_to(ROOT).parts[0] == room]
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in files
        for text in texts(path)
        for match in LONG.finditer(text)
    ]
    assert files and not found


def test_the_search_finds_them() -> None:
    for text in ("`--data.init_args.size 3`", "set model.init_args.weights", "(trainer.logger.init_args.name)"):
        assert LONG.search(text)
    assert not LONG.search("frames: ${data.init_args.frames}")
