"""The parser of tools and of commands without a recipe: no abbreviations, errors of one line with the nearest name."""

import argparse
import difflib
from collections.abc import Iterable, Iterator
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
            message = f"there is no option {option}{nearest(option, long_options(self), 1)}"
        self.exit(2, f"{self.prog}: error: {message} (--help lists all options)\n")


def nearest(name: str, known: Iterable[str], most: int = 2, alike: float = 0.6) -> str:
    """`: did you mean A or B?` with up to `most` names that are `alike` at least (0 to 1), or nothing."""
    found = difflib.get_close_matches(name, sorted(set(known)), most, alike)
    return f": did you mean {' or '.join(found)}?" if found else ""


def long_options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The long options of a parser and of its commands."""
    for action in parser._actions:
        yield from (name for name in action.option_strings if name.startswith("--"))
        for command in (action.choices or {}).values() if isinstance(action, argparse._SubParsersAction) else ():
            yield from long_options(command)
