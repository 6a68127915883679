"""Single path one-shot: four choice blocks in each of 20 places of a ShuffleNetV2."""

from __future__ import annotations

import torch
from torch import nn

from retiarii.spaces.blocks import ChannelShuffle, conv_norm

# (channels, blocks) of each stage; the first block of each halves height and width.
STAGES = ((64, 4), (160, 4), (320, 8), (640, 4))


def _depthwise(channels: int, kernel: int, stride: int) -> nn.Sequential:
    return conv_norm(channels, channels, kernel, stride, groups=channels, activation=None)


def _branch(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    """ShuffleNetV2's branch: 1x1, depthwise, 1x1; half the output is between."""
    return nn.Sequential(
        conv_norm(inputs, outputs),
        _depthwise(outputs, kernel, stride),
        conv_norm(outputs, outputs),
    )


def _xception(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """Three depthwise 3x3 convolutions, each followed by a 1x1 convolution."""
    layers: list[nn.Module] = []
    for i in range(3):
        width = inputs if i == 0 else outputs
        layers += [_depthwise(width, 3, stride if i == 0 else 1), conv_norm(width, outputs)]
    return nn.Sequential(*layers)


class _Block(nn.Module):
    """Half of the channels pass, the other half goes through a branch; with a stride, all do."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__()
        half = outputs // 2
        self.stride = stride
        taken = inputs if stride == 2 else inputs // 2
        new = outputs - (inputs if stride == 2 else taken)
        del half
        self.branch = (
            _xception(taken, new, stride) if kernel == 0 else _branch(taken, new, kernel, stride)
        )
        self.project = (
            nn.Sequential(_depthwise(inputs, 3, 2), conv_norm(inputs, inputs))
            if stride == 2
            else nn.Identity()
        )
        self.shuffle = ChannelShuffle(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride == 2:
            passed, taken = self.project(x), x
        else:
            passed, taken = x.chunk(2, dim=1)
        made: torch.Tensor = self.shuffle(torch.cat([passed, self.branch(taken)], dim=1))
        return made
