"""The network that cells are stacked in: each reads the outputs of the two before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from retiarii.spaces.cell_ops import FactorizedReduce, relu_conv

# (channels, height of what the cell makes, whether it halves the resolution) -> cell
MakeCell = Callable[[int, int, bool], nn.Module]


class CellStack(nn.Module):
    """A stem, cells, a classifier, as NASNet has them (Zoph et al., CVPR 2018).

    What a cell reads is brought to its number of channels by a 1x1 convolution, and to the
    resolution of the later of its inputs by a `FactorizedReduce`.

    Args:
        make: makes a cell.
        reduces: for each cell, whether it halves the resolution; it then doubles the channels.
        stem: channels of the stem.
        channels: of the first cells.
        size: height of the input, ``(n, 3, size, size)``.
        states: how many states of ``channels`` channels a cell concatenates.
        head: the channels of the last cell -> the classifier.
    """

    def __init__(
        self,
        make: MakeCell,
        reduces: Sequence[bool],
        *,
        stem: int,
        channels: int,
        size: int,
        states: int,
        head: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, padding=1, bias=False), nn.BatchNorm2d(stem)
        )
        self.fit0, self.fit1, self.cells = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        before, last, reduced = stem, stem, False
        for reduce in reduces:
            if reduce:
                channels, size = 2 * channels, size // 2
            self.fit0.append((FactorizedReduce if reduced else relu_conv)(before, channels))
            self.fit1.append(relu_conv(last, channels))
            self.cells.append(make(channels, size, reduce))
            before, last, reduced = last, states * channels, reduce
        self.head = head(last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = last = self.stem(x)
        for fit0, fit1, cell in zip(self.fit0, self.fit1, self.cells, strict=True):
            before, last = last, cell(fit0(before), fit1(last))
        made: torch.Tensor = self.head(last)
        return made
