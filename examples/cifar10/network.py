"""A small CNN: stages of blocks, each with half the resolution of the one before."""

from data import Normalize
from torch import nn


def conv(kind, inputs, outputs):
    """A layer of one of three kinds."""
    if kind == "separable":
        return nn.Sequential(
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
        )
    size = int(kind[-1])
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)


class Block(nn.Module):
    def __init__(self, kind, inputs, outputs):
        super().__init__()
        self.conv, self.norm, self.act = (
            conv(kind, inputs, outputs),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
        )
        self.skip = inputs == outputs

    def forward(self, x):
        y = self.norm(self.conv(x))
        return self.act(x + y if self.skip else y)


class Net(nn.Module):
    """The net.

    Args:
        widths: channels of each stage.
        kinds: of the convolutions of each stage: ``conv3``, ``conv5`` or ``separable``.
        depth: blocks of a stage.
        dropout: before the last layer.
    """

    def __init__(self, widths=(16, 32, 64), kinds=("conv3",) * 3, depth=1, dropout=0.0):
        super().__init__()
        layers, inputs = [Normalize()], 3
        for width, kind in zip(widths, kinds, strict=True):
            for _ in range(depth):
                layers.append(Block(kind, inputs, width))
                inputs = width
            layers.append(nn.MaxPool2d(2))
        self.body = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, 10))

    def forward(self, images):
        return self.head(self.body(images))
