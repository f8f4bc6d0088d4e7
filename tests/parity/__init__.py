"""Checks against the official code, by kind of reference case: each module registers its own with `checks`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path

from safetensors.torch import load_file

from tests.parity.case import Case

# Kinds of methods that the project does not have yet, each with the reason: their cases are skipped.
NOT_BUILT: dict[str, str] = {}


@dataclass(frozen=True)
class Check:
    """A check, with patterns of the keys and tensors that it does not need, each with a reason."""

    run: Callable[[Case], None]
    not_needed: dict[str, str]


_KINDS: dict[str, Check] = {}
_NAMES: dict[str, Check] = {}


def checks(*kinds: str, names: tuple[str, ...] = (), not_needed: dict[str, str] | None = None):
    """Register a function as the check of these kinds of case, or of cases without a kind whose name matches."""

    def register(function: Callable[[Case], None]) -> Callable[[Case], None]:
        check = Check(function, not_needed or {})
        _KINDS.update(dict.fromkeys(kinds, check))
        _NAMES.update(dict.fromkeys(names, check))
        return function

    return register


def check_of(facts: dict, stem: str) -> Check | None:
    """The check of a case's kind; without a kind, of the longest pattern that its name matches. None: unknown."""
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        if not path.stem.startswith("test_"):
            import_module(f"tests.parity.{path.stem}")
    if "kind" in facts:
        return _KINDS.get(facts["kind"])
    matching = [pattern for pattern in _NAMES if fnmatchcase(facts.get("name", stem), pattern)]
    return _NAMES[max(matching, key=len)] if matching else None


def run(facts: dict, tensors: dict, stem: str = "") -> Case:
    """Check one case; AssertionError where it differs, where something of it is not used, or where it is unknown."""
    check = check_of(facts, stem)
    assert check is not None, f"no check for a case of kind {facts.get('kind')!r}, name {facts.get('name', stem)!r}"
    case = Case(facts, tensors)
    check.run(case)
    case.finish(check.not_needed)
    return case


def read(path: Path) -> tuple[dict, dict]:
    """Facts and tensors of the case at NAME.json, beside NAME.safetensors where it has tensors.

    A case may name several `files`, of which NAME.state*.safetensors hold weights, and the weights of another case
    (`state_from`): these tensors are under `state/`.
    """
    facts = json.loads(path.read_text())
    whole = path.with_suffix(".safetensors")
    names = {whole.name} if whole.exists() else set()
    names |= {name for name in facts.get("files", {}) if name.endswith(".safetensors")}
    tensors = {}
    for name in sorted(names | ({facts["state_from"]} if "state_from" in facts else set())):
        prefix = "state/" if name.split(".")[-2].startswith("state") else ""
        tensors |= {prefix + key: tensor for key, tensor in load_file(path.parent / name).items()}
    return facts, tensors
