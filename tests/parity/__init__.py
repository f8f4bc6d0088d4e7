"""Checks of reference cases by family: each module's CHECKS maps the beginning of a case's name to its check."""

from importlib import import_module
from pathlib import Path

# Tolerances of the video-language references' README.
CLOSE = {"atol": 2e-5, "rtol": 1e-4}


def part(tensors: dict, prefix: str) -> dict:
    """The tensors under `prefix/`, without it."""
    return {name.removeprefix(prefix + "/"): t for name, t in tensors.items() if name.startswith(prefix + "/")}


def check_of(name: str):
    """The check of the longest family whose name begins the case's; None where there is none."""
    known = {}
    for path in Path(__file__).parent.glob("[a-z]*.py"):
        known.update(import_module(f"tests.parity.{path.stem}").CHECKS)
    families = [family for family in known if name.startswith(family)]
    return known[max(families, key=len)] if families else None
