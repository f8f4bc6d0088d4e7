"""Inspects shards: `python tools/inspect_shards.py SHARDS [--out PNG]` prints a table and draws a contact sheet."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from datamodules.making.contents import as_markdown, contact_sheet, sample_properties, totals
from datamodules.sources.shards import Shards
from datamodules.storage.whole_files import whole_file
from pretrain.errors import reports_errors
from pretrain.parser import Parser


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool; returns 1 if samples cannot be read, 2 if the shards cannot."""
    parser = Parser(prog="inspect_shards.py", description=__doc__)
    parser.add_argument("shards", nargs="+", help="one or several folders of shards")
    parser.add_argument("--out", type=Path, help="contact sheet (png)")
    parser.add_argument("--samples", type=int, default=1000, help="samples read for the table (default %(default)s)")
    parser.add_argument("--shown", type=int, default=24, help="samples on the sheet (default %(default)s)")
    parser.add_argument("--frames", type=int, default=5, help="frames per sample on the sheet (default %(default)s)")
    a = parser.parse_args(arguments)
    source = Shards(a.shards)
    values, failed = sample_properties(source, a.samples)
    print(totals(source, values, failed))
    print(as_markdown(values))
    for name, reason in failed.items():
        print(f"unreadable {name}: {reason}", file=sys.stderr)
    if a.out:
        with whole_file(a.out, "wb") as file:
            contact_sheet(source, a.shown, a.frames).save(file, "PNG")
        print(f"drawn to {a.out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
