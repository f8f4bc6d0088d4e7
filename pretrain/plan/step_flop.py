"""FLOP of a run's optimiser step, for its MFU: counted by the plan in a process of its own, while the run trains."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO, Any

import torch
import yaml

from pretrain.plan.devices import peak_rate

_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class StepFlop:
    """Counts the FLOP of a recipe's optimiser step on one device.

    The dry run on fake tensors takes seconds, and the imports before it take longer: both are spent in another process,
    without a GPU and on one thread, so that neither the start of the run nor a step waits for them.

    Args:
        recipe: YAML of the resolved recipe.
    """

    def __init__(self, recipe: str) -> None:
        self.recipe = recipe
        self.process: subprocess.Popen | None = None
        self.out: IO[Any] | None = None

    def peak(self, device: torch.device, dtype: torch.dtype) -> float | None:
        """FLOP/s of the device in dense products; None: unknown."""
        return peak_rate(device, dtype)

    def start(self, devices: int) -> None:
        """Starts the count for a run on so many devices."""
        root = str(Path(__file__).resolve().parents[2])
        paths = os.pathsep.join(path for path in (root, os.environ.get("PYTHONPATH")) if path)
        environment = {name: value for name, value in os.environ.items() if name not in _LAUNCHER}
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        self.out = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 closed by `stop`
        with tempfile.TemporaryFile("w+", encoding="utf-8") as recipe:
            recipe.write(self.recipe)
            recipe.seek(0)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pretrain.plan.step_flop", str(devices)],
                stdin=recipe,
                stdout=self.out,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,  # Ctrl-C and a scheduler's signals are for the run
            )

    def result(self) -> float | None:
        """The FLOP; None: not known yet.

        Raises:
            RuntimeError: the count failed; the message is the last line of its output.
        """
        if self.process is None or self.out is None or self.process.poll() is None:
            return None
        self.out.seek(0)
        lines = self.out.read().strip().splitlines() or [f"exit code {self.process.returncode}"]
        if self.process.returncode:
            raise RuntimeError(f"the plan of this recipe failed: {lines[-1]}")
        return float(lines[-1])

    def stop(self) -> None:
        """Ends the count, if it still goes on."""
        if self.process is not None:
            self.process.kill()  # nothing if it has ended
            self.process.wait()
        if self.out is not None:
            self.out.close()
        self.process = self.out = None


def main() -> None:
    """Prints the FLOP for the number of devices that is the argument, and for the recipe on the standard input."""
    from pretrain.plan.estimate import Plan  # here, since only the other process needs it

    devices = int(sys.argv[1])
    print(Plan(yaml.safe_load(sys.stdin), devices, "a100-80g").model_flop / devices)  # the same for any GPU


if __name__ == "__main__":
    main()
