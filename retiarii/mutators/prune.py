"""Pruning of channels: a layer loses some, and all that is coupled to them follows.

After Li et al., "Pruning filters for efficient ConvNets" (ICLR 2017), with the couplings of Fang et
al., "DepGraph: towards any structural pruning" (CVPR 2023).
"""

from __future__ import annotations

from collections.abc import Iterable

from retiarii.errors import GraphError
from retiarii.ir.edit.coupling import Coupling, couple
from retiarii.ir.edit.editing import own_name
from retiarii.ir.graph import Graph
from retiarii.ir.node import Node
from retiarii.mutators.attention import couple_heads
from retiarii.mutators.resample import Shares, resample


def prune_channels(graph: Graph, node: Node, keep: Iterable[int]) -> None:
    """Leaves a layer only some of its channels.

    All that is coupled to it loses the same ones: what reads it, the other producers of residual
    sums, BatchNorm, depthwise filters, its part of a concatenation, the features that a flattened
    channel becomes. Where the graph keeps weights, they are sliced, so that the model computes what
    it did with those channels set to zero, wherever a zero stays a zero on the way (LayerNorm and
    its like take their statistics over fewer channels).

    Args:
        graph: the graph.
        node: a convolution (not a depthwise one), a Linear, an Embedding, or a recurrent layer (its
            hidden size; both directions and all of its layers lose the same).
        keep: the channels to keep, counted from 0, in any order; at least one. Those that can only
            change together (of a head, of the two halves of a gate) are kept together.

    Raises:
        GraphError: no such channels; the width is that of an input or output of the model, or
            goes through an operation that is not known; groups would differ.
    """
    name = own_name(graph, node)
    _prune(graph, name, couple(graph, name), keep, "channels")


def prune_heads(graph: Graph, node: Node, keep: Iterable[int]) -> None:
    """Leaves an attention only some of its heads (Michel, Levy and Neubig, "Are sixteen heads
    really better than one?", NeurIPS 2019).

    The projections to queries, keys and values lose the rows of the other heads, and the one
    behind the attention the columns, so that the model computes what it did without those heads.

    Args:
        graph: the graph.
        node: the attention, as for `add_heads`.
        keep: the heads to keep, counted from 0; those that share keys and values together.

    Raises:
        GraphError: no such heads; the node has no axis of heads, or its heads come from an
            operation that is not known.
    """
    with graph.edits():
        name, coupling = couple_heads(graph, node)
        _prune(graph, name, coupling, keep, "heads")


def _prune(graph: Graph, name: str, coupling: Coupling, keep: Iterable[int], what: str) -> None:
    kept = {int(channel) for channel in keep}
    wrong = sorted(channel for channel in kept if not 0 <= channel < coupling.size)
    if wrong or not kept:
        raise GraphError(
            f"{name!r} has {what} 0 to {coupling.size - 1}, and "
            + (f"{wrong[0]} is none" if wrong else "none would be kept"),
            where=f"node {name!r}",
            fix=f"name the {what} to keep, at least one",
        )
    units = {coupling.units[channel] for channel in kept}
    for number in sorted(units):
        whole = coupling.unit(number)
        if not kept.issuperset(whole):
            raise GraphError(
                f"{what} {', '.join(map(str, whole))} of {name!r} cannot change without each other",
                where=f"node {name!r}",
                fix="keep all of them, or none",
            )
    parts = tuple((1.0,) if unit in units else () for unit in range(max(coupling.units) + 1))
    with graph.edits():
        resample(graph, coupling, Shares(parts))
