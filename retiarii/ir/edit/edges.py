"""Edits and questions about edges: inserting between a value and its users; who follows whom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from retiarii.errors import GraphError
from retiarii.ir.edit.editing import own_name, own_ref, own_refs
from retiarii.ir.edit.insertion import insert
from retiarii.ir.node import Node, Value
from retiarii.ir.types import Ref

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph

Edge = Node | Value | tuple[Node, int]


def insert_on_edge(
    graph: Graph,
    edge: Edge,
    what: Any,
    inputs: tuple[Any, ...],
    name: str | None,
    attrs: Mapping[str, Any],
) -> Node:
    """See `Graph.insert_on_edge`."""
    if isinstance(edge, tuple):
        return _insert_before(graph, edge, what, inputs, name, attrs)
    ref = own_ref(graph, edge)
    graph.reads.note_used(ref.node)
    # Read before the insertion, which adds users of its own.
    users = [u for u in graph.users_of(ref.node) if ref in graph.record(u).inputs]
    new = insert(graph, what, (Value(graph, *ref), *inputs), name, attrs)
    made = _one_result(graph, new, what)
    if made.node == ref.node:  # it hands its input on
        return new
    if graph.settled(made.node).types[made.index] != graph.record(ref.node).types[ref.index]:
        graph.reads.note("users", ref.node)  # who they are decides whether the new type fits
    for user in users:
        read = graph.record(user).inputs
        graph.put_inputs(user, tuple(made if r == ref else r for r in read))
    outputs = graph.output_refs()
    if ref in outputs:
        graph.put_outputs(tuple(made if r == ref else r for r in outputs))
    return new


def _insert_before(
    graph: Graph,
    edge: tuple[Node, int],
    what: Any,
    inputs: tuple[Any, ...],
    name: str | None,
    attrs: Mapping[str, Any],
) -> Node:
    user, at = own_name(graph, edge[0]), edge[1]
    read = list(graph.record(user).inputs)
    graph.reads.note("arity", user)
    if not 0 <= at < len(read):
        raise GraphError(
            f"{user!r} has {len(read)} inputs, not {at + 1}",
            where=f"node {user!r}",
            fix="inputs count from 0; see node.inputs",
        )
    new = insert(graph, what, (Value(graph, *read[at]), *inputs), name, attrs)
    read[at] = _one_result(graph, new, what)
    graph.put_inputs(user, tuple(read))
    return new


def _one_result(graph: Graph, node: Node, what: Any) -> Ref:
    refs = own_refs(graph, node)
    if len(refs) != 1:
        raise GraphError(
            f"{getattr(what, '__name__', type(what).__name__)} makes {len(refs)} tensors, and an "
            "edge carries one",
            where=f"node {node._name!r}",
            fix="insert it by graph.insert, and rewire each user to the result that it reads",
        )
    return refs[0]


def successors(graph: Graph, node: Node | Value, transitive: bool) -> tuple[Node, ...]:
    """See `Graph.successors`."""
    name = own_name(graph, node)
    if not transitive:
        graph.reads.note("users", name)
        return _nodes(graph, graph.users_of(name))
    graph.reads.note("whole")
    return _nodes(graph, sorted(_reached(name, graph.users_of), key=graph.order.key))


def predecessors(graph: Graph, node: Node | Value, transitive: bool) -> tuple[Node, ...]:
    """See `Graph.predecessors`."""
    name = own_name(graph, node)
    inputs = graph.record(name).inputs
    # That two inputs come from one node shows only where there are two.
    graph.reads.note("whole") if transitive or len(inputs) > 1 else graph.reads.note("arity", name)
    if not transitive:
        return _nodes(graph, dict.fromkeys(ref.node for ref in inputs))
    return _nodes(graph, sorted(_reached(name, _sources(graph)), key=graph.order.key))


def between(graph: Graph, first: Node | Value, last: Node | Value) -> tuple[Node, ...]:
    """See `Graph.between`."""
    graph.reads.note("whole")
    start, end = own_name(graph, first), own_name(graph, last)
    if graph.order.key(start) > graph.order.key(end):
        return ()
    bound = graph.order.key(start)
    sources = _sources(graph)
    above = _reached(end, lambda n: (s for s in sources(n) if graph.order.key(s) >= bound))
    below = _reached(start, lambda n: (u for u in graph.users_of(n) if u in above))
    return _nodes(graph, sorted(below, key=graph.order.key))


def _sources(graph: Graph) -> Callable[[str], Iterable[str]]:
    return lambda name: [ref.node for ref in graph.record(name).inputs]


def _reached(start: str, step: Callable[[str], Iterable[str]]) -> set[str]:
    found: set[str] = set()
    stack = [start]
    while stack:
        for name in step(stack.pop()):
            if name not in found:
                found.add(name)
                stack.append(name)
    return found


def _nodes(graph: Graph, names: Iterable[str]) -> tuple[Node, ...]:
    return tuple(Node(graph, name) for name in names)
