"""Choices as layers: `LayerChoice`, `InputChoice`, `Repeat` and `Cell`, in any model.

Each is a placeholder: it holds all its options, a parsed graph has one node for it, and for each
candidate that node is resolved into what was chosen. The parts of an option that was not chosen
never reach the candidate, and choices inside of it are never asked.
"""

from __future__ import annotations

import copy
import itertools
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import nn

from retiarii.errors import SpaceError
from retiarii.ir.edit.insertion import insert_module
from retiarii.ir.graph import Graph
from retiarii.ir.node import CHOICE, Node, Value
from retiarii.mutators.choice import Description, describe_options
from retiarii.mutators.options import numbered

Reduction = Literal["sum", "mean", "concat", "none"]


class Placeholder(nn.Module):
    """A layer that stands for a choice.

    ``forward`` computes with the first option, so that a model with placeholders runs as it is.
    """

    # The parser leaves modules that have this as one node.
    opaque_reason: ClassVar[str] = CHOICE

    label: str | None
    _description: Description | None = None

    def description(self) -> Description:
        """What may be chosen."""
        if self._description is None:
            self._description = describe_options(self._options(), self.label)
        return self._description

    @abstractmethod
    def _options(self) -> Sequence[Any]:
        """The values that the decision may have."""

    @abstractmethod
    def resolve(self, graph: Graph, node: Node, value: Any, scope: str) -> list[Value]:
        """Inserts what ``value`` stands for; the values that replace the node's results.

        Args:
            graph: the candidate's graph, under edit.
            node: the placeholder's node.
            value: what was chosen.
            scope: the placeholder's module path.
        """


def _as_module(option: Any, where: str) -> nn.Module:
    if isinstance(option, nn.Module):
        return option
    if callable(option):
        made = option()
        if isinstance(made, nn.Module):
            return made
    raise SpaceError(
        f"an option of {where} is a {type(option).__name__}, not a layer",
        fix="give modules, or functions without arguments that make one",
    )


def _insert_option(
    graph: Graph, option: nn.Module | None, inputs: Sequence[Value], name: str
) -> list[Value]:
    """Inserts a part of the parsed model, weights and all, at its own path."""
    assert option is not None
    refs = insert_module(graph, option, tuple(inputs), name, fresh=False)
    return [Value(graph, ref.node, ref.index) for ref in refs]


class LayerChoice(Placeholder):
    """One of several layers.

    Args:
        options: a list of modules (the decision's value is an index, which shows the layer), or a
            dict (its value is a key). Functions without arguments that make a module serve as well.
        label: the decision's label; else the layer's path. Layers with one label and equal keys
            share the decision.

    Raises:
        SpaceError: no options, or one that is not a layer.
    """

    def __init__(
        self,
        options: Sequence[Any] | Mapping[Any, Any],
        label: str | None = None,
    ) -> None:
        super().__init__()
        self.label = label
        named = options if isinstance(options, Mapping) else dict(enumerate(options))
        describe_options(list(named), label)
        self._keys: tuple[Any, ...] = tuple(named)
        for key, option in named.items():
            self.add_module(str(key), _as_module(option, f"LayerChoice {label or ''}".strip()))
        if not isinstance(options, Mapping):
            self._keys = numbered(self.children())

    def forward(self, *inputs: Any) -> Any:
        return self._modules[str(self._keys[0])](*inputs)  # type: ignore[misc]

    def _options(self) -> Sequence[Any]:
        return self._keys

    def resolve(self, graph: Graph, node: Node, value: Any, scope: str) -> list[Value]:
        return _insert_option(graph, self._modules[str(value)], node.inputs, f"{scope}.{value}")


class InputChoice(Placeholder):
    """Some of several tensors, as ``choice([a, b, c])`` in ``forward``.

    Args:
        n_candidates: how many tensors it is called with.
        n_chosen: how many are chosen; ``None`` for any number from one up.
        reduction: how several become one: ``"sum"``, ``"mean"``, ``"concat"`` (along dimension
            1), or ``"none"`` for a list of the chosen.
        label: the decision's label; else the layer's path. Its value is a tuple of positions.

    Raises:
        SpaceError: ``n_chosen`` is not in 1..n_candidates, or an unknown reduction.
    """

    def __init__(
        self,
        n_candidates: int,
        n_chosen: int | None = 1,
        reduction: Reduction = "sum",
        label: str | None = None,
    ) -> None:
        super().__init__()
        if n_candidates < 1 or not (n_chosen is None or 1 <= n_chosen <= n_candidates):
            raise SpaceError(
                f"InputChoice cannot choose {n_chosen} of {n_candidates}",
                where=f"choice {label!r}" if label else None,
                fix="n_chosen must lie between 1 and n_candidates",
            )
        if reduction not in _REDUCTIONS or (reduction == "none" and n_chosen is None):
            raise SpaceError(
                f"InputChoice has no reduction {reduction!r}"
                + (" for a variable number of inputs" if n_chosen is None else ""),
                where=f"choice {label!r}" if label else None,
                fix=f"use one of {sorted(_REDUCTIONS)} ('none' needs a fixed n_chosen)",
            )
        self.n_candidates, self.n_chosen = n_candidates, n_chosen
        self.reduction: Reduction = reduction
        self.label = label

    def _combinations(self) -> list[tuple[int, ...]]:
        counts = range(1, self.n_candidates + 1) if self.n_chosen is None else [self.n_chosen]
        return [
            chosen for k in counts for chosen in itertools.combinations(range(self.n_candidates), k)
        ]

    def forward(self, inputs: Sequence[torch.Tensor]) -> Any:
        if len(inputs) != self.n_candidates:
            raise SpaceError(
                f"InputChoice was made for {self.n_candidates} tensors and called with "
                f"{len(inputs)}",
                where=f"choice {self.label!r}" if self.label else None,
                fix="let n_candidates equal the number of tensors",
            )
        chosen = [inputs[i] for i in self._combinations()[0]]
        if self.reduction == "none":
            return chosen
        if len(chosen) == 1:
            return chosen[0]
        if self.reduction == "concat":
            return torch.cat(chosen, dim=1)
        total = sum(chosen[1:], start=chosen[0])
        return total / len(chosen) if self.reduction == "mean" else total

    def _options(self) -> Sequence[Any]:
        return self._combinations()

    def resolve(self, graph: Graph, node: Node, value: Any, scope: str) -> list[Value]:
        inputs = node.inputs
        chosen = [inputs[i] for i in value]
        return _REDUCTIONS[self.reduction](graph, chosen, scope)


def _sum(graph: Graph, chosen: list[Value], scope: str) -> list[Value]:
    total = chosen[0]
    for value in chosen[1:]:
        total = graph.insert(torch.add, total, value, name=f"{scope}.sum")[0]
    return [total]


def _mean(graph: Graph, chosen: list[Value], scope: str) -> list[Value]:
    (total,) = _sum(graph, chosen, scope)
    if len(chosen) == 1:
        return [total]
    return [graph.insert(torch.div, total, len(chosen), name=f"{scope}.mean")[0]]


def _concat(graph: Graph, chosen: list[Value], scope: str) -> list[Value]:
    if len(chosen) == 1:
        return chosen
    return [graph.insert(torch.cat, chosen, dim=1, name=f"{scope}.concat")[0]]


def _all(_graph: Graph, chosen: list[Value], _scope: str) -> list[Value]:
    return chosen


_REDUCTIONS: Mapping[str, Callable[[Graph, list[Value], str], list[Value]]] = {
    "sum": _sum,
    "mean": _mean,
    "concat": _concat,
    "none": _all,
}


class Repeat(Placeholder):
    """A block, one after the other, a number of times that is chosen.

    Args:
        block: a module (copied for each repetition), or a function that makes block number ``i``.
        depth: ``(low, high)``, both included, or a list of depths; 0 is the identity.
        label: the decision's label; else the layer's path.

    Raises:
        SpaceError: no depths, or a negative one.
    """

    def __init__(
        self,
        block: nn.Module | Callable[[int], nn.Module],
        depth: tuple[int, int] | Sequence[int],
        label: str | None = None,
    ) -> None:
        super().__init__()
        self.label = label
        if not isinstance(depth, Sequence) or not all(isinstance(d, int) for d in depth):
            raise SpaceError(
                f"Repeat has depth {depth!r}",
                where=f"choice {label!r}" if label else None,
                fix="give (low, high), both included, or a list of depths",
            )
        is_range = isinstance(depth, tuple) and len(depth) == 2
        depths = list(range(depth[0], depth[1] + 1)) if is_range else list(depth)
        if is_range and not depths:
            raise SpaceError(
                f"Repeat has depths from {depth[0]} to {depth[1]}, which are none",
                where=f"choice {label!r}" if label else None,
                fix="give the lower depth first",
            )
        describe_options(depths, label)
        if min(depths) < 0 or len(set(depths)) != len(depths):
            raise SpaceError(
                f"Repeat has depths {depths}",
                where=f"choice {label!r}" if label else None,
                fix="depths must be different, and 0 or more",
            )
        self._depths = tuple(depths)
        for i in range(max(depths)):
            made = copy.deepcopy(block) if isinstance(block, nn.Module) else block(i)
            self.add_module(str(i), _as_module(made, "Repeat"))

    def forward(self, x: Any) -> Any:
        for i in range(self._depths[0]):
            x = self._modules[str(i)](x)  # type: ignore[misc]
        return x

    def _options(self) -> Sequence[Any]:
        return self._depths

    def resolve(self, graph: Graph, node: Node, value: Any, scope: str) -> list[Value]:
        values = list(node.inputs)
        for i in range(value):
            values = _insert_option(graph, self._modules[str(i)], values, f"{scope}.{i}")
        return values


class Cell(nn.Module):
    """A cell as in NASNet and DARTS: each node sums operations on some earlier nodes.

    ``cell(a, b)`` (or one tensor) returns the nodes' outputs, concatenated along dimension 1.

    Args:
        operations: name -> function that makes the layer.
        num_nodes: nodes beside the inputs.
        num_inputs: tensors that it is called with.
        inputs_per_node: how many earlier nodes each node reads.
        label: cells with one label share their decisions.

    Raises:
        SpaceError: a number below 1, or no operations.
    """

    def __init__(
        self,
        operations: Mapping[str, Callable[[], nn.Module]],
        num_nodes: int,
        *,
        num_inputs: int = 2,
        inputs_per_node: int = 2,
        label: str,
    ) -> None:
        super().__init__()
        if min(num_nodes, num_inputs, inputs_per_node) < 1:
            raise SpaceError(
                f"a cell of {num_nodes} nodes, {num_inputs} inputs, {inputs_per_node} a node",
                where=f"choice {label!r}",
                fix="each number must be at least 1",
            )
        self.num_inputs = num_inputs
        self.edges = nn.ModuleList()
        self.layers = nn.ModuleList()
        for i in range(num_nodes):
            earlier = num_inputs + i
            count = min(inputs_per_node, earlier)
            self.edges.append(
                InputChoice(earlier, count, reduction="none", label=f"{label}/inputs{i}")
            )
            self.layers.append(
                nn.ModuleList(
                    LayerChoice(operations, label=f"{label}/op{i}_{j}") for j in range(count)
                )
            )

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        if len(inputs) != self.num_inputs:
            raise SpaceError(
                f"a cell for {self.num_inputs} inputs was called with {len(inputs)}",
                fix="give num_inputs= as many as it is called with",
            )
        nodes = list(inputs)
        for edge, layers in zip(self.edges, self.layers, strict=True):
            assert isinstance(layers, nn.ModuleList)
            chosen = edge(nodes)
            outputs = [layer(x) for layer, x in zip(layers, chosen, strict=True)]
            nodes.append(sum(outputs[1:], start=outputs[0]))
        made = nodes[self.num_inputs :]
        return made[0] if len(made) == 1 else torch.cat(made, dim=1)
