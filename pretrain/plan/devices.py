"""Published memory and arithmetic rates of devices: operations a second in dense matrix products."""

from dataclasses import dataclass

import torch
from lightning.fabric.utilities.throughput import get_available_flops


@dataclass(frozen=True)
class Device:
    """One device.

    memory: bytes, the published GB taken as 10^9 (torch reports a few per cent more); None: unknown.
    bfloat16_flops, float32_flops: FLOP/s in bfloat16 (float16 on the V100, which has no bfloat16) and in float32
        without TF32, both dense; None: not published.
    source: the vendor's document.
    has_bfloat16: whether the device computes in bfloat16.
    """

    memory: float | None
    bfloat16_flops: float | None
    float32_flops: float | None
    source: str
    has_bfloat16: bool = True

    @property
    def is_gpu(self) -> bool:
        return self.memory is not None


DEVICES: dict[str, Device] = {
    "v100-32g": Device(32e9, 125e12, 15.7e12, "NVIDIA V100 datasheet (SXM2)", has_bfloat16=False),
    "a100-40g": Device(40e9, 312e12, 19.5e12, "NVIDIA A100 datasheet (SXM)"),
    "a100-80g": Device(80e9, 312e12, 19.5e12, "NVIDIA A100 datasheet (SXM)"),
    "h100-80g": Device(80e9, 989e12, 67e12, "NVIDIA H100 datasheet (SXM; published with sparsity, halved)"),
    "h200": Device(141e9, 989e12, 67e12, "NVIDIA H200 datasheet (SXM; published with sparsity, halved)"),
    "b200": Device(180e9, 2250e12, 75e12, "NVIDIA HGX B200 datasheet (an eighth; published with sparsity, halved)"),
    "rtx4090": Device(24e9, 165e12, 82.6e12, "NVIDIA Ada architecture whitepaper (bfloat16 with float32 accumulation)"),
    "cpu": Device(None, None, None, "none: a CPU's memory and rate are the machine's"),
}

# Parts of the names that NVIDIA's driver reports, and the device that they mean.
_DRIVER_NAMES = {
    "v100-sxm": "v100-32g",
    "a100": "a100-80g",
    "h100 80gb hbm3": "h100-80g",
    "h200": "h200",
    "b200": "b200",
    "rtx 4090": "rtx4090",
}


def peak_rate(device: torch.device, dtype: torch.dtype) -> float | None:
    """FLOP/s in dense products of `dtype`, float32 as `torch.get_float32_matmul_precision` says; None: unknown.

    From the table above, else from Lightning's, which warns about a GPU that it does not know either.
    """
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device).lower()
    if "nvl" in name:
        return None  # Lightning's figures of these count sparsity: they are twice the dense rate
    known = next((DEVICES[key] for part, key in _DRIVER_NAMES.items() if part in name), None)
    tf32 = dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest"
    if known is None or tf32:
        return get_available_flops(device, dtype)
    if dtype == torch.float32:
        return known.float32_flops
    return known.bfloat16_flops if known.has_bfloat16 or dtype == torch.float16 else None
