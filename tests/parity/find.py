"""Finds reference cases: which files are cases, which of them are one, and which wait for a method to be built."""

import filecmp
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers.paths import ROOT, TESTS
from tests.parity import NOT_BUILT


def default_folders() -> list[Path]:
    """The cases of the project, and those of `shared/references` beside it, where there is such a folder."""
    beside = ROOT.parent / "shared/references"
    return [TESTS / "references", *([beside] if beside.is_dir() else [])]


def find(folders: Sequence[Path]) -> list:
    """Parameters of the parity test: a path of JSON each; one skipped parameter for each kind that is not built."""
    found: dict[str, list[Path]] = defaultdict(list)
    waiting: dict[str, int] = defaultdict(int)
    for folder in folders:
        paths = [path for path in sorted(folder.rglob("*.json")) if is_case(path)]
        assert paths, f"no reference cases in {folder}"
        for path in paths:
            kind = json.loads(path.read_text()).get("kind")
            if kind in NOT_BUILT:
                waiting[kind] += 1
            elif not any(same(path, other) for other in found[path.stem]):
                found[path.stem].append(path)
    cases = []
    for stem, paths in sorted(found.items()):
        for path in paths:
            name = stem if len(paths) == 1 else f"{stem}@{path.parent.name}"
            cases.append(pytest.param(path, id=name))
    for kind, count in sorted(waiting.items()):
        cases.append(pytest.param(None, id=f"{kind} x {count}", marks=pytest.mark.skip(reason=NOT_BUILT[kind])))
    return cases


def is_case(path: Path) -> bool:
    """Whether a JSON file is a case: an object that has a kind, a name, or tensors beside it."""
    facts = json.loads(path.read_text())
    return isinstance(facts, dict) and ("kind" in facts or "name" in facts or path.with_suffix(".safetensors").exists())


def same(a: Path, b: Path) -> bool:
    """Whether two cases of one name have the same bytes."""
    pairs = [(a.with_suffix(suffix), b.with_suffix(suffix)) for suffix in (".json", ".safetensors")]
    return all(x.exists() == y.exists() and (not x.exists() or filecmp.cmp(x, y, shallow=False)) for x, y in pairs)
