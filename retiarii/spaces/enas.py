"""ENAS macro: an operation for each layer, and a skip connection between any two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import nn

from retiarii.ir.graph import Graph
from retiarii.ir.node import Node
from retiarii.mutators.layers import LayerChoice
from retiarii.mutators.mutator import Mutator
from retiarii.space import ModelSpace
from retiarii.spaces.blocks import conv_norm, pooled_head
from retiarii.spaces.cell_ops import FactorizedReduce
from retiarii.spaces.counted import CountedSpace


def _conv(kernel: int) -> Callable[[int], nn.Module]:
    return lambda c: nn.Sequential(conv_norm(c, c), conv_norm(c, c, kernel))


def _separable(kernel: int) -> Callable[[int], nn.Module]:
    def make(c: int) -> nn.Module:
        depthwise = nn.Conv2d(c, c, kernel, padding=kernel // 2, groups=c, bias=False)
        return nn.Sequential(conv_norm(c, c), depthwise, conv_norm(c, c))

    return make


OPERATIONS: Mapping[str, Callable[[int], nn.Module]] = MappingProxyType(
    {
        "conv_3x3": _conv(3),
        "conv_5x5": _conv(5),
        "sep_conv_3x3": _separable(3),
        "sep_conv_5x5": _separable(5),
        "avg_pool_3x3": lambda c: nn.Sequential(
            conv_norm(c, c), nn.AvgPool2d(3, 1, 1, count_include_pad=False)
        ),
        "max_pool_3x3": lambda c: nn.Sequential(conv_norm(c, c), nn.MaxPool2d(3, 1, 1)),
    }
)


class _Hold(nn.Module):
    """Keeps all states in the graph until the skip connections have been made."""

    def forward(self, x: torch.Tensor, *states: torch.Tensor) -> torch.Tensor:
        for state in states:
            x = x + 0.0 * state.mean()
        return x


class _Skip(Mutator):
    """Perhaps adds an earlier layer's output at the target."""

    def __init__(self, source: str) -> None:
        self.source = source

    def mutate(self, graph: Graph, target: Node) -> None:
        (x,) = target.inputs
        if self.choice([False, True], label="on"):
            x = graph.insert(torch.add, x, graph.node(self.source), name=f"{target.name}.sum")[0]
        graph.replace(target, x)


class _Release(Mutator):
    """Lets go of what `_Hold` held. It asks nothing."""

    def __init__(self, last: str) -> None:
        self.last = last

    def mutate(self, graph: Graph, target: Node) -> None:
        graph.rewire(target, 0, graph.node(self.last))


class _Network(nn.Module):
    """Layers, and a place for each skip connection.

    Attributes:
        sources: target -> the node that a skip connection would add there.
    """

    def __init__(self, layers: int, channels: int, classes: int) -> None:
        super().__init__()
        self.stem = conv_norm(3, channels, 3, activation=None)
        self.halve = (layers // 3, 2 * layers // 3) if layers >= 3 else ()
        self.layers, self.skips, self.norms = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.reduce = nn.ModuleDict()
        self.sources: dict[tuple[int, int], str] = {}
        names: list[str] = []
        for i in range(layers):
            options = {name: make(channels) for name, make in OPERATIONS.items()}
            self.layers.append(LayerChoice(options, label=f"layer{i}"))
            # The first stays, so that what skip connections read has one name.
            self.skips.append(nn.ModuleList(nn.Identity() for _ in range(i + 1)))
            self.norms.append(nn.BatchNorm2d(channels))
            if i in self.halve:
                self.reduce[str(i)] = nn.ModuleList(
                    FactorizedReduce(channels, channels) for _ in range(i)
                )
                names = [f"reduce.{i}.{j}.norm" for j in range(i)]
            self.sources.update({(j, i): name for j, name in enumerate(names)})
            names.append(f"norms.{i}")
        self.hold = _Hold()
        self.head = nn.Sequential(*pooled_head(channels, classes))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        states, held = [self.stem(x)], []
        for i, layer in enumerate(self.layers):
            if i in self.halve:
                reduces = self.reduce[str(i)]
                assert isinstance(reduces, nn.ModuleList)
                states[1:] = [reduce(s) for reduce, s in zip(reduces, states[1:], strict=True)]
                held += states[1:]
            made = layer(states[-1])
            skips = self.skips[i]
            assert isinstance(skips, nn.ModuleList)
            for skip in skips:
                made = skip(made)
            states.append(self.norms[i](made))
        out: torch.Tensor = self.head(self.hold(states[-1], *held))
        return out


def enas_macro(
    layers: int = 12, channels: int = 36, classes: int = 10, input_size: int = 32
) -> ModelSpace:
    """The macro space of ENAS (Pham, Guan, Zoph, Le and Dean, ICML 2018), for CIFAR-10.

    Each layer applies one of six operations to the layer before it, and adds the outputs of any
    of the earlier layers. A third and two thirds of the way the resolution is halved.

    Size: 6^L * 2^(L (L - 1) / 2), as published; 1.6 * 10^29 for 12 layers.

    Reference: none. The paper prints the parameters of the network that it found, but not all that
    it takes to rebuild it.

    Args:
        layers: L.
        channels: of all layers.
        classes: of the classifier.
        input_size: height and width of the input, ``(n, 3, input_size, input_size)``.
    """
    with torch.device("meta"):
        net = _Network(layers, channels, classes)
    example = torch.zeros(2, 3, input_size, input_size)
    space, plain = CountedSpace(net, example), ModelSpace(net, example)
    for one in (space, plain):
        for (source, target), node in net.sources.items():
            one.apply_mutator(
                f"skips.{target}.{source + 1}",
                _Skip(node),
                shared=True,
                name=f"skip{source}_{target}",
            )
    space.apply_mutator("head.0", _Release(f"norms.{layers - 1}"))
    # Releasing asks nothing and always succeeds.
    return space.counted_by(plain.count)
