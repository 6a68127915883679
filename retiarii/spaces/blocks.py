"""Layers that several of the published spaces are made of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Activation = Callable[[], nn.Module]


def rounded(value: float, divisor: int = 8) -> int:
    """The nearest multiple of ``divisor``, never more than 10 % below ``value``."""
    made = max(divisor, int(value + divisor / 2) // divisor * divisor)
    return made + divisor if made < 0.9 * value else made


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    *,
    groups: int = 1,
    activation: Activation | None = nn.ReLU,
) -> nn.Sequential:
    """Convolution without bias, BatchNorm, activation; "same" padding for odd kernels."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    if activation is not None:
        layers.append(activation())
    return nn.Sequential(*layers)


def pooled_head(channels: int, classes: int) -> tuple[nn.Module, ...]:
    """Global average pooling and a linear classifier."""
    return nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)


class Residual(nn.Module):
    """``body(x) + x``."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.body(x) + x
        return made


class SqueezeExcite(nn.Module):
    """Channel attention (Hu et al., CVPR 2018), with the hard sigmoid of MobileNetV3.

    Args:
        channels: of its input.
        squeezed: channels of the bottleneck.
    """

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.weigh = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = x * self.weigh(x)
        return made


class ChannelShuffle(nn.Module):
    """Interleaves groups of channels (ShuffleNet, Zhang et al., CVPR 2018)."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        split = x.reshape(batch, self.groups, channels // self.groups, height, width)
        return split.transpose(1, 2).reshape(batch, channels, height, width)


def inverted_residual(
    inputs: int,
    outputs: int,
    kernel: int,
    hidden: int,
    stride: int = 1,
    *,
    groups: int = 1,
    squeezed: int = 0,
    activation: Activation = nn.ReLU6,
    expand: bool | None = None,
    shortcut: bool = True,
) -> nn.Module:
    """The block of MobileNetV2 and V3 (Sandler et al., CVPR 2018; Howard et al., ICCV 2019).

    1x1 convolution to ``hidden`` channels, depthwise convolution, 1x1 convolution to ``outputs``;
    with a shortcut where shapes allow.

    Args:
        inputs: channels of its input, ``(n, inputs, h, w)``.
        outputs: channels of its output, ``(n, outputs, h / stride, w / stride)``.
        kernel: side of the depthwise convolution.
        hidden: channels between.
        stride: of the depthwise convolution.
        groups: groups of both 1x1 convolutions, with a channel shuffle between (FBNet).
        squeezed: bottleneck of squeeze-and-excitation; 0 for none.
        activation: makes the nonlinearity.
        expand: whether the first 1x1 convolution is there; by default where ``hidden`` differs.
        shortcut: whether a shortcut is made where shapes allow.
    """
    layers: list[nn.Module] = []
    if hidden != inputs if expand is None else expand:
        layers.append(conv_norm(inputs, hidden, groups=groups, activation=activation))
        if groups > 1:
            layers.append(ChannelShuffle(groups))
    layers.append(conv_norm(hidden, hidden, kernel, stride, groups=hidden, activation=activation))
    if squeezed:
        # MobileNetV3 weighs between the norm and the nonlinearity.
        layers[-1] = nn.Sequential(
            *list(layers[-1].children())[:2], SqueezeExcite(hidden, squeezed), activation()
        )
    layers.append(conv_norm(hidden, outputs, groups=groups, activation=None))
    body = nn.Sequential(*layers)
    return Residual(body) if shortcut and stride == 1 and inputs == outputs else body
