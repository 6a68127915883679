"""MLPs and ResNets for tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from retiarii.ir.graph import Graph
from retiarii.ir.node import Node
from retiarii.mutators.layers import LayerChoice, Repeat
from retiarii.mutators.mutator import Mutator
from retiarii.space import ModelSpace
from retiarii.spaces.blocks import Residual

WIDTHS = (32, 64, 128, 256, 512)
DROPOUTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)


class _SetAll(Mutator):
    """One value for an attribute of all nodes of a pattern.

    Args:
        pattern: of the nodes' names.
        attribute: what is set.
        values: to choose from.
    """

    def __init__(self, pattern: str, attribute: str, values: Sequence[float]) -> None:
        self.pattern, self.attribute, self.values = pattern, attribute, tuple(values)

    def mutate(self, graph: Graph, target: Node) -> None:  # noqa: ARG002 - the first of them
        value = self.choice(self.values, label="value")
        for node in graph.find(self.pattern):
            graph.update(node, **{self.attribute: value})


def mlp_size(widths: int, depths: Sequence[int], dropouts: int) -> int:
    """``dropouts * sum over depths d of widths^min(d, 3)``."""
    return dropouts * sum(int(widths ** min(depth, 3)) for depth in depths)


def tabular_mlp(
    features: int,
    outputs: int,
    *,
    depths: Sequence[int] = tuple(range(1, 9)),
    widths: Sequence[int] = WIDTHS,
    dropouts: Sequence[float] = DROPOUTS,
) -> ModelSpace:
    """The MLP of Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data" (NeurIPS
    2021), on a grid.

    Blocks of ``Dropout(ReLU(Linear(x)))``; the first and the last have widths of their own, those
    between share one.

    Size: `mlp_size`; 4,680 with the defaults. The paper draws from ranges (1 to 8 layers, widths
    up to 512, dropout 0 or up to 0.5) and prints no size.

    Args:
        features: columns of the input, ``(n, features)``, categories encoded already.
        outputs: columns of the output.
        depths: numbers of blocks to choose from.
        widths: of blocks, to choose from.
        dropouts: drop rates to choose from, one for all blocks.
    """

    def stack(depth: int) -> nn.Module:
        places = ["first", *["middle"] * (depth - 2), "last"][: max(depth, 1)]
        net = nn.Sequential()
        for i, place in enumerate(places):
            read = features if i == 0 else widths[0]
            net.add_module(f"{place}{i}", nn.Linear(read, widths[0]))
            net.add_module(f"relu{i}", nn.ReLU())
            net.add_module(f"drop{i}", nn.Dropout())
        return net

    with torch.device("meta"):
        net = nn.Sequential(
            LayerChoice({d: stack(d) for d in depths}, label="depth"), nn.Linear(widths[0], outputs)
        )
    space = ModelSpace(net, torch.zeros(2, features))
    for place, nodes in (("first", "first0"), ("middle", "middle1"), ("last", "last*")):
        every = _SetAll(f"*.{place}*", "out_features", widths)
        space.apply_mutator(f"*.{nodes}", every, shared=True, name=f"width/{place}")
    space.apply_mutator("*.drop0", _SetAll("*.drop*", "p", dropouts), shared=True, name="dropout")
    return space


def tabular_resnet(
    features: int,
    outputs: int,
    *,
    depths: Sequence[int] = tuple(range(1, 9)),
    widths: Sequence[int] = (64, 128, 256, 512),
    factors: Sequence[int] = (1, 2, 3, 4),
    hidden_dropouts: Sequence[float] = DROPOUTS,
    residual_dropouts: Sequence[float] = DROPOUTS,
) -> ModelSpace:
    """The ResNet of Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data" (NeurIPS
    2021), on a grid.

    Blocks of ``x + Dropout(Linear(Dropout(ReLU(Linear(BatchNorm(x))))))``, which all choose alike;
    then ``Linear(ReLU(BatchNorm(x)))``.

    Size: the product of the numbers of options; 4,608 with the defaults. The paper draws from
    ranges (1 to 8 blocks, widths 64 to 512, factors 1 to 4, dropout up to 0.5) and prints no size.

    Args:
        features: columns of the input, ``(n, features)``, categories encoded already.
        outputs: columns of the output.
        depths: numbers of blocks to choose from.
        widths: of the residual stream, to choose from.
        factors: of the hidden layer to the width, to choose from.
        hidden_dropouts: drop rates behind the hidden layer.
        residual_dropouts: drop rates at the end of a block.
    """

    def blocks(width: int, factor: int) -> nn.Module:
        def block(_: int) -> nn.Module:
            return Residual(
                nn.Sequential(
                    nn.BatchNorm1d(width),
                    nn.Linear(width, factor * width),
                    nn.ReLU(),
                    nn.Dropout(),
                    nn.Linear(factor * width, width),
                    nn.Dropout(),
                )
            )

        return Repeat(block, list(depths), label="depth")

    def trunk(width: int) -> nn.Module:
        makers: dict[int, Callable[[], nn.Module]] = {
            factor: lambda factor=factor: blocks(width, factor)  # type: ignore[misc]
            for factor in factors
        }
        return nn.Sequential(
            nn.Linear(features, width),
            LayerChoice(makers, label="factor"),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Linear(width, outputs),
        )

    with torch.device("meta"):
        net = nn.Sequential(LayerChoice({w: trunk(w) for w in widths}, label="width"))
    space = ModelSpace(net, torch.zeros(2, features))
    for name, place, rates in (
        ("dropout/hidden", "body.3", hidden_dropouts),
        ("dropout/residual", "body.5", residual_dropouts),
    ):
        space.apply_mutator(
            f"*.0.{place}", _SetAll(f"*.{place}", "p", rates), shared=True, name=name
        )
    return space
