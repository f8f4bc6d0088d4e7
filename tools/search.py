"""Searches your own videos by text: `python tools/search.py "a man plays the guitar" --index FOLDER --out sheet.png`.

The folder is an index that `python -m pretrain predict` wrote with a video-text model; it names its checkpoint and its
videos.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed


def main(arguments: list[str] | None = None) -> int:
    """Runs the tool; returns 1 if videos that were found cannot be read, 2 if the index cannot be searched."""
    parser = argparse.ArgumentParser(prog="search.py", description=__doc__)
    parser.add_argument("query", nargs="+", help="search text; put each of several queries in quotes")
    parser.add_argument("--index", type=Path, required=True, help="index folder")
    parser.add_argument("--top", type=int, default=10, help="videos per query (default %(default)s)")
    parser.add_argument("--out", type=Path, help="contact sheet (png)")
    parser.add_argument("--ckpt", help="checkpoint of the index, if it was moved")
    a = parser.parse_args(arguments)
    from pretrain.features.index import read_index
    from pretrain.features.search import Viewer, count, search, sheet, table, text_model
    from pretrain.plots.contact_sheet import write_png

    if a.top < 1 or not all(query.strip() for query in a.query):
        parser.error("--top must be 1 or more" if a.top < 1 else "a query is empty: give a search text")
    try:
        about = read_index(a.index)
        model = text_model(about, a.ckpt)
        found = search(about["files"], model.encode_text(a.query).float().cpu(), a.top)
    except (FileNotFoundError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    hits = [hit for each in found for hit in each]
    try:
        viewer = Viewer(about)
        for hit in hits:
            viewer.look(hit, 3 if a.out else 1)
    except (FileNotFoundError, ValueError) as error:
        for hit in hits:
            hit.lost = f"the videos cannot be found: {error}"
    for query, each in zip(a.query, found, strict=True):
        print(table(query, each) + "\n")
    if a.out:
        write_png(a.out, sheet(a.query, found, count(about["files"])))
        print(f"drawn to {a.out}")
    lost = {f"{hit.name}: {hit.lost}" for hit in hits if hit.lost}
    for line in sorted(lost):
        print(f"unreadable {line}", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
