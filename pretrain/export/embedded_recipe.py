"""Builds objects from recipes that came in a file: only classes of the rooms named here, and no commands.

A recipe in a checkpoint or in an index was written by whoever made that file. jsonargparse builds any class that a
recipe names; here it may import only the names below, and those that the user trusts by `--trust CLASS`. Recipes that
the user names on the command line are his own, and are not read by this file.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import jsonargparse
import yaml
from jsonargparse import set_parsing_settings

# There is no public way to read the settings, or to take an entry back.
from jsonargparse._common import parsing_settings
from torch import nn

from models.fetch import CACHED
from pretrain.engine.old_names import with_new_names

# Rooms whose classes take sizes, parts and names of files that are only read. Not among them: what starts commands or
# imports by name (`pretrain.studies`, `datamodules.making`, `datamodules.sources.remote`), and what acts on a run.
MODEL_CLASSES = (
    "models",
    "pretrain.objectives",
    "pretrain.learning",
    "pretrain.metrics",
    "torch.optim",
    "torchmetrics",
)
# Parts of the above that load other programs' models from a path or from the network, or that are only functions.
_REFUSED = (
    *("models.convert", "torchmetrics.audio", "torchmetrics.detection", "torchmetrics.functional"),
    *("torchmetrics.image", "torchmetrics.multimodal", "torchmetrics.text", "torchmetrics.utilities"),
    *("torchmetrics.video", "torchmetrics.wrappers"),
)
TRUST = "full name of a class that a recipe in a file may use besides ours; may be repeated"
_LONGEST = 500  # characters of the parser's explanation, which may repeat the whole recipe
_MOST_PARTS = 100_000  # values in a recipe; aliases of YAML let a few hundred bytes stand for billions


def read_embedded(text: object, where: str) -> dict[str, Any]:
    """The settings in a recipe's text, with today's names of classes, checked by `require_plain`.

    Args:
        text: YAML.
        where: what the text came from, for errors.

    Raises:
        ValueError: it is no recipe, or more than a recipe needs.
    """
    try:
        settings = yaml.safe_load(text) if isinstance(text, str) else None
    except (yaml.YAMLError, RecursionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"the recipe in {where} cannot be read: {reason}") from error
    if not isinstance(settings, dict):
        raise ValueError(f"the recipe in {where} is no table of settings")
    require_plain(settings, where)
    return with_new_names(settings)


def instantiate_embedded(
    kind: type, settings: Any, where: str, trust: Sequence[str] = (), classes: Sequence[str] = MODEL_CLASSES
) -> Any:
    """The object of class `kind` that a recipe from a file describes by `class_path` and `init_args`.

    Args:
        settings: of the object; `read_embedded` or a JSON file gave them.
        where: the file, for errors.
        trust: full names of classes that the user allows besides.
        classes: packages, modules or classes that are allowed.

    Raises:
        ValueError: the recipe names another class or function, a command, or arguments that its class does not take.
    """
    settings = with_new_names(require_plain(settings, where))
    allowed = [*classes, *(name for each in trust for name in _both_names(each))]
    for name in _class_paths(settings):
        _require_allowed(name, allowed, where)
    is_model = issubclass(kind, nn.Module)
    if is_model:
        settings = _from_cache_only(settings)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(kind, "object")
    with _only(allowed), _named(f"the recipe in {where} does not describe a {kind.__name__}"):
        parsed = parser.parse_object({"object": settings})
    # Text may itself be YAML of a list or of a class, which the parser has read by now.
    for name in _class_paths(require_plain(parsed.as_dict(), where)):
        _require_allowed(name, allowed, where)
    hidden = [each for each in _values(parsed.as_dict()) if is_model and _is_address(each)]
    if hidden:
        raise ValueError(f"the recipe in {where} hides the address {hidden[0]} in text")
    with _only(allowed), _named(f"the {kind.__name__} of the recipe in {where} cannot be built"):
        return parser.instantiate_classes(parsed)["object"]


def require_plain(settings: Any, where: str) -> Any:
    """Return `settings`; ValueError if they hold commands (`pipe:`), references (`${...}`), or too many values."""
    for count, value in enumerate(_values(settings)):
        if count > _MOST_PARTS:
            raise ValueError(f"the recipe in {where} has more than {_MOST_PARTS} values: no recipe needs so many")
        if isinstance(value, str) and "${" in value:
            raise ValueError(f"the recipe in {where} refers to other values ({value!r}): only a recipe of yours may")
        if isinstance(value, str) and value.strip().lower().startswith("pipe:"):
            raise ValueError(
                f"{where} names the command {value!r}: a command is taken only from the command line or from a recipe "
                "of yours"
            )
    return settings


def _from_cache_only(settings: Any) -> Any:
    """The settings of a model with all addresses of weights marked: a file must not make this machine ask a server."""
    if isinstance(settings, dict):
        return {name: _from_cache_only(value) for name, value in settings.items()}
    if isinstance(settings, list):
        return [_from_cache_only(value) for value in settings]
    return f"{CACHED}{settings}" if _is_address(settings) else settings


def _is_address(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(("hf://", "http://", "https://"))


def _values(settings: Any) -> Iterator[Any]:
    """All keys and values in nested settings; it ends also for settings that contain themselves if the reader stops."""
    waiting = [settings]
    while waiting:
        value = waiting.pop()
        yield value
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value


def _class_paths(settings: Any) -> Iterator[str]:
    for value in _values(settings):
        if isinstance(value, dict) and "class_path" in value:
            yield str(value["class_path"])


def _require_allowed(name: str, allowed: Sequence[str], where: str) -> None:
    """A name without a dot is one of a subclass that is imported already, which the parser finds and checks."""
    within = [entry for entry in (*allowed, *_REFUSED) if name == entry or name.startswith(entry + ".")]
    if "." in name and (not within or max(within, key=len) in _REFUSED):
        raise ValueError(
            f"{where} names {name}, which is none of the classes that a recipe in a file may use: if you know it and "
            f"trust that file, repeat the command with --trust {name}"
        )


def _both_names(trusted: str) -> set[str]:
    """The name of a class that the user trusts, and its name in the module that defines it."""
    module, _, name = trusted.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"--trust {trusted}: there is no such class ({error})") from error
    if not isinstance(found, type):
        raise ValueError(f"--trust {trusted}: it is no class")
    return {trusted, f"{found.__module__}.{found.__qualname__}"}


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Errors of the parser, and of constructors, as a ValueError that says in which file, and starts with `what`."""
    try:
        yield
    except (jsonargparse.ArgumentError, ValueError, TypeError, AttributeError, LookupError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{what}: {reason if len(reason) < _LONGEST else reason[:_LONGEST] + ' ...'}") from error


@contextmanager
def _only(allowed: Sequence[str]) -> Iterator[None]:
    """Lets jsonargparse import only the allowed names from values, and build no class where any value fits."""
    before = dict(parsing_settings)
    refused = ["*", *(name for name in _REFUSED if name not in allowed)]
    try:
        parsing_settings["import_path_verdicts"] = {}
        set_parsing_settings(
            import_path_denylist=refused, import_path_allowlist=list(allowed), instantiate_subclass_spec_in_any=False
        )
        yield
    finally:
        parsing_settings.update(before)
