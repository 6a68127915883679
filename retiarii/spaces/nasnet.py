"""NASNet and PNAS cells: five blocks, each of two operations on earlier states, summed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import factorial
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from retiarii.ir.graph import Graph
from retiarii.ir.node import Node
from retiarii.mutators.layers import InputChoice, LayerChoice
from retiarii.mutators.mutator import Mutator
from retiarii.space import ModelSpace
from retiarii.spaces.blocks import pooled_head
from retiarii.spaces.cell_ops import (
    FactorizedReduce,
    Genes,
    Operation,
    avg_pool,
    conv,
    dilated,
    max_pool,
    placed,
    read_genes,
    separable,
    strided_skip,
    two_convs,
)
from retiarii.spaces.cell_stack import CellStack
from retiarii.spaces.counted import CountedSpace

NASNET_OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "identity": strided_skip,
        "conv_1x3_3x1": two_convs(3),
        "conv_1x7_7x1": two_convs(7),
        "dil_conv_3x3": dilated(3),
        "avg_pool_3x3": avg_pool(3),
        "max_pool_3x3": max_pool(3),
        "max_pool_5x5": max_pool(5),
        "max_pool_7x7": max_pool(7),
        "conv_1x1": conv(1),
        "conv_3x3": conv(3),
        "sep_conv_3x3": separable(3),
        "sep_conv_5x5": separable(5),
        "sep_conv_7x7": separable(7),
    }
)

PNAS_OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        name: NASNET_OPERATIONS[name]
        for name in (
            "identity",
            "sep_conv_3x3",
            "sep_conv_5x5",
            "sep_conv_7x7",
            "avg_pool_3x3",
            "max_pool_3x3",
            "dil_conv_3x3",
            "conv_1x7_7x1",
        )
    }
)


def decisions_nasnet(cells: Mapping[str, Genes]) -> dict[str, Any]:
    """Decisions from two ``(operation, state)`` for each block of each kind of cell.

    State 0 is the output of the cell before the last, 1 of the last, 2 of the first block.
    """
    made: dict[str, Any] = {}
    for cell, genes in cells.items():
        for i, (operation, state) in enumerate(genes):
            place = f"{i // 2}_{i % 2}"
            made[f"{cell}/input{place}"] = (state,)
            made[f"{cell}/op{place}"] = operation
    return made


NASNET_A: Mapping[str, Any] = MappingProxyType(
    decisions_nasnet(
        {
            "normal": read_genes(
                "sep_conv_5x5 1 sep_conv_3x3 0 sep_conv_5x5 0 sep_conv_3x3 0 avg_pool_3x3 1 "
                "identity 0 avg_pool_3x3 0 avg_pool_3x3 0 sep_conv_3x3 1 identity 1"
            ),
            "reduce": read_genes(
                "sep_conv_5x5 1 sep_conv_7x7 0 max_pool_3x3 1 sep_conv_7x7 0 avg_pool_3x3 1 "
                "sep_conv_5x5 0 identity 3 avg_pool_3x3 2 sep_conv_3x3 2 max_pool_3x3 1"
            ),
        }
    )
)


def cell_size(blocks: int = 5, operations: int = 13) -> int:
    """Cells of ordered pairs: prod_{b=1..blocks} (b + 1)^2 * operations^2."""
    return int(factorial(blocks + 1) ** 2 * operations ** (2 * blocks))


class _Cell(nn.Module):
    """``blocks`` blocks; until `_Join` has run, all states are concatenated.

    With ``held``, all that may be chosen stays in the graph whatever is: then no choice can be
    seen from another, and counting multiplies.
    """

    def __init__(
        self,
        operations: Mapping[str, Operation],
        blocks: int,
        channels: int,
        size: int,
        reduces: bool,
        label: str,
        held: bool = False,
    ) -> None:
        super().__init__()
        self.held = held
        self.inputs, self.layers = nn.ModuleList(), nn.ModuleList()
        self.marks = nn.ModuleList()
        for i in range(2 * blocks):
            place = f"{i // 2}_{i % 2}"
            self.inputs.append(InputChoice(2 + i // 2, 1, label=f"{label}/input{place}"))
            options = {
                name: placed(operation, channels, size, reduces)
                for name, operation in operations.items()
            }
            self.layers.append(LayerChoice(options, label=f"{label}/op{place}"))
            marks = (nn.Identity() for _ in range(2 + i // 2 if held else 0))
            self.marks.append(nn.ModuleList(marks))
        # They mark the cell's inputs for `_Join`.
        self.keep0, self.keep1 = (
            nn.MaxPool2d(1, 2) if reduces else nn.Identity() for _ in range(2)
        )
        self.join = _Concat()

    def forward(self, before: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        states, kept = [before, last], []
        for i in range(0, len(self.inputs), 2):
            pair = []
            for j in (i, i + 1):
                read = states
                marks = self.marks[j]
                assert isinstance(marks, nn.ModuleList)
                if self.held:
                    read = [mark(s) for mark, s in zip(marks, states, strict=True)]
                    kept += read
                pair.append(self.layers[j](self.inputs[j](read)))
            states.append(pair[0] + pair[1])
        made: torch.Tensor = self.join(self.keep0(before), self.keep1(last), *states[2:])
        for state in kept:
            made = made + 0.0 * state.mean()
        return made


class _Concat(nn.Module):
    def forward(self, *states: torch.Tensor) -> torch.Tensor:
        return torch.cat(states, dim=1)


class _Join(Mutator):
    """A cell's output: its states that no block has read, concatenated. It asks nothing."""

    def __init__(self, always_previous: bool) -> None:
        self.always_previous = always_previous

    def mutate(self, graph: Graph, target: Node) -> None:
        unused = []
        for place, value in enumerate(target.inputs):
            if place >= 2:
                if len(value.node.users) == 1:
                    unused.append(value)
                continue
            (state,) = value.node.inputs
            reduces = value.node.op == "MaxPool2d"
            if len(state.node.users) > 1 and (reduces or place or not self.always_previous):
                continue
            if reduces:
                channels = state.shape[1]
                state = graph.insert(FactorizedReduce(channels, channels), state)[0]
            unused.append(state)
        graph.replace(target, graph.insert(torch.cat, unused, dim=1, name=f"{target.name}_unused"))


def _reductions(repeats: int, stages: int) -> list[bool]:
    """For each cell, whether it is one of the reduction cells between the stages."""
    return [i % (repeats + 1) == repeats for i in range(stages * (repeats + 1) - 1)]


def _space(
    kinds: tuple[str, str],
    operations: Mapping[str, Operation],
    channels: int,
    repeats: int,
    stages: int,
    blocks: int,
    classes: int,
    size: int,
    always_previous: bool = False,
) -> ModelSpace:
    def make(channels: int, size: int, reduces: bool, held: bool = False) -> nn.Module:
        return _Cell(operations, blocks, channels, size, reduces, kinds[reduces], held)

    def head(channels: int) -> nn.Module:
        return nn.Sequential(nn.ReLU(), *pooled_head(channels, classes))

    with torch.device("meta"):
        net = CellStack(
            make,
            _reductions(repeats, stages),
            stem=3 * channels,
            channels=channels,
            size=size,
            states=blocks + 2,
            head=head,
        )
        # One cell of each kind that the network has asks all that there is to ask.
        small = CellStack(
            partial(make, held=True),
            _reductions(min(repeats, 1), min(stages, 2)),
            stem=2,
            channels=2,
            size=8,
            states=blocks + 2,
            head=head,
        )
    space = CountedSpace(net, torch.zeros(2, 3, size, size))
    space.apply_mutator("cells.*.join*", _Join(always_previous))
    # Joining asks nothing and always succeeds.
    return space.counted_by(ModelSpace(small, torch.zeros(2, 3, 8, 8)).count)


def nasnet(
    channels: int = 32,
    repeats: int = 6,
    classes: int = 10,
    input_size: int = 32,
    *,
    stages: int = 3,
    blocks: int = 5,
    operations: Mapping[str, Operation] = NASNET_OPERATIONS,
    always_previous: bool = False,
) -> ModelSpace:
    """The space of NASNet (Zoph, Vasudevan, Shlens and Le, CVPR 2018), for CIFAR-10.

    A normal and a reduction cell. Each of five blocks adds two of 13 operations on any two
    earlier states, which may be one; a cell returns the states that no block read, concatenated.
    The paper's blocks may also concatenate; its published cells and PNAS never do, nor does this.

    Size: a cell has (6!)^2 * 13^10 = 7.1 * 10^16 decision sequences, both together 5.1 * 10^33.
    The paper prints none; PNAS (ECCV 2018) gives 10^28 for it, without symmetric copies. It is
    ``cell_size() ** 2``.

    Reference: NASNet-A (6 @ 768) (`NASNET_A`), 3.3 M parameters as published, to which
    ``always_previous=True`` belongs: the published normal cell hands on its older input too,
    though a block reads it, which makes 6 * 128 = 768 channels at the end.

    Args:
        channels: of the first stage's cells.
        repeats: normal cells in each stage.
        classes: of the classifier.
        input_size: height and width of the input, ``(n, 3, input_size, input_size)``.
        stages: separated by a reduction cell.
        blocks: of a cell.
        operations: name -> (channels, stride) -> layer.
        always_previous: normal cells return their older input whether or not it was read.
    """
    return _space(
        ("normal", "reduce"),
        operations,
        channels,
        repeats,
        stages,
        blocks,
        classes,
        input_size,
        always_previous,
    )


def pnas(
    channels: int = 48,
    repeats: int = 3,
    classes: int = 10,
    input_size: int = 32,
    *,
    stages: int = 3,
    blocks: int = 5,
    operations: Mapping[str, Operation] = PNAS_OPERATIONS,
) -> ModelSpace:
    """The space of progressive NAS (Liu et al., ECCV 2018), for CIFAR-10.

    As `nasnet`, with eight operations, and with one cell for both kinds: reduction cells are it
    with a stride.

    Size: (6!)^2 * 8^10 = 5.6 * 10^14, as published (about 10^12 without symmetric copies). It is
    ``cell_size(5, 8)``.

    Args:
        channels: of the first stage's cells.
        repeats: normal cells in each stage.
        classes: of the classifier.
        input_size: height and width of the input, ``(n, 3, input_size, input_size)``.
        stages: separated by a reduction cell.
        blocks: of a cell; the paper's search begins with 1.
        operations: name -> (channels, stride) -> layer.
    """
    return _space(
        ("cell", "cell"), operations, channels, repeats, stages, blocks, classes, input_size
    )
