"""MVBench's matchers and averages: what each counts as right, and answers that are no candidates."""

import pytest

from pretrain.metrics import mvbench_rules as rules

GOLD = "(A) Ate the medicine."


@pytest.mark.parametrize(
    ("reply", "official", "strict", "lmms"),
    [
        ("(A) Ate the medicine.", True, True, True),
        ("A", True, True, True),
        ("(B)", False, False, False),
        ("(", True, False, False),  # an empty reply after the bracket of the prompt
        ("", True, False, False),
        ("Option A", False, False, True),
        ("**A**", False, True, True),
        ("A: Ate", False, True, True),
        ("(AB)", False, False, False),
        ("Ate the medicine.", False, False, False),
        ("It shows a man", False, False, True),  # lmms-eval takes the article for the letter
    ],
)
def test_replies_under_each_matcher(reply: str, official: bool, strict: bool, lmms: bool) -> None:
    found = [rules.MATCHERS[name](reply, GOLD) for name in ("official", "strict", "lmms")]
    assert found == [official, strict, lmms]


def test_a_word_with_the_right_letter_counts_in_the_hd_notebook_only() -> None:
    gold = "(E) Nobody knows."
    assert rules.MATCHERS["official_hd"]("Everyone left", gold) and not rules.MATCHERS["strict"]("Everyone left", gold)


def test_an_answer_that_is_no_candidate_is_an_error_unless_asked_for() -> None:
    with pytest.raises(ValueError, match="none of the candidates"):
        rules.gold_answer(["yes", "no"], "maybe")
    assert rules.gold_answer(["yes", "no"], "maybe", strict=False) == "(@) maybe"


def test_the_average_is_over_questions_and_lmms_leaves_out_empty_replies() -> None:
    assert rules.official_accuracies({"a": (1, 1), "b": (0, 3)}) == {"a": 100, "b": 0, "Avg": 25}
    assert rules.lmms_accuracy([("(A)", 1), ("", 0)]) == 100 and rules.lmms_accuracy([("", 0)]) == 0
