"""Operations of the cells of NASNet and DARTS, each for a stride of 1 or 2."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

# (operation, the input that it reads), two for each node of a cell.
Genes = Sequence[tuple[str, int]]

# (channels, stride) -> layer
Operation = Callable[[int, int], nn.Module]


def relu_conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> nn.Sequential:
    """ReLU, convolution, BatchNorm."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class FactorizedReduce(nn.Module):
    """Half the resolution without dropping pixels: two 1x1 convolutions, one shifted by a pixel."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.even = nn.Conv2d(inputs, outputs // 2, 1, 2, bias=False)
        self.odd = nn.Conv2d(inputs, outputs - outputs // 2, 1, 2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(x)
        made: torch.Tensor = self.norm(torch.cat([self.even(x), self.odd(x[:, :, 1:, 1:])], dim=1))
        return made


def separable(kernel: int) -> Operation:
    """Depthwise and 1x1 convolution, twice, as NASNet has it."""

    def make(channels: int, stride: int) -> nn.Module:
        layers: list[nn.Module] = []
        for step in (stride, 1):
            layers += [
                nn.ReLU(),
                nn.Conv2d(
                    channels, channels, kernel, step, kernel // 2, groups=channels, bias=False
                ),
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            ]
        return nn.Sequential(*layers)

    return make


def dilated(kernel: int) -> Operation:
    """A separable convolution with dilation 2, once."""

    def make(channels: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(
                channels, channels, kernel, stride, kernel - 1, 2, groups=channels, bias=False
            ),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    return make


def conv(kernel: int) -> Operation:
    """A plain convolution."""
    return lambda channels, stride: relu_conv(channels, channels, kernel, stride)


def two_convs(kernel: int) -> Operation:
    """1 x kernel, then kernel x 1."""

    def make(channels: int, stride: int) -> nn.Module:
        pad = kernel // 2
        return nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, kernel), (1, stride), (0, pad), bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, (kernel, 1), (stride, 1), (pad, 0), bias=False),
            nn.BatchNorm2d(channels),
        )

    return make


def max_pool(kernel: int) -> Operation:
    return lambda _, stride: nn.MaxPool2d(kernel, stride, kernel // 2)


def avg_pool(kernel: int) -> Operation:
    return lambda _, stride: nn.AvgPool2d(kernel, stride, kernel // 2, count_include_pad=False)


def normed(pool: Operation) -> Operation:
    """A pooling with a BatchNorm without parameters, as DARTS has it."""
    return lambda channels, stride: nn.Sequential(
        pool(channels, stride), nn.BatchNorm2d(channels, affine=False)
    )


def skip(channels: int, stride: int) -> nn.Module:
    """The identity; with a stride, a `FactorizedReduce`."""
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)


def strided_skip(channels: int, stride: int) -> nn.Module:
    """The identity; with a stride, a 1x1 convolution, as NASNet has it."""
    return nn.Identity() if stride == 1 else relu_conv(channels, channels, 1, stride)


class ByResolution(nn.Module):
    """In a reduction cell, what reads the cell's inputs halves the resolution; the rest does not.

    Args:
        operation: makes the layer for a stride.
        channels: of input and output.
        size: height of what the cell makes.
    """

    def __init__(self, operation: Operation, channels: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.kept = operation(channels, 1)
        self.halved = operation(channels, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.kept(x) if x.shape[2] == self.size else self.halved(x)
        return made


def placed(operation: Operation, channels: int, size: int, reduces: bool) -> nn.Module:
    """The layer for a place in a cell."""
    return ByResolution(operation, channels, size) if reduces else operation(channels, 1)


def read_genes(text: str) -> Genes:
    """A genotype as printed: ``"sep_conv_3x3 0 skip_connect 1"``, an operation and its input."""
    words = text.split()
    return [(op, int(source)) for op, source in zip(words[::2], words[1::2], strict=True)]
