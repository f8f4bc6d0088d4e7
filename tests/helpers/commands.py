"""The commands that pages and headers of recipes show, and a way to have each read by its parser without running it."""

import argparse
import contextlib
import functools
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from pretrain.cli import main, settings_of

COMMANDS = ("fit", "validate", "test", "predict")
_OPEN = ("...", "RECIPE", "with", "$1")  # words of a command that is left open


def commands_of_page(page: Path) -> list[str]:
    """The commands of a page: of shell blocks, each in one line, and in quotes of code."""
    text = page.read_text(encoding="utf-8")
    found: list[str] = []
    for line in "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").split("\n"):
        line = line.strip()
        if line.startswith("-") and found:  # options of the line above
            found[-1] = f"{found[-1].partition(' #')[0]} {line}"
        elif line and not line.startswith("#"):
            found.append(line)
    return found + re.findall(
        r"`((?:tubelet|python -m pretrain|python tools/)[^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    )


def commands_of_recipe(recipe: Path) -> list[str]:
    """The commands in the header of a recipe; one goes on in lines that begin with an option, or up to its quote."""
    found: list[str] = []
    rest, quoted = "", False  # of a command that may go on; whether it stands in quotes of code
    for line in recipe.read_text(encoding="utf-8").split("\n"):
        if not line.startswith("#"):
            break
        line = line[1:].strip()
        if rest and (quoted or line.startswith("-")):
            line, start = f"{rest} {line}", 0
        else:
            match = re.search(r"(python -m pretrain |python tools/|tubelet )", line)
            start = -1 if match is None else match.start()
            quoted = start > 0 and line[start - 1] == "`"
            if rest:
                found.append(rest)
        rest = ""
        if start >= 0:
            line = line[start:].removesuffix("\\").strip()
            end = line.find("`") if quoted else next((m.start() for m in [re.search(r"[`)]|, and |; ", line)] if m), -1)
            if end >= 0:
                found.append(line[:end])
            else:
                rest = line
    return [*found, rest] if rest else found


def words_of(line: str) -> list[str] | None:
    """`pretrain` or the name of a tool, and the words behind it; None: not ours, or left open."""
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a quotation mark of a sentence
        return None
    if any(word in _OPEN for word in words):
        return None
    if "tools/slurm.sbatch" in words:
        return ["pretrain", "fit", *words[words.index("tools/slurm.sbatch") + 1 :]]
    if words[:1] == ["torchrun"]:
        return words[words.index("pretrain") :]
    if words[:1] == ["tubelet"]:
        return ["pretrain", *words[1:]]
    if words[:3] == ["python", "-m", "pretrain"]:
        return words[2:]
    if words[:1] == ["python"] and len(words) > 1 and words[1].startswith("tools/"):
        return [Path(words[1]).stem, *words[2:]]
    return None


class Read(BaseException):
    """The parser has taken all words."""


def read_by_parser(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Has the words of `words_of` read by their parser, and nothing run; its error is raised."""
    tool, words = words[0], words[1:]
    if tool != "pretrain":
        with _stops_after_parsing(len(words), patch), pytest.raises(Read):
            import_module(f"tools.{tool}").main(words)
    elif words[0] in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([*words, "--print_config"])
        assert stop.value.code == 0, words
    elif words[0] == "plan":
        from pretrain.plan import command

        patch.setattr(command, "Plan", _read)
        with pytest.raises(Read):
            main(words)
    elif words[0] == "export" and "--ckpt" in words:
        from pretrain.export import command

        patch.setattr(command, "export", functools.wraps(command.export)(_read))
        with pytest.raises(Read):
            main(words)
    elif words[0] == "show":
        at = words.index("--step")
        settings_of([*words[1:at], *words[at + 2 :]])
    else:
        assert words[0] in ("export", "weights", "replay", "--help"), words


def _read(*_: object, **__: object) -> None:
    raise Read


@contextlib.contextmanager
def _stops_after_parsing(most: int, patch: pytest.MonkeyPatch) -> Iterator[None]:
    original = argparse.ArgumentParser.parse_args

    def parse(self, args=None, namespace=None):
        found = original(self, args, namespace)
        if args is None or len(args) >= most - 1:  # a tool may read the name of its command first
            raise Read
        return found

    with patch.context() as inner:
        inner.setattr(argparse.ArgumentParser, "parse_args", parse)
        yield
