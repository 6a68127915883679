"""Pruning of channels: a layer loses some, and all that is coupled to them follows.

After Li et al., "Pruning filters for efficient ConvNets" (ICLR 2017), with the couplings of Fang et
al., "DepGraph: towards any structural pruning" (CVPR 2023).
"""

from __future__ import annotations

from collections.abc import Iterable

from retiarii.errors import GraphError
from retiarii.ir.edit.coupling import couple
from retiarii.ir.edit.editing import own_name
from retiarii.ir.graph import Graph
from retiarii.ir.node import Node
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
        node: a convolution (not a depthwise one), a Linear or an Embedding.
        keep: the channels to keep, counted from 0, in any order; at least one.

    Raises:
        GraphError: no such channels; the width is that of an input or output of the model, or
            goes through an operation that is not known (attention heads); groups would differ.
    """
    name = own_name(graph, node)
    coupling = couple(graph, name)
    kept = {int(channel) for channel in keep}
    wrong = sorted(channel for channel in kept if not 0 <= channel < coupling.size)
    if wrong or not kept:
        raise GraphError(
            f"{name!r} has channels 0 to {coupling.size - 1}, and "
            + (f"{wrong[0]} is none" if wrong else "none would be kept"),
            where=f"node {name!r}",
            fix="name the channels to keep, at least one",
        )
    parts = tuple((1.0,) if channel in kept else () for channel in range(coupling.size))
    with graph.edits():
        resample(graph, coupling, Shares(parts))
