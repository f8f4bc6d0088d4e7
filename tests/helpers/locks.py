"""Another process that holds a lock, alone or with a child that outlives it."""

import subprocess
import sys
from pathlib import Path

from tests.helpers.paths import ROOT

_HOLDER = """
import os, sys, time
from pathlib import Path
sys.path.insert(0, "datamodules/storage")  # without the package, whose imports take seconds
from lock import Lock
lock = Lock(Path(sys.argv[1]), sys.argv[1])
if sys.argv[2] == "True":
    child = os.fork()
    if child == 0:
        os.closerange(0, 3)
        time.sleep(300)
        os._exit(0)
    Path(sys.argv[1] + ".child").write_text(str(child))
print("held", flush=True)
sys.stdin.readline()
lock.release()
"""


def hold(file: Path, child: bool = False) -> subprocess.Popen:
    """A process that holds the lock `file` until `release`; with `child`, its child's pid is in `FILE.child`."""
    command = [sys.executable, "-c", _HOLDER, str(file), str(child)]
    holder = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    return holder


def release(holder: subprocess.Popen) -> None:
    """Lets a holder end as usual."""
    holder.communicate("\n", timeout=60)
