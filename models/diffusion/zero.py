"""Layers that start at zero, so that a branch that ends in one starts as nothing; a reset keeps them so."""

from torch import nn


class ZeroLinear(nn.Linear):
    """A linear layer whose weight and bias start at zero."""

    def reset_parameters(self) -> None:
        _zero(self)


class ZeroConv2d(nn.Conv2d):
    """A convolution whose weight and bias start at zero."""

    def reset_parameters(self) -> None:
        _zero(self)


class ZeroConv3d(nn.Conv3d):
    """A convolution whose weight and bias start at zero."""

    def reset_parameters(self) -> None:
        _zero(self)


def _zero(layer: nn.Module) -> None:
    for parameter in layer.parameters(recurse=False):
        nn.init.zeros_(parameter)
