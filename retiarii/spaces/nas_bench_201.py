"""NAS-Bench-201: one of five operations on each of a cell's six edges."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from retiarii.mutators.layers import LayerChoice
from retiarii.space import ModelSpace
from retiarii.spaces.blocks import pooled_head

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
# In the order of the digits in published tables.
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))


def decisions_201(cell: str) -> Mapping[str, str]:
    """Decisions for a cell written with a digit an edge, in the order of `EDGES`.

    ``"333133"`` has 3x3 convolutions on all edges but (0, 3), which is a skip connection.
    """
    return {
        f"edge{source}{target}": OPERATIONS[int(digit)]
        for (source, target), digit in zip(EDGES, cell, strict=True)
    }


class _Zero(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0.0


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )


class _Cell(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        for source, target in EDGES:
            options = {
                "none": _Zero(),
                "skip_connect": nn.Identity(),
                "nor_conv_1x1": _conv(channels, channels, 1),
                "nor_conv_3x3": _conv(channels, channels, 3),
                "avg_pool_3x3": nn.AvgPool2d(3, 1, 1, count_include_pad=False),
            }
            edge = f"edge{source}{target}"
            self.add_module(edge, LayerChoice(options, label=edge))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes = [x]
        for target in (1, 2, 3):
            parts = [getattr(self, f"edge{s}{target}")(nodes[s]) for s in range(target)]
            nodes.append(sum(parts[1:], start=parts[0]))
        return nodes[3]


class _Reduction(nn.Module):
    """The residual block between stages: half the resolution, twice the channels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(channels, 2 * channels, 3, 2), _conv(2 * channels, 2 * channels, 3)
        )
        self.down = nn.Sequential(nn.AvgPool2d(2), nn.Conv2d(channels, 2 * channels, 1, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = self.body(x) + self.down(x)
        return made


def nas_bench_201(
    channels: int = 16, cells: int = 5, classes: int = 10, input_size: int = 32
) -> ModelSpace:
    """The space of NAS-Bench-201 (Dong and Yang, ICLR 2020).

    All cells share their six decisions, ``edge01`` to ``edge23``.

    Size: 5^6 = 15,625, as published.

    Reference: the parameters of all 15,625 networks are in the published table; ours are equal to
    the last digit.

    Args:
        channels: of the first stage; each further stage has twice as many.
        cells: in each of the three stages.
        classes: of the classifier.
        input_size: height and width of the input, ``(n, 3, input_size, input_size)``; at least 4.
    """
    with torch.device("meta"):
        layers: list[nn.Module] = [
            nn.Conv2d(3, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        ]
        for stage in range(3):
            layers += [_Cell(channels) for _ in range(cells)]
            if stage < 2:
                layers.append(_Reduction(channels))
                channels *= 2
        layers += [nn.BatchNorm2d(channels), nn.ReLU(), *pooled_head(channels, classes)]
        net = nn.Sequential(*layers)
    return ModelSpace(net, torch.zeros(2, 3, input_size, input_size))
