"""Single path one-shot: four choice blocks in each of 20 places of a ShuffleNetV2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import nn

from retiarii.mutators.layers import LayerChoice
from retiarii.space import ModelSpace
from retiarii.spaces.blocks import ChannelShuffle, conv_norm

# (channels, blocks) of each stage; the first block of each halves height and width.
STAGES = ((64, 4), (160, 4), (320, 8), (640, 4))


SPOS_FOUND: Mapping[str, str] = MappingProxyType(
    {
        f"block{i}": kind
        for i, kind in enumerate(
            [
                "7",
                "5",
                "3",
                "5",
                "7",
                "3",
                "7",
                "3",
                "7",
                "3",
                "7",
                "x",
                "3",
                "3",
                "3",
                "3",
                "x",
                "7",
                "x",
                "x",
            ]
        )
    }
)


def _depthwise(channels: int, kernel: int, stride: int) -> nn.Sequential:
    return conv_norm(channels, channels, kernel, stride, groups=channels, activation=None)


def _separable(inputs: int, middle: int, outputs: int, kernel: int, stride: int) -> nn.Module:
    """ShuffleNetV2's branch: 1x1, depthwise, 1x1."""
    return nn.Sequential(
        conv_norm(inputs, middle), _depthwise(middle, kernel, stride), conv_norm(middle, outputs)
    )


def _xception(inputs: int, middle: int, outputs: int, stride: int) -> nn.Module:
    """Three depthwise 3x3 convolutions, each followed by a 1x1 convolution."""
    widths = (inputs, middle, middle, outputs)
    layers: list[nn.Module] = []
    for i in range(3):
        layers.append(_depthwise(widths[i], 3, stride if i == 0 else 1))
        layers.append(conv_norm(widths[i], widths[i + 1]))
    return nn.Sequential(*layers)


class _Block(nn.Module):
    """Half of the channels pass, the other half goes through a branch; with a stride, all do."""

    def __init__(self, inputs: int, outputs: int, kind: str, stride: int) -> None:
        super().__init__()
        self.stride = stride
        taken = inputs if stride == 2 else inputs // 2
        middle, new = outputs // 2, outputs - taken
        self.branch = (
            _xception(taken, middle, new, stride)
            if kind == "x"
            else _separable(taken, middle, new, int(kind), stride)
        )
        # As in the released network, the other path has the branch's kernel too.
        size = 3 if kind == "x" else int(kind)
        self.project = (
            nn.Sequential(_depthwise(inputs, size, 2), conv_norm(inputs, inputs))
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


def spos(
    classes: int = 1000,
    input_size: int = 224,
    *,
    stem: int = 16,
    stages: Sequence[tuple[int, int]] = STAGES,
    features: int = 1024,
    kinds: Sequence[str] = ("3", "5", "7", "x"),
) -> ModelSpace:
    """The block space of single path one-shot NAS (Guo et al., ECCV 2020).

    In each of 20 places a ShuffleNetV2 block with kernel 3, 5 or 7, or an Xception-like one
    (``"x"``).

    Size: 4^20 = 1.1 * 10^12, as published.

    Reference: the network that the authors released (`SPOS_FOUND`), 323 M multiply-adds and 3.5 M
    parameters as published; ours has 322.9 M and 3,558,464. (The paper bounds candidates by 330 M.)

    Args:
        classes: of the classifier.
        input_size: height and width of the input, ``(n, 3, input_size, input_size)``.
        stem: channels of the first convolution.
        stages: (channels, blocks) of each.
        features: channels before the classifier.
        kinds: blocks to choose from.
    """
    with torch.device("meta"):
        layers: list[nn.Module] = [conv_norm(3, stem, 3, 2)]
        channels, number = stem, 0
        for outputs, blocks in stages:
            for i in range(blocks):
                options = {k: _Block(channels, outputs, k, 2 if i == 0 else 1) for k in kinds}
                layers.append(LayerChoice(options, label=f"block{number}"))
                channels, number = outputs, number + 1
        layers += [
            conv_norm(channels, features),
            nn.AdaptiveAvgPool2d(1),
            nn.Dropout(0.1),
            nn.Flatten(),
            nn.Linear(features, classes, bias=False),
        ]
        net = nn.Sequential(*layers)
    return ModelSpace(net, torch.zeros(2, 3, input_size, input_size))
