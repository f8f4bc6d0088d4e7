"""Ours equals the official code: one test a reference case, `pytest tests/test_parity.py --references DIR`.

A case is NAME.json (its `kind` and configuration) and NAME.safetensors (weights, inputs, outputs of the official code);
cases without a kind are known by their names. The checks are in tests/parity/, a module a family. A check must use
every key and every tensor of a case, or name it with a reason. An unknown kind fails; the kinds of methods that are not
built yet are skipped. Without `--references` the cases of tests/references run, and those of a folder
`shared/references` beside the project, where there is one; `--references` may be given several times.
"""

from pathlib import Path

from tests.parity import read, run


def test_reference(case: Path) -> None:
    run(*read(case), stem=case.stem)
