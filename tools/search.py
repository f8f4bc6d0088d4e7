"""Searches your own videos by text: `python tools/search.py "a man plays the guitar" --index FOLDER --out sheet.png`.

The folder is an index that `python -m pretrain predict` wrote with a video-text model; it names its checkpoint and its
videos.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from pretrain.errors import reports_errors
from pretrain.parser import Parser


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool; returns 1 if videos that were found cannot be read, 2 if the index cannot be searched."""
    from pretrain.export.embedded_recipe import TRUST

    parser = Parser(prog="search.py", description=__doc__)
    parser.add_argument("query", nargs="+", help="search text; put each of several queries in quotes")
    parser.add_argument("--index", type=Path, required=True, help="index folder")
    parser.add_argument("--top", type=int, default=10, help="videos per query (default %(default)s)")
    parser.add_argument("--out", type=Path, help="contact sheet (png)")
    parser.add_argument("--ckpt", help="checkpoint of the index, if it was moved")
    parser.add_argument("--trust", action="append", default=[], metavar="CLASS", help=TRUST)
    a = parser.parse_args(arguments)
    from pretrain.features.index import read_index
    from pretrain.features.search import Viewer, as_text, count_videos, hit_grid, search, text_model
    from pretrain.plots.contact_sheet import write_png

    if a.top < 1 or not all(query.strip() for query in a.query):
        parser.error("--top must be 1 or more" if a.top < 1 else "a query is empty: give a search text")
    index = read_index(a.index)
    model = text_model(index, a.ckpt, a.trust)
    found = search(index["files"], model.encode_text(a.query).float().cpu(), a.top)
    hits = [hit for each in found for hit in each]
    try:
        viewer = Viewer(index, a.trust)
        for hit in hits:
            viewer.load_frames(hit, 3 if a.out else 1)
    except (FileNotFoundError, ValueError) as error:
        for hit in hits:
            hit.error = f"the videos cannot be found: {error}"
    for query, each in zip(a.query, found, strict=True):
        print(as_text(query, each) + "\n")
    if a.out:
        write_png(a.out, hit_grid(a.query, found, count_videos(index["files"])))
        print(f"drawn to {a.out}")
    lost = {f"{hit.name}: {hit.error}" for hit in hits if hit.error}
    for line in sorted(lost):
        print(f"unreadable {line}", file=sys.stderr)
    return 1 if lost else 0


if __name__ == "__main__":
    sys.exit(main())
