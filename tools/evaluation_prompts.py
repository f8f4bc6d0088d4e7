"""Prompts of LaVie's zero-shot protocols for tools/generate.py: UCF101's class names or captions of MSR-VTT's tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from pretrain.errors import reports_errors
from pretrain.parser import Parser


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs the tool."""
    from pretrain.generation.evaluation_prompts import caption_prompts, ucf101_prompts, write_prompts

    parser = Parser(prog="evaluation_prompts.py", description=__doc__)
    parser.add_argument("protocol", choices=("ucf101", "msrvtt"))
    parser.add_argument("file", type=Path, help="a list of class names (ucf101) or MSRVTT_data.json (msrvtt)")
    parser.add_argument("--out", type=Path, required=True, help="folder for prompts.csv and films.csv")
    parser.add_argument("--per-class", type=int, default=100, help="films of each class (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of captions and of their films (default %(default)s)")
    a = parser.parse_args(arguments)
    films = ucf101_prompts(a.file, a.per_class) if a.protocol == "ucf101" else caption_prompts(a.file, a.seed)
    write_prompts(films, a.out)
    print(f"{len(films)} films: {a.out / 'prompts.csv'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
