"""The edits of existing nodes: replace, remove, update, rewire."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retiarii.errors import GraphError, nearest
from retiarii.ir.node import Node, Value
from retiarii.ir.ops import op_spec
from retiarii.ir.types import Ref

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph


# Rules of `resize` that work out sizes which the code had written as numbers.
_LITERAL = frozenset({"view", "expand", "unflatten", "split"})


def own_name(graph: Graph, node: Node | Value) -> str:
    """The name behind a handle of this graph.

    Raises:
        GraphError: it is no handle, one of another graph, or of a node that was removed.
    """
    if not isinstance(node, Node | Value):
        raise GraphError(
            f"an edit needs a node, not a {type(node).__name__}",
            fix="get it by graph.node(name), graph.find(pattern) or graph.insert(...)",
        )
    if node.graph is not graph:
        raise GraphError(
            f"node {node._name!r} is of another graph",
            fix="get it from the graph that is edited: graph.node(name)",
        )
    graph.record(node._name)
    return node._name


def own_refs(graph: Graph, value: Node | Value) -> tuple[Ref, ...]:
    """The tensors that a handle stands for: all results of a Node, one of a Value."""
    name = own_name(graph, value)
    if isinstance(value, Value):
        return (value.ref,)
    return tuple(Ref(name, i) for i in range(len(graph.record(name).types)))


def own_ref(graph: Graph, value: Node | Value) -> Ref:
    """The one tensor that a handle stands for.

    Raises:
        GraphError: the node makes several.
    """
    refs = own_refs(graph, value)
    if len(refs) != 1:
        raise GraphError(
            f"node {refs[0].node if refs else '?'!r} makes {len(refs)} tensors",
            fix="name one of them: node[0]",
        )
    return refs[0]


def replace(graph: Graph, target: Node, value: Node | Value) -> None:
    """See `Graph.replace`."""
    name = own_name(graph, target)
    if graph.record(name).op == "input":
        raise GraphError(
            f"{name!r} is an input of the model",
            where=f"node {name!r}",
            fix="rewire its users instead",
        )
    replace_results(graph, name, own_refs(graph, value))


def replace_results(graph: Graph, name: str, refs: tuple[Ref, ...]) -> None:
    """Lets the users of each result of ``name`` use the ref of the same number instead."""
    record = graph.record(name)
    if len(refs) != len(record.types):
        raise GraphError(
            f"{name!r} makes {len(record.types)} tensors, what replaces it {len(refs)}",
            where=f"node {name!r}",
            fix="replace it by a node with as many results, or rewire each user",
        )
    if any(ref.node == name for ref in refs):
        raise GraphError(
            f"{name!r} cannot replace itself",
            where=f"node {name!r}",
            fix="give another node",
        )
    graph.reads.note_used(name)
    if record.types != tuple(graph.settled(r.node).types[r.index] for r in refs):
        graph.reads.note("users", name)  # who they are decides whether the new types fit
    for user in graph.users_of(name):
        inputs = tuple(
            refs[ref.index] if ref.node == name else ref for ref in graph.record(user).inputs
        )
        graph.put_inputs(user, inputs)
    outputs = graph.output_refs()
    if any(ref.node == name for ref in outputs):
        graph.put_outputs(tuple(refs[r.index] if r.node == name else r for r in outputs))
    graph.drop(name)
    for ref in record.inputs:
        graph.transaction.loosen(ref.node)


def remove(graph: Graph, node: Node) -> None:
    """See `Graph.remove`."""
    name = own_name(graph, node)
    record = graph.record(name)
    if not graph.is_used(name) and record.op != "input":
        graph.drop(name)
        for ref in record.inputs:
            graph.transaction.loosen(ref.node)
        return
    if record.op == "input" or len(record.inputs) != 1 or len(record.types) != 1:
        raise GraphError(
            f"{name!r} has users, {len(record.inputs)} inputs and {len(record.types)} results: "
            "what its users should read is not clear",
            where=f"node {name!r}",
            fix="graph.replace(node, value) says what takes its place",
        )
    replace_results(graph, name, record.inputs)


def update(graph: Graph, node: Node, changes: Mapping[str, Any]) -> None:
    """See `Graph.update`."""
    name = own_name(graph, node)
    record = graph.settled(name)
    graph.reads.note("attrs", name)
    known = {*op_spec(record.op).signature, *record.attrs}
    for attr in changes:
        if attr not in known:
            raise GraphError(
                f"{record.op} has no attribute {attr!r}",
                where=f"node {name!r}",
                fix=nearest(attr, sorted(known)) if known else "it has none",
            )
    if any(isinstance(v, Node | Value) for v in changes.values()):
        raise GraphError(
            "an attribute cannot be a node",
            where=f"node {name!r}",
            fix="rewire(node, input_index, value) changes what it reads",
        )
    attrs = record.attrs.merged(changes)
    for twin in [name, *graph.twins_of(record)]:
        graph.put(graph.record(twin).with_(attrs=attrs))
        graph.transaction.remember_inputs(graph.record(twin))
        graph.transaction.touch(twin, attrs=True)
    if op_spec(record.op).resize in _LITERAL:
        graph.transaction.keep_attrs(name)


def rewire(graph: Graph, node: Node, input_index: int, value: Node | Value) -> None:
    """See `Graph.rewire`."""
    name = own_name(graph, node)
    inputs = list(graph.record(name).inputs)
    if not 0 <= input_index < len(inputs):
        raise GraphError(
            f"{name!r} has {len(inputs)} inputs, not {input_index + 1}",
            where=f"node {name!r}",
            fix="inputs count from 0; see node.inputs",
        )
    before = inputs[input_index]
    inputs[input_index] = own_ref(graph, value)
    graph.put_inputs(name, tuple(inputs))
    graph.transaction.loosen(before.node)
