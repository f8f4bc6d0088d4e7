"""Runs a real `fit`, records every allocation of this process, and prints the peak memory of its tensors in bytes.

`python tests/helpers/allocations.py fit -c ...`; with several ranks each prints one line.
"""

import sys

from torch.profiler import ProfilerActivity, profile

from pretrain.cli import main


def peak(found) -> int:
    """The largest number of bytes held at a time, by the allocations and frees that torch's CPU allocator reports."""
    events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


if __name__ == "__main__":
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        main(sys.argv[1:])
    print("PEAK", peak(found), flush=True)
