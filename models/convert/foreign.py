"""What other people's files hold beside weights: objects of other packages; and files that are no weights at all.

Inert stand-ins take the place of foreign classes, so that nothing of a file is imported or runs.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

# Packages whose classes describe a training run and hold no weights. Modules of Python that can run something are none
# of them: a file that names those is refused.
_PACKAGES = {
    *("deepspeed", "apex", "megatron", "accelerate", "transformers", "timm", "fairseq", "fairscale", "torchmetrics"),
    *("lightning", "lightning_fabric", "pytorch_lightning", "lightning_utilities", "mmengine", "mmcv", "detectron2"),
    *("omegaconf", "hydra", "yacs", "easydict", "addict", "ml_collections", "munch", "fvcore", "iopath", "wandb"),
    *("numpy", "pathlib", "argparse", "datetime", "enum", "_codecs", "fractions", "decimal", "uuid", "typing"),
}
# Pickles of protocol 2, which torch writes, call the module of these by its name in Python 2.
_BUILT_IN = ("dict", "list", "tuple", "set", "frozenset", "int", "long", "float", "str", "unicode", "bool")
_KINDS = {f"{module}.{kind}" for module in ("builtins", "__builtin__") for kind in _BUILT_IN}
_KINDS |= {"collections.defaultdict"}
_HEAD = 512  # bytes by which a file that is no weights is recognised


class Inert:
    """Stands for any foreign class, function or object: it takes whatever a pickle gives it, and keeps nothing."""

    def __new__(cls, *_: Any, **__: Any) -> "Inert":
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __setitem__(self, *_: Any) -> None:
        pass

    __setstate__ = __setitem__


def stand_ins(names: Iterable[str], known: Iterable[Any] = ()) -> list[Callable | tuple[Callable, str]]:
    """Stand-ins for `torch.serialization.safe_globals`, for the full names in a file that are of foreign packages.

    Args:
        names: all names that the file's pickle looks up.
        known: classes and functions, or pairs with their full names, that are read as what they are.
    """
    real = {each[1] if isinstance(each, tuple) else f"{each.__module__}.{each.__qualname__}" for each in known}
    wanted = {name for name in set(names) - real if name.split(".")[0] in _PACKAGES or name in _KINDS}
    # torch's reader looks for the names of today: `int` for `long` of Python 2.
    return [(Inert, name) for name in sorted(wanted | (_KINDS if wanted & _KINDS else set()))]


def mistaken(file: Path) -> str | None:
    """What a file is and what to do, if it is a known kind of file that is saved in the place of weights."""
    with file.open("rb") as stream:
        head = stream.read(_HEAD)
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "is empty (0 bytes): download or copy it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a pointer of Git LFS, not the weights: run `git lfs pull` in its repository, or download the file"
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"<error")):
        return (
            "is a web page, not weights (a page of a download, an error, or one that asks to sign in): open its "
            "address in a browser, and save the file that the page offers"
        )
    if start.startswith(b"{") and b"error" in start:
        return f"is the answer of a server, not weights: {head[:100].decode('utf-8', 'replace')}"
    return None
