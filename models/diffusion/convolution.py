"""A convolution of frames in the memory layout that costs less to prepare."""

import math

import torch
from torch import Tensor, nn


def convolve(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """`conv` of `[N, C, H, W]`; where channels are last in memory, they are so in the output.

    Weights are stored with channels first. On a CPU, torch rearranges them at each call if channels are last in `x`,
    and gradients of weights back; where they are larger than input and output, these are rearranged instead.
    """
    if x.device.type != "cpu" or conv.kernel_size == (1, 1):
        return conv(x)
    weights = conv.out_channels * conv.in_channels * math.prod(conv.kernel_size)
    outputs = x.numel() // math.prod(conv.stride) * conv.out_channels // conv.in_channels
    if weights < x.numel() + outputs:
        return conv(x)
    return conv(x.contiguous()).contiguous(memory_format=torch.channels_last)
