"""What all tests share: where the reference cases lie, and one thread a process so that times are alike everywhere."""

import json
import os
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--references",
        type=Path,
        default=HERE / "references",
        help="folder of reference cases for test_parity.py (NAME.json beside NAME.safetensors)",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test a case: `case` is the path of its json; folders of folders are searched too."""
    if "case" in metafunc.fixturenames:
        folder = metafunc.config.getoption("--references")
        cases = sorted(path for path in folder.rglob("*.json") if isinstance(json.loads(path.read_text()), dict))
        assert cases, f"no reference cases in {folder}"
        metafunc.parametrize("case", cases, ids=[path.stem for path in cases])


@pytest.fixture(autouse=True)
def alone() -> None:
    """Lightning leaves the rank and the port of a run in this process to all that come later, which would then take
    themselves for one of its ranks, or find the port taken: each test starts without them."""
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"):
        os.environ.pop(name, None)
