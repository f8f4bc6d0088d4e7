"""Modules of packages that the user has installed, imported without what those packages run when imported whole."""

import importlib
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

from pretrain.metrics.vbench.prompts import package_folder


def package_path(package: str, remedy: str) -> Path:
    """The folder of an installed package, which is not imported; ModuleNotFoundError with the remedy."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {package} here: {remedy}")
    return Path(spec.submodule_search_locations[0])


def import_below(package: str, folder: Path, module: str) -> Any:
    """A module below a package whose own `__init__` is not run: it asks for more than the module needs."""
    old = sys.modules.get(package)
    shell: Any = types.ModuleType(package)
    shell.__path__ = [str(folder)]
    sys.modules[package] = shell
    try:
        return importlib.import_module(f"{package}.{module}")
    finally:
        if old is None:
            del sys.modules[package]
        else:
            sys.modules[package] = old


def official_package() -> Path:
    """The folder of the `vbench` package; ModuleNotFoundError without it."""
    folder = package_folder()  # by its file: this project's own command has the same name
    if folder is None:
        raise ModuleNotFoundError("no package vbench here: pip install --no-deps vbench")
    return folder


def import_official(module: str, needs: str) -> Any:
    """A module of the `vbench` package.

    Args:
        needs: what the module asks for that does not come with it.

    Raises:
        ModuleNotFoundError: the package or one of its needs is not there.
    """
    try:
        return import_below("vbench", official_package(), module)
    except ImportError as error:
        raise ModuleNotFoundError(f"vbench's {module} needs {needs}: {error}") from error
