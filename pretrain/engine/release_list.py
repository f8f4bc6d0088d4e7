"""`tubelet weights`: the official releases that have a name, and which of them are on this machine."""

from models.fetch import is_here, local_path
from models.releases import RELEASES
from pretrain.parser import Parser, nearest

_COLUMNS = ("name", "method", "size", "trained", "licence", "here")


def main(args: list[str]) -> None:
    """List the releases, or download some.

    Raises:
        ValueError: an unknown name.
        FileNotFoundError: a release cannot be downloaded.
    """
    parser = Parser("tubelet weights", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("names", nargs="*", help="releases to download, by name; by default all are listed")
    names = parser.parse_args(args).names
    unknown = [name for name in names if name not in RELEASES]
    if unknown:
        near = nearest(unknown[0], RELEASES)
        raise ValueError(f"no release {unknown[0]}" + (near or ": `tubelet weights` lists those that have a name"))
    for name in names:
        print(f"{name}: {local_path(name)}")
    if not names:
        print(listing())


def listing() -> str:
    """A table of all releases, with their places below it."""
    rows = [_COLUMNS]
    for name, release in RELEASES.items():
        licence, here = release.licence or "not stated", "yes" if is_here(release) else ""
        rows.append((name, release.method, release.size, release.trained, licence, here))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    places = [f"{name.ljust(widths[0])}  {release.place}" for name, release in RELEASES.items()]
    return "\n".join([*lines, "", "Each is used by --weights NAME, and lies at:", *places])
