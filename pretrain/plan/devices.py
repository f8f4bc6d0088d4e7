"""Devices as their vendors publish them: memory, and floating-point operations a second of dense matrix products."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Card:
    """One device.

    memory: bytes, the published GB taken as 10^9 (torch reports a few per cent more); None: not for us to say.
    half, full: FLOP/s in bfloat16 (the V100's in float16, it has no bfloat16) and in float32 without TF32, both dense;
        None: not published.
    source: the vendor's document.
    """

    memory: float | None
    half: float | None
    full: float | None
    source: str
    bfloat16: bool = True

    @property
    def gpu(self) -> bool:
        return self.memory is not None


CARDS: dict[str, Card] = {
    "v100-32g": Card(32e9, 125e12, 15.7e12, "NVIDIA V100 datasheet (SXM2)", bfloat16=False),
    "a100-40g": Card(40e9, 312e12, 19.5e12, "NVIDIA A100 datasheet (SXM)"),
    "a100-80g": Card(80e9, 312e12, 19.5e12, "NVIDIA A100 datasheet (SXM)"),
    "h100-80g": Card(80e9, 989e12, 67e12, "NVIDIA H100 datasheet (SXM; published with sparsity, halved)"),
    "h200": Card(141e9, 989e12, 67e12, "NVIDIA H200 datasheet (SXM; published with sparsity, halved)"),
    "b200": Card(180e9, 2250e12, 75e12, "NVIDIA HGX B200 datasheet (an eighth; published with sparsity, halved)"),
    "rtx4090": Card(24e9, 165e12, 82.6e12, "NVIDIA Ada architecture whitepaper (bfloat16 with float32 accumulation)"),
    "cpu": Card(None, None, None, "none: a CPU's memory and rate are the machine's"),
}
