"""A graph as a networkx multigraph."""

from __future__ import annotations

from typing import TYPE_CHECKING

import networkx

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph


def to_networkx(graph: Graph) -> networkx.MultiDiGraph[str]:
    """A ``networkx.MultiDiGraph`` of the graph; changing it changes nothing here.

    Returns:
        Nodes by name, in topological order, with ``op``, ``attrs`` (a dict), ``types`` (a tuple
        of `TensorType`), ``path`` and ``output`` (the positions among the graph's outputs). An
        edge for each operand, with ``operand`` (which of the reader's inputs) and ``result``
        (which of the maker's results).
    """
    view: networkx.MultiDiGraph[str] = networkx.MultiDiGraph(batch=graph.context.batch)
    for record in graph.records():
        view.add_node(
            record.name,
            op=record.op,
            attrs=dict(record.attrs),
            types=record.types,
            path=record.path,
            output=(),
        )
        for operand, ref in enumerate(record.inputs):
            view.add_edge(ref.node, record.name, operand=operand, result=ref.index)
    for position, ref in enumerate(graph.output_refs()):
        view.nodes[ref.node]["output"] += (position,)
    return view
