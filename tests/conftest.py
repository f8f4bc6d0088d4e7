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
def no_port_of_others() -> None:
    """Lightning leaves the port of a run in this process to all that come later, whose own ranks would then find it
    taken: each test starts without one."""
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        os.environ.pop(name, None)
