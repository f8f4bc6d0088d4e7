"""A real `fit` with every allocation of this process written down: prints the most bytes of tensors that lived at a
time. `python tests/helpers/allocations.py fit -c ...`; of several ranks each prints a line."""

import sys

from torch.profiler import ProfilerActivity, profile

from pretrain.cli import main


def peak(found) -> int:
    """The largest sum of what was taken and given back so far, in bytes, as torch's CPU allocator reports it."""
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
