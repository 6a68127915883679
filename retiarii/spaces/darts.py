"""DARTS cells: each of four nodes reads two earlier ones through an operation each."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import comb
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from retiarii.mutators.layers import Cell
from retiarii.space import ModelSpace
from retiarii.spaces.blocks import pooled_head
from retiarii.spaces.cell_ops import (
    Genes,
    Operation,
    avg_pool,
    dilated,
    max_pool,
    normed,
    placed,
    read_genes,
    separable,
    skip,
)
from retiarii.spaces.cell_stack import CellStack

OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "max_pool_3x3": normed(max_pool(3)),
        "avg_pool_3x3": normed(avg_pool(3)),
        "skip_connect": skip,
        "sep_conv_3x3": separable(3),
        "sep_conv_5x5": separable(5),
        "dil_conv_3x3": dilated(3),
        "dil_conv_5x5": dilated(5),
    }
)


def decisions_darts(normal: Genes, reduce: Genes) -> dict[str, Any]:
    """Decisions for a genotype: two ``(operation, input)`` for each node of each cell."""
    made: dict[str, Any] = {}
    for cell, genes in (("normal", normal), ("reduce", reduce)):
        for node in range(len(genes) // 2):
            (first, second) = sorted(genes[2 * node : 2 * node + 2], key=lambda gene: gene[1])
            made[f"{cell}/inputs{node}"] = (first[1], second[1])
            made[f"{cell}/op{node}_0"], made[f"{cell}/op{node}_1"] = first[0], second[0]
    return made


# The cells that second-order DARTS found.
DARTS_V2: Mapping[str, Any] = MappingProxyType(
    decisions_darts(
        read_genes(
            "sep_conv_3x3 0 sep_conv_3x3 1 sep_conv_3x3 0 sep_conv_3x3 1 "
            "sep_conv_3x3 1 skip_connect 0 skip_connect 0 dil_conv_3x3 2"
        ),
        read_genes(
            "max_pool_3x3 0 max_pool_3x3 1 skip_connect 2 max_pool_3x3 1 "
            "max_pool_3x3 0 skip_connect 2 skip_connect 2 max_pool_3x3 1"
        ),
    )
)


def darts_size(nodes: int = 4, operations: int = 7) -> int:
    """Pairs of cells: (prod_k C(k + 2, 2) * operations^2)^2 for k = 0 .. nodes - 1."""
    cell = 1
    for k in range(nodes):
        cell *= comb(k + 2, 2) * operations**2
    return cell**2


def darts(
    channels: int = 36,
    cells: int = 20,
    classes: int = 10,
    input_size: int = 32,
    *,
    nodes: int = 4,
    operations: Mapping[str, Operation] = OPERATIONS,
) -> ModelSpace:
    """The space that DARTS (Liu, Simonyan and Yang, ICLR 2019) derives its networks from.

    A normal and a reduction cell, each repeated (reduction a third and two thirds of the way). Of
    DARTS' eight operations the derived cells never have ``none``, so there are seven.

    Size: a cell has prod_{k=1..4} (k + 1) k / 2 * 7^2 = 180 * 7^8 = 1.04 * 10^9, "about 10^9" as
    published; both cells together (180 * 7^8)^2 = 1.08 * 10^18, "about 10^18" as published. It is
    `darts_size`.

    Reference: DARTS' second-order cells (`DARTS_V2`) have 3.3 M parameters as published, at 36
    channels and 20 cells, without the auxiliary head; ours have 3,349,342, those of its code.

    Args:
        channels: of the first cells; a reduction cell doubles them.
        cells: in all.
        classes: of the classifier.
        input_size: height and width of the input, ``(n, 3, input_size, input_size)``; a multiple
            of 4.
        nodes: of a cell, beside its two inputs.
        operations: name -> (channels, stride) -> layer.
    """

    def make(channels: int, size: int, reduces: bool) -> nn.Module:
        layers = {
            name: partial(placed, operation, channels, size, reduces)
            for name, operation in operations.items()
        }
        return Cell(layers, nodes, label="reduce" if reduces else "normal")

    with torch.device("meta"):
        net = CellStack(
            make,
            [i in (cells // 3, 2 * cells // 3) for i in range(cells)],
            stem=3 * channels,
            channels=channels,
            size=input_size,
            states=nodes,
            head=lambda width: nn.Sequential(*pooled_head(width, classes)),
        )
    return ModelSpace(net, torch.zeros(2, 3, input_size, input_size))
