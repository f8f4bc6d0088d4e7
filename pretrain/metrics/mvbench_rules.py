"""MVBench's rules: questions as prompts, whether a reply is right by each published matcher, and averages."""

import re
from collections.abc import Callable, Mapping, Sequence

from models.chat.templates import ChatTemplate, Conversation, Media, Segment, Turn

# VideoChat2 `mvbench.ipynb`.
SYSTEM = (
    "Carefully watch the video and pay attention to the cause and sequence of events, the detail and movement of "
    "objects, and the action and pose of persons. Based on your observations, select the best option that accurately "
    "addresses the question.\n"
)
QUESTION_END = "\nOnly give the best option."
ANSWER_PREFIX = "Best option:("
RETURN_PREFIX = "("
MAX_NEW_TOKENS = 100  # greedy


def letter(index: int) -> str:
    """The letter of an option, A for the first."""
    return chr(ord("A") + index)


def question_block(question: str, candidates: Sequence[str]) -> str:
    """The question and its options, a line each; trailing space is removed from the last one."""
    options = "".join(f"({letter(i)}) {candidate}\n" for i, candidate in enumerate(candidates))
    return f"Question: {question}\nOptions:\n{options}".rstrip()


def official_question(question: str, candidates: Sequence[str]) -> str:
    """An item as the notebook asks it, without the system prompt."""
    return question_block(question, candidates) + QUESTION_END


def gold_answer(candidates: Sequence[str], answer: str, strict: bool = True) -> str:
    """The right option as `(X) text`.

    Args:
        strict: ValueError if the answer is none of the candidates. False: the letter is then `@`, as in the official
            notebook; some published items are like that.
    """
    matching = [i for i, candidate in enumerate(candidates) if candidate == answer]
    if not matching and strict:
        raise ValueError(f"the answer {answer!r} is none of the candidates {list(candidates)}")
    return f"({letter(matching[-1] if matching else -1)}) {answer}"


def mvbench_segments(
    template: ChatTemplate,
    question: str,
    candidates: Sequence[str],
    medium: Media = "video",
    system_in_question: bool = True,
    system: str = SYSTEM,
    prefix: str = ANSWER_PREFIX,
) -> list[Segment]:
    """The prompt of an item, up to the first characters of the answer.

    Args:
        system_in_question: the system prompt stands a second time before the question, as in the official notebook.
        system, prefix: of another protocol; empty for Phi-3's.
    """
    asked = (system if system_in_question else "") + official_question(question, candidates)
    return template.segments(Conversation((Turn(asked, media=(medium,), prefix=prefix),), system))


def reply_of(raw: str) -> str:
    """A reply as the matchers take it: the first line, with the bracket that the prompt holds already."""
    return RETURN_PREFIX + raw.strip().split("\n")[0]


def lmms_question(question: str, candidates: Sequence[str]) -> str:
    """An item as lmms-eval asks it."""
    options = "".join(f"({letter(i)}) {candidate}\n" for i, candidate in enumerate(candidates)).rstrip()
    return f"Question:{question}\nOption:\n{options}{QUESTION_END}\n"


def lmms_gold(candidates: Sequence[str], answer: str) -> str:
    """The right option's letter; the last one if several have its text. ValueError if none has."""
    return gold_answer(candidates, answer)[1]


def _first_words(reply: str, gold: str) -> tuple[str, str]:
    """The first words of both, in lower case.

    IndexError if the gold option has no text, as the official matchers raise.
    """
    words = gold.lower().split(" ")
    if not " ".join(words[1:]):
        raise IndexError(f"the right option {gold!r} has no text")
    return reply.lower().split(" ")[0], words[0]


def official_match(reply: str, gold: str) -> bool:
    """The notebook's rule: one of the first words, the reply's without full stops, is part of the other.

    An empty reply, `(` and `)` count as right; `Option A` does not. VLMEvalKit without a judge has the same rule.

    Args:
        reply: see `reply_of`.
        gold: see `gold_answer`.

    Raises:
        IndexError: the gold option has no text.
    """
    said, right = _first_words(reply, gold)
    return said.replace(".", "") in right or right in said


def strict_match(reply: str, gold: str) -> bool:
    """The rule of the HD notebook: the reply's first word, without brackets and full stops, has a letter from a to e
    and is or has the right letter. `Everyone` still counts as E."""
    said, right = _first_words(reply, gold)
    said, right = (re.sub(r"[().]", "", word) for word in (said, right))
    return any(character in "abcde" for character in said) and right in said


def letter_match(reply: str, gold: str) -> bool:
    """Our own strict rule: the reply begins with the right letter alone, with brackets or punctuation or without.

    `(A)`, `A.`, `**A**`, `A: text` are A; `AB`, `Everyone`, an empty reply and `Option A` are none.
    """
    return first_letter(reply) == gold[1].upper()


def first_letter(reply: str) -> str | None:
    """The letter that a reply begins with, alone, in upper case."""
    found = re.match(r"[\s(\[*_\"']*([A-Za-z])(?![A-Za-z0-9])", reply)
    return None if found is None else found.group(1).upper()


_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'


def lmms_match(reply: str, gold: str) -> bool:
    """lmms-eval's rule: the first letter from A to E that stands alone anywhere in the reply is the right one.

    The article `a` counts as A. Without such a letter, reply and gold are compared as texts.

    Args:
        gold: the letter, or `(X) text`.

    Source: lmms-eval `tasks/mvbench/utils.py: mcq_acc`.
    """
    return _lmms_letter(reply) == _lmms_letter(gold)


def _lmms_letter(text: str) -> str:
    listed = re.match(r"([A-E])\.\s*(.+)$", text.strip(), re.IGNORECASE)
    if listed:
        return listed.group(1).upper()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    before = text
    digits = re.search(r"\d,\d", before)
    for mark in _PUNCTUATION:  # a mark beside a space, anywhere, is deleted everywhere; else it becomes a space
        beside = mark + " " in before or " " + mark in before or digits
        text = text.replace(mark, "" if beside else " ")
    text = re.sub(r"\.(?!\d)", "", text).strip("'").strip('"').strip(")").strip("(").strip().lower()
    found = re.search(r"\b([a-e])\b", text)
    return found.group(1).upper() if found else text


MATCHERS: dict[str, Callable[[str, str], bool]] = {
    "official": official_match,
    "strict": letter_match,
    "lmms": lmms_match,
    "official_hd": strict_match,
}


def official_accuracies(correct_and_total: Mapping[str, Sequence[int]]) -> dict[str, float]:
    """Percentages of each task, and `Avg` over all questions (not over tasks)."""
    found = {task: 100 * correct / total for task, (correct, total) in correct_and_total.items()}
    correct, total = (sum(counts[i] for counts in correct_and_total.values()) for i in range(2))
    return {**found, "Avg": 100 * correct / total}


def lmms_accuracy(replies: Sequence[tuple[str, float]]) -> float:
    """lmms-eval's percentage of replies and scores: empty replies are not counted at all; 0 if all are empty."""
    scores = [score for reply, score in replies if reply]
    return 100 * sum(scores) / len(scores) if scores else 0.0
