"""Answers to MVBench and to lists of questions: `rescore DIR`, `compare A B`, `judge DIR`, and `synthetic DIR`.

`python -m pretrain test -c recipes/eval/mvbench.yaml` asks the questions and writes the answers that these read.
"""

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a checkout that is not installed

from pretrain.errors import reports_errors
from pretrain.parser import Parser


@reports_errors
def main(arguments: list[str]) -> int:
    """Runs a command."""
    commands = {"rescore": rescore, "compare": compare, "judge": judge, "synthetic": synthetic}
    parser = Parser(prog="mvbench.py", description=__doc__)
    parser.add_argument("command", choices=commands)
    a = parser.parse_args(arguments[:1])
    return commands[a.command](arguments[1:])


def rescore(arguments: list[str]) -> int:
    """`rescore DIR`: the counts of each scorer, of the answers that a run wrote; nothing is asked again."""
    parser = Parser(prog="mvbench.py rescore", description=rescore.__doc__)
    parser.add_argument("answers", type=Path, help="folder of answers-*.jsonl, or one such file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    a = parser.parse_args(arguments)
    from pretrain.questions.report import counts_as_json, table_of_scores

    runs = _runs(a.answers)
    if a.json:
        found = [{"model": m, "protocol": p, "scores": counts_as_json(rows)} for (m, p), rows in runs.items()]
        print(json.dumps(found, indent=1))
        return 0
    for (model, protocol), rows in runs.items():
        print(f"## {model}, protocol {protocol}: {len(rows)} answers\n\n{table_of_scores(rows)}\n")
    return 0


def compare(arguments: list[str]) -> int:
    """`compare A B`: two folders of answers, paired by question; B less A with an interval over videos."""
    parser = Parser(prog="mvbench.py compare", description=compare.__doc__)
    parser.add_argument("a", type=Path, metavar="A")
    parser.add_argument("b", type=Path, metavar="B")
    parser.add_argument("--scorer", default="strict", help="official, strict (default), lmms or likelihood")
    parser.add_argument("--protocol", nargs=2, metavar=("OF_A", "OF_B"), help="if a folder holds several")
    a = parser.parse_args(arguments)
    from pretrain.questions.compare import compare as table_of

    wanted = a.protocol or (None, None)
    sides = [
        [x for (_, p), rows in _runs(place).items() if only in (None, p) for x in rows]
        for place, only in zip((a.a, a.b), wanted, strict=True)
    ]
    print(table_of(*sides, a.scorer))
    return 0


def judge(arguments: list[str]) -> int:
    """`judge DIR`: open answers, judged by a language model that you name; verdicts are kept in verdicts.jsonl."""
    parser = Parser(prog="mvbench.py judge", description=judge.__doc__)
    parser.add_argument("answers", type=Path, help="folder of answers-*.jsonl")
    parser.add_argument("--model", required=True, help="folder of a language model, or its name at --url")
    parser.add_argument("--url", help="of a server of OpenAI's protocol, with /v1; its key is JUDGE_API_KEY, if set")
    parser.add_argument("--device", default="cpu", help="of a model from a folder (default %(default)s)")
    a = parser.parse_args(arguments)
    from pretrain.questions.judge import ModelJudge, ServedJudge, judge_answers, table_of_verdicts

    runs = _runs(a.answers)
    if a.url:
        judged_by = ServedJudge(a.url, a.model, os.environ.get("JUDGE_API_KEY"))
    else:
        from pretrain.chat.text_model import load_text_model

        judged_by = ModelJudge(load_text_model(a.model, a.device))
    for (model, protocol), rows in runs.items():
        verdicts = judge_answers(rows, judged_by, a.answers / "verdicts.jsonl")
        print(f"## {model}, protocol {protocol}\n\n{table_of_verdicts(verdicts, judged_by.name)}\n")
    return 0


def synthetic(arguments: list[str]) -> int:
    """`synthetic DIR`: a small MVBench of moving shapes in the published layout."""
    parser = Parser(prog="mvbench.py synthetic", description=synthetic.__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--questions", type=int, default=4, help="of each task (default %(default)s)")
    parser.add_argument("--size", type=int, default=64, help="of the frames in pixels (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default %(default)s)")
    a = parser.parse_args(arguments)
    from pretrain.questions.synthetic import write_synthetic

    write_synthetic(a.folder, a.questions, a.size, a.seed)
    print(f"20 tasks of {a.questions} questions are in {a.folder}")
    return 0


def _runs(place: Path) -> dict:
    """Answers by model and protocol."""
    from pretrain.questions.answers import read_answers

    found: dict = {}
    for answer in read_answers(place):
        found.setdefault((answer.model, answer.protocol), []).append(answer)
    if not found:
        raise FileNotFoundError(f"no answers at {place}: give the folder that a run wrote (model.out)")
    return found


if __name__ == "__main__":
    sys.exit(main())
