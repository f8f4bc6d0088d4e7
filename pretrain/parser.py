"""The parser of tools and of commands without a recipe: no abbreviations, errors of one line with the nearest name."""

import argparse
import difflib
from collections.abc import Iterator
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """argparse's, whose errors leave out the usage; the exit code is 2."""

    def __init__(self, *args: object, **options: object) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **options})  # pyrefly: ignore[bad-argument-type]

    def error(self, message: str) -> NoReturn:
        """Ends the process with one line on stderr."""
        head, _, words = message.partition("unrecognized arguments: ")
        if not head and (wrong := next((word for word in words.split() if word.startswith("-")), None)):
            option = wrong.partition("=")[0]
            message = f"there is no option {option}{self.nearest(option)}"
        self.exit(2, f"{self.prog}: error: {message} (--help lists all options)\n")

    def nearest(self, option: str) -> str:
        """`: did you mean --this?`, or nothing."""
        near = difflib.get_close_matches(option, set(self._names()), 1)
        return f": did you mean {near[0]}?" if near else ""

    def _names(self) -> Iterator[str]:
        """Long options, and those of subcommands."""
        for action in self._actions:
            yield from (name for name in action.option_strings if name.startswith("--"))
            for parser in action.choices.values() if isinstance(action, argparse._SubParsersAction) else ():
                yield from parser._names()
