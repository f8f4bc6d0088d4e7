"""Jobs that crash or hang are dropped by name; the others run in parallel, and no process outlives the crew."""

import faulthandler
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from datamodules.making.crew import Crew
from tests.helpers.paths import ROOT


def work(job: str, folder: Path) -> list[str] | str:
    """Stands for a decoder with bugs in native code; `meet-N-a` and `meet-N-b` need each other to run at once."""
    kind, _, rest = job.partition("-")
    if kind == "segfault":
        faulthandler.disable()  # no report among the lines of the tests
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "exit":
        os._exit(3)
    if kind == "killed" and not (folder / job).exists():
        (folder / job).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "hang":
        time.sleep(1000)
    if kind == "bug":
        raise ZeroDivisionError("a bug")
    if kind == "meet":
        time.sleep(0.3)  # the crashes come first
        (folder / job).touch()
        other = folder / f"meet-{rest[:-1]}{'ab'[rest[-1] == 'a']}"
        deadline = time.monotonic() + 20
        while not other.exists():
            if time.monotonic() > deadline:
                return "it ran alone"
            time.sleep(0.01)
    return [job, "x" * (10_000_000 if kind == "large" else 0)]


def run(jobs: list[str], folder: Path, workers: int, limit: float) -> list[str]:
    """What became of each job: its own name if it has a result."""
    with Crew(partial(work, folder=folder), workers, limit) as crew:
        return [found if isinstance(found, str) else found[0] for found in crew.run(jobs)]


def test_only_what_crashes_or_hangs_is_dropped_and_the_rest_runs_in_parallel(tmp_path: Path) -> None:
    meetings = [f"meet-{i}-{which}" for i in range(4) for which in "ab"]
    found = run(["segfault", *meetings[:4], "hang", "exit", *meetings[4:]], tmp_path, 3, 10.0)
    died, late = "its worker died of SIGSEGV", "it takes longer than 10 s"
    assert found == [died, *meetings[:4], late, "its worker ended with 3", *meetings[4:]]


def test_crashes_among_large_results_are_the_crashing_jobs_own(tmp_path: Path) -> None:
    """A process may die before its pool has read what it sent: no other job may be blamed or wait for that."""
    jobs = [f"exit-{i}" if i % 3 == 2 else f"large-{i}" for i in range(30)]
    began = time.monotonic()
    found = run(jobs, tmp_path, 2, 600.0)
    assert time.monotonic() - began < 300
    for job, result in zip(jobs, found, strict=True):
        assert result == job if job.startswith("large") else result.startswith("its worker ")


def test_one_worker_does_all_in_order_and_a_kill_from_outside_costs_nothing(tmp_path: Path) -> None:
    found = run(["a", "killed", "b", "hang", "c"], tmp_path, 1, 4.0)
    assert found == ["a", "killed", "b", "it takes longer than 4 s", "c"]


def test_a_bug_reaches_the_caller(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="a bug"):
        run(["a", "bug", *"bcdefgh"], tmp_path, 2, 60.0)


@pytest.mark.skipif(not Path("/proc").exists(), reason="it looks for the processes in /proc")
def test_ctrl_c_ends_all_processes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import signal\nimport sys\nsys.path.insert(0, sys.argv[1])\nfrom functools import partial\n"
        "from pathlib import Path\n"
        "from datamodules.making.crew import Crew\nfrom tests.making.test_crew import work\n"
        "if __name__ == '__main__':\n"
        "    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a background job of a shell ignores it
        "    with Crew(partial(work, folder=Path(sys.argv[2])), 2, 600.0) as crew:\n"
        "        for found in crew.run(['a', *['hang'] * 20]):\n"
        "            print(found[0], flush=True)\n"
    )
    command = [sys.executable, script, ROOT, tmp_path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, process_group=0)
    assert process.stdout is not None
    assert process.stdout.readline() == "a\n"  # it comes when eight jobs are submitted
    os.killpg(process.pid, signal.SIGINT)
    process.wait(60)
    deadline = time.monotonic() + 60
    while _group(process.pid):
        assert time.monotonic() < deadline, "a process outlives Ctrl-C"
        time.sleep(0.05)


def _group(group: int) -> list[str]:
    """Living processes of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, of = stat.read_text().rpartition(")")[2].split()[:3]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(of) == group and state != "Z":
            found.append(stat.parent.name)
    return found
