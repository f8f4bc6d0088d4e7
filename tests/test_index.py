"""tests/README.md lists every test file, and the promises that it quotes are those of README.md and docs/."""

import re

from tests.helpers.paths import ROOT, TESTS

PAGE = (TESTS / "README.md").read_text()
TEST_FILE = re.compile(r"`((?:\w+/)*test_\w+\.py)`")


def test_every_test_file_is_listed_once_among_its_room_and_none_is_missing() -> None:
    _, _, rooms = PAGE.partition("\n## The whole\n")
    listed = re.findall(r"^\| `([\w/]+\.py)` \|", rooms, re.MULTILINE)
    there = sorted(str(path.relative_to(TESTS)) for path in TESTS.rglob("test_*.py"))
    assert sorted(listed) == there, "list each test file once in tests/README.md, in the table of its room"


def test_files_that_prove_a_promise_are_there() -> None:
    promises, _, _ = PAGE.partition("\n## The whole\n")
    named = set(TEST_FILE.findall(promises.replace("tests/", "")))
    assert named and not [name for name in named if not (TESTS / name).exists()]


def test_promises_are_quoted_from_the_pages() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    plain = " ".join(" ".join(page.read_text(encoding="utf-8") for page in pages).split())
    rows = PAGE.partition("| promise, in")[2].partition("\n## ")[0].splitlines()[2:]
    quotes = [row.split(" | ")[0].removeprefix("| ") for row in rows if row]
    assert len(quotes) > 50
    assert not [quote for quote in quotes if quote not in plain], "the pages say it in other words now"


def test_the_tour_in_six_files_is_short() -> None:
    """Its page promises fewer than 1,200 lines."""
    tour = (ROOT / "docs/tour.md").read_text().partition("\n## ")[0]
    files = re.findall(r"^\d\. \[[^\]]+\]\(\.\./([^)]+)\)", tour, re.MULTILINE)
    assert len(files) == 6
    assert sum(len((ROOT / file).read_text().splitlines()) for file in files) < 1200
