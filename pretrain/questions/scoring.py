"""Which answers are right under each scorer, how many of each task, and how sure that is."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pretrain.metrics import mvbench_rules as rules
from pretrain.questions.answers import Answer

_Z = 1.959964  # of 95 %


@dataclass(frozen=True)
class Count:
    """right of total; left_out: answers that the scorer does not count."""

    right: int = 0
    total: int = 0
    left_out: int = 0

    def __add__(self, other: "Count") -> "Count":
        return Count(self.right + other.right, self.total + other.total, self.left_out + other.left_out)

    @property
    def share(self) -> float:
        return self.right / self.total if self.total else math.nan

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval of the share (Wilson 1927); NaN of no answer."""
        if not self.total:
            return math.nan, math.nan
        n, share = self.total, self.share
        middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + _Z**2 / (4 * n**2))
        return max(0.0, middle - half), min(1.0, middle + half)


def _official(answer: Answer) -> bool:
    gold = rules.gold_answer(answer.candidates, answer.answer, strict=False)
    return rules.official_match(rules.reply_of(answer.reply), gold)


def _strict(answer: Answer) -> bool:
    if answer.answer not in answer.candidates:
        return False
    return rules.letter_match(rules.reply_of(answer.reply), rules.gold_answer(answer.candidates, answer.answer))


def _lmms(answer: Answer) -> bool | None:
    if not answer.reply.strip():
        return None
    if answer.answer not in answer.candidates:
        return False
    return rules.lmms_match(answer.reply, rules.lmms_gold(answer.candidates, answer.answer))


def _likelihood(answer: Answer) -> bool | None:
    """Whether the right option is the likeliest one, alone."""
    odds = answer.likelihoods
    if odds is None:
        return None
    best = [text for text, value in zip(answer.candidates, odds, strict=True) if value == max(odds)]
    return best == [answer.answer]


# official: the notebook's rule with its quirks (an empty reply is right). strict: the right letter alone. lmms:
# lmms-eval's rule, which reads all lines and leaves out empty replies; its own prompt is that of
# recipes/eval/mvbench_lmms.yaml. likelihood: of the options' texts.
SCORERS: dict[str, Callable[[Answer], bool | None]] = {
    "official": _official,
    "strict": _strict,
    "lmms": _lmms,
    "likelihood": _likelihood,
}


def is_right(answer: Answer, scorer: str) -> bool | None:
    """Whether an answer is right under a scorer; None: it is not counted, as no answer to an open question is."""
    return SCORERS[scorer](answer) if answer.candidates else None


def count(answers: Iterable[Answer], scorer: str) -> dict[str, Count]:
    """By task, in the order of the answers."""
    found: dict[str, Count] = {}
    for answer in answers:
        right = is_right(answer, scorer)
        own = Count(0, 0, 1) if right is None else Count(int(right), 1)
        found[answer.task] = found.get(answer.task, Count()) + own
    return found


def is_parsed(answer: Answer) -> bool:
    """Whether the reply begins with a letter of one of its options."""
    letter = rules.first_letter(rules.reply_of(answer.reply))
    return letter is not None and ord(letter) - ord("A") < len(answer.candidates)
