"""Weak scaling: the estimate against sums by hand, and a measurement in two processes."""

import math

import pytest
from torch import nn

from pretrain.studies.scaling import Cluster, estimate
from tests.helpers.runs import ROOT, run_script

PLAIN = Cluster(
    peak=1e12, mfu=0.5, within_node=1e9, between_nodes=1e8, latency=0.0, devices_per_node=8, overlap=0.0, jitter=0.0
)
MILLION = nn.Linear(1000, 1000, bias=False)


@pytest.mark.parametrize("strategy,half,bytes_each", [("ddp", False, 8), ("fsdp", False, 12), ("fsdp", True, 8)])
@pytest.mark.parametrize("devices,speed", [(8, 1e9), (64, 1e8)])
def test_an_estimate_by_hand(strategy: str, half: bool, bytes_each: int, devices: int, speed: float) -> None:
    """A clip of 1e12 operations takes 2 s; a million parameters go around a ring, slower beyond one node."""
    found = estimate(MILLION, 1e12, 1, devices, strategy, PLAIN, half)
    sent = bytes_each * 1e6 * (devices - 1) / devices / speed
    assert found["step"] == pytest.approx(2 + sent)
    assert found["share"] == pytest.approx(sent / (2 + sent)) and found["efficiency"] == pytest.approx(2 / (2 + sent))


def test_overlap_latency_and_jitter_of_an_estimate() -> None:
    """All messages but the last overlap with computation; one device waits for no other, several for the slowest."""
    assert estimate(MILLION, 1e12, 1, 1, "ddp", PLAIN) == {"step": 2.0, "share": 0.0, "efficiency": 1.0}
    blocks = nn.ModuleDict({"blocks": nn.ModuleList(nn.Linear(500, 500, bias=False) for _ in range(4))})
    overlapped = estimate(blocks, 1e12, 1, 8, "ddp", Cluster(**{**vars(PLAIN), "overlap": 0.6}))
    assert overlapped["step"] == pytest.approx(2 + 8e6 * 7 / 8 / 1e9 / 4)
    far = Cluster(**{**vars(PLAIN), "latency": 1e-3, "within_node": math.inf, "between_nodes": math.inf})
    assert estimate(MILLION, 1e12, 1, 64, "ddp", far)["step"] == pytest.approx(2 + 12e-3)
    assert estimate(MILLION, 1e12, 1, 64, "fsdp", far)["step"] == pytest.approx(2 + 3 * 63e-3)
    late = estimate(MILLION, 1e12, 1, 8, "ddp", Cluster(**{**vars(PLAIN), "jitter": 0.01, "within_node": math.inf}))
    assert late["step"] == pytest.approx(2 * (1 + 0.01 * math.sqrt(2 * math.log(8))))


@pytest.mark.slow
def test_the_tool_measures_and_estimates() -> None:
    recipe = ["-c", str(ROOT / "recipes/videomae_tiny.yaml")]
    lines = run_script("tools/scaling.py", ["measure", *recipe, "--devices", "2", "--steps", "2", "--clips", "1"])
    devices, step, share, efficiency = lines.splitlines()[-1].split()
    assert devices == "2" and float(step) > 0 and 0 <= float(share[:-1]) < 100 and efficiency == "100.0%"
    rows = run_script("tools/scaling.py", ["estimate", *recipe, "--clips", "512"]).splitlines()[1:]
    assert [int(row.split()[0]) for row in rows] == [8, 64, 512]
    efficiencies = [float(row.split()[-1][:-1]) for row in rows]
    assert efficiencies == sorted(efficiencies, reverse=True) and efficiencies[-1] < efficiencies[0] < 100
