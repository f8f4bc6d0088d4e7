"""What all tests share: reference cases, an environment without ranks, and a summary of what was skipped and why."""

import logging
import os
from collections import Counter
from pathlib import Path

import pytest
import torch

# A process's first backward pass starts a thread of autograd for each device that it knows, and forks of a process with
# such threads compute no gradients. Dynamo and dry runs make devices known that are not there: this comes before them.
torch.ones((), requires_grad=True).backward()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--references",
        type=Path,
        action="append",
        help="folder of reference cases for test_parity.py (NAME.json beside NAME.safetensors); may be given again",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test a case: `case` is the path of its json; folders of folders are searched too."""
    if "case" in metafunc.fixturenames:
        from tests.parity.find import default_folders, find

        metafunc.parametrize("case", find(metafunc.config.getoption("--references") or default_folders()))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Reasons of skipped tests, each once, with how many tests it concerns."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in skipped)
    if reasons:
        terminalreporter.section("skipped, and why", sep="-")
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"{count:4d}  {reason}")


@pytest.fixture(autouse=True)
def lightnings_loudness() -> None:
    """Lightning's own level of its logger, which other tests and fixtures raise: some tests read what it says."""
    logging.getLogger("lightning.pytorch").setLevel(logging.INFO)


@pytest.fixture(autouse=True)
def without_ranks() -> None:
    """Remove the rank and the port of a run in this process, which Lightning leaves in the environment: later tests
    would take themselves for one of its ranks, or find the port taken."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
