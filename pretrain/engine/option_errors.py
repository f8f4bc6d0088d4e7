"""The parser whose errors are one sentence: the innermost cause, the option's whole name, and the nearest right name.

jsonargparse prints its usage of some sixty lines, and for each class inside a class a list of all types that it tried.
"""

import argparse
import contextlib
import importlib
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn, get_args, get_type_hints

from lightning.pytorch.cli import LightningArgumentParser

from pretrain.engine.model_class import parameters
from pretrain.parser import long_options, nearest

_KEY = re.compile(r'Parser key "([^"]*)"')
_CLASS = re.compile(r"Problem with given class_path '([^']*)'")
_NOT_TAKEN = re.compile(r"(?:Option '|unrecognized arguments: --)([\w.]+)")
_NO_CLASS = re.compile(r"Expected a dot import path string: (\S+)")
_TYPE = re.compile(r"Expected an? (?:<class '([^']*)'>|(.+?))(?:\. Got value: (.*))?$")
_VALUE = re.compile(r"Given value: (.*)")
_NESTED = re.compile(r"NestedArg\(key='[^']*', val=(.*)\)$")
_OF_UNIONS = ("Subtypes:", "Errors:", "Given value", "Does not validate against", "Expected a path but")
_PLAIN = {"NoneType": "null", "str": "text", "int": "a whole number", "float": "a number", "bool": "true or false"}


class OptionError(ValueError):
    """An option or a recipe that the parser refuses; its cause has all that the parser said."""


class OptionParser(LightningArgumentParser):
    """Raises an `OptionError` in place of printing the usage and leaving."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raises the sentence for a message of the parser; a parser of a class inside a class raises its own error."""
        if not self.exit_on_error:
            super().error(message, ex)
        raise OptionError(said(message, long_options(self))) from (ex or argparse.ArgumentError(None, message))


def said(message: str, options: Iterable[str] = ()) -> str:
    """One sentence for an error message of the parser.

    Args:
        message: of jsonargparse: lines whose indentation tells what lies in what.
        options: names that the command takes, with their dashes.
    """
    start = 'Parser key "config": '
    if message.startswith(start):
        return f"{said(message.removeprefix(start), options)} (in a recipe)"
    unknown = re.match(r"unrecognized arguments: (.*)", message, re.DOTALL)
    if unknown:
        name = unknown[1].split()[0].partition("=")[0]
        return f"there is no option {name}" + _nearest_key(name, options)
    if match := re.match(r"Subcommand '(\w+)' does not accept option '([^']*)'", message):
        known = [name.removeprefix("--") for name in options]
        return f"{match[1]} takes no {match[2]} in a recipe" + _nearest_key(match[2], known)
    if match := re.match(r"the following arguments are required: (\w+)\.(?:data|model)", message):
        return f"{match[1]} needs a recipe: -c NAME, a name as videomae_tiny or a file"
    lines = [_Line(text) for text in message.splitlines() if text.strip()]
    causes = [at for at, line in enumerate(lines) if not line.text.startswith(_OF_UNIONS)]
    causes = [at for at in causes if not _KEY.fullmatch(lines[at].text.rstrip(":"))]
    if not causes:
        return " ".join(message.split())
    deepest = max(causes, key=lambda at: lines[at].depth)  # the first of several
    return _sentence(lines, deepest)


def _nearest_key(name: str, known: Iterable[str]) -> str:
    """`nearest` for keys with dots: of the whole, or of the first part if no key begins with it."""
    known, head = list(known), name.partition(".")[0]
    heads = {each.partition(".")[0] for each in known}
    return nearest(name, known) if head in heads else nearest(head, heads)


class _Line:
    """A line of a message, with its depth in columns."""

    def __init__(self, text: str) -> None:
        bare = text.lstrip(" -")
        self.depth, self.text = len(text) - len(bare), bare.rstrip()


def _sentence(lines: list[_Line], at: int) -> str:
    cause, around = lines[at].text, _around(lines, at)
    keys = [match[1] for line in around if (match := _KEY.search(line)) and match[1] != "config"]
    key = ".".join(keys)
    classes = [match[1] for line in around if (match := _CLASS.search(line))]
    if match := _NOT_TAKEN.search(cause):
        place = f"{key}: " if key else ""
        kind = _find(classes[-1]) if classes else None
        near = nearest(match[1], parameters(kind)) if kind else ""
        return f"{place}{classes[-1].rpartition('.')[2] if classes else 'the parser'} takes no {match[1]}{near}"
    if match := _NO_CLASS.search(cause):
        what = "neither a class nor a path" if key.startswith("data") else "no class"
        return f"{key}: there is {what} {match[1]}" + nearest(match[1], _known(lines[:at], classes, keys))
    if match := _TYPE.match(cause):
        types = [_TYPE.match(text) for text in _beside(lines, at)]
        names = dict.fromkeys(_plain(found[1] or found[2]) for found in types if found)
        value = match[3] if match[3] is not None else _value(lines, at)
        return f"{key} is {' or '.join(names)}, not {value}"
    if "does not correspond to a subclass of Objective" in cause:
        return f"{key}: {cause}: a method subclasses pretrain.objectives.Objective, as docs/own.md shows"
    if classes and cause.startswith("No module named"):
        return f"{key}: {cause}, of the class {classes[-1]}"
    return f"{key}: {cause}" if key and not cause.startswith("Parser key") else cause


def _around(lines: list[_Line], at: int) -> list[str]:
    """The lines that a line lies in, the outermost first, and the line itself."""
    found, depth = [lines[at].text], lines[at].depth
    for line in reversed(lines[:at]):
        if line.depth < depth:
            found.insert(0, line.text)
            depth = line.depth
    return found


def _beside(lines: list[_Line], at: int) -> list[str]:
    """The line and those after it that lie in the same line."""
    found = []
    for line in lines[at:]:
        if line.depth < lines[at].depth:
            break
        if line.depth == lines[at].depth:
            found.append(line.text)
    return found


def _value(lines: list[_Line], at: int) -> str:
    for line in lines[at:]:
        if match := _VALUE.match(line.text):
            nested = _NESTED.match(match[1])
            return nested[1].strip("'\"") if nested else match[1][:100]
    return "this value"


def _plain(kind: str) -> str:
    if kind.startswith("typing.Literal["):
        return "one of " + kind.removeprefix("typing.Literal[").removesuffix("]").replace("'", "")
    return _PLAIN.get(kind, kind.rpartition(".")[2] if "[" not in kind else kind)


def _known(before: list[_Line], classes: list[str], keys: list[str]) -> set[str]:
    """Names of the classes that a setting takes: by the class that it belongs to, or the types that it was tried as."""
    owner = _find(classes[-1]) if classes else None
    tried = next((line.text for line in reversed(before) if line.text.startswith("Subtypes:")), "")
    kinds = [kind for path in re.findall(r"[\w.]+\.\w+", tried) if (kind := _find(path))]
    if owner is not None and keys:
        with contextlib.suppress(NameError):  # in an annotation of a library that is not imported
            kinds = list(_classes(get_type_hints(owner.__init__).get(keys[-1])))
    return {each.__name__ for kind in kinds for each in _subclasses(kind)}


def _classes(hint: Any) -> Iterator[type]:
    """The classes in an annotation."""
    if isinstance(hint, type) and not get_args(hint):
        yield hint
    for each in get_args(hint):
        yield from _classes(each)


def _subclasses(kind: type) -> Iterator[type]:
    yield kind
    for each in kind.__subclasses__():
        yield from _subclasses(each)


def _find(path: str) -> type | None:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None) if module else None
    except ImportError:
        return None
    return found if isinstance(found, type) else None
