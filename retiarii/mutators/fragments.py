"""What the options of choice layers put into a graph, worked out once for all candidates.

An option's nodes follow from the placeholder, the value chosen and the types of what it reads: they
are made on a graph that holds nothing else (`fragment`), and set in place for each combination of
inputs (`Fragment.placed`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from retiarii.errors import RetiariiError
from retiarii.ir.claims import Claim
from retiarii.ir.context import GraphContext
from retiarii.ir.edit.editing import replace_results
from retiarii.ir.graph import Graph
from retiarii.ir.node import Node, NodeRecord
from retiarii.ir.reads import Reads
from retiarii.ir.types import Ref, TensorType
from retiarii.mutators.layers import Placeholder

# What a placeholder may look at for its options' nodes to be the same everywhere.
_LOCAL = frozenset({"types", "arity", "used_beyond"})


@dataclass(frozen=True, slots=True)
class Piece:
    """A fragment with the inputs that it has in a graph.

    Attributes:
        records: the nodes by name.
        blocks: (a node that is there, what stands directly behind it), in order.
        moved: the placeholder's results -> what replaces them.
        nested: the names of the placeholders among the nodes.
        readers: nodes that read results of these.
        dropped: nodes that the placeholder read and what replaces it does not.
        claims: sizes that must be as they are.
        suffixes: as `Structure` counts them.
    """

    records: Mapping[str, NodeRecord]
    blocks: tuple[tuple[str, tuple[str, ...]], ...]
    moved: Mapping[Ref, Ref]
    nested: tuple[str, ...]
    readers: tuple[str, ...]
    dropped: tuple[str, ...]
    claims: tuple[Claim, ...]
    suffixes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Fragment:
    """The nodes of one option, for inputs of given types.

    Attributes:
        name: the placeholder's node.
        records: in the order inserted; the placeholder's inputs are ``_outer(i)``.
        outputs: what replaces the placeholder's results.
        retyped: those of these results that were of other types.
        nested: the names of the placeholders among the nodes.
        claims: sizes that must be as they are.
        suffixes: as `Structure` counts them.
        ranked: whether the nodes' places depend on the order of the inputs.
        rooted: whether there are nodes without inputs.
    """

    name: str
    records: tuple[NodeRecord, ...]
    outputs: tuple[Ref, ...]
    retyped: frozenset[Ref]
    nested: tuple[str, ...]
    claims: tuple[Claim, ...]
    suffixes: Mapping[str, int]
    ranked: bool
    rooted: bool

    def placed(self, inputs: Sequence[Ref], around: Sequence[str], root: str) -> Piece:
        """The nodes, reading ``inputs``.

        Args:
            inputs: what the placeholder reads.
            around: the nodes of these and ``root``, each once; in their order where it matters.
            root: what nodes without inputs stand behind.
        """
        outer = {_outer(i): ref for i, ref in enumerate(inputs)}

        def moved(refs: Sequence[Ref]) -> tuple[Ref, ...]:
            return tuple([outer.get(ref.node, ref) for ref in refs])

        records = {r.name: r.with_(inputs=moved(r.inputs)) for r in self.records}
        order = list(around)
        for name, record in records.items():
            behind = {ref.node for ref in record.inputs} or {root}
            order.insert(max(map(order.index, behind)) + 1, name)
        blocks: dict[str, list[str]] = {}
        at = ""
        for name in order:
            if name in records:
                blocks[at].append(name)
            else:
                blocks[name] = []
                at = name
        outputs = moved(self.outputs)
        read = {ref.node for r in records.values() for ref in r.inputs}
        read.update(ref.node for ref in outputs)
        nested = frozenset(self.nested)
        return Piece(
            MappingProxyType(records),
            tuple((name, tuple(block)) for name, block in blocks.items() if block),
            MappingProxyType({Ref(self.name, i): ref for i, ref in enumerate(outputs)}),
            self.nested,
            tuple(n for n, r in records.items() if any(x.node in nested for x in r.inputs)),
            tuple(dict.fromkeys(ref.node for ref in inputs if ref.node not in read)),
            tuple(replace(claim, ref=moved([claim.ref])[0]) for claim in self.claims),
            self.suffixes,
        )


def fragment(
    context: GraphContext,
    record: NodeRecord,
    inputs: Sequence[TensorType],
    placeholder: Placeholder,
    value: Any,
    placeholders: Mapping[str, Placeholder],
) -> Fragment | None:
    """What replaces a placeholder.

    Args:
        context: the graph's.
        record: the placeholder's node.
        inputs: the types of what it reads.
        placeholder: the placeholder.
        value: what was chosen.
        placeholders: all of the model, by module path.

    Returns:
        ``None`` where it depends on more than this, or cannot be: resolving the placeholder in its
        graph then says why.
    """
    assert record.path is not None
    name, outer = record.name, [_outer(i) for i in range(len(inputs))]
    alone = record.with_(inputs=tuple(map(Ref, outer)))
    graph = Graph.build(
        [*(NodeRecord(n, "input", types=(t,)) for n, t in zip(outer, inputs, strict=True)), alone],
        tuple(Ref(name, i) for i in range(len(record.types))),
        None,
        context,
    )
    before = graph.copy()
    graph.reads = Reads(before, graph, frozenset({name}))
    claims: list[Claim] = []
    graph.claimed = claims
    try:
        with graph.edits():
            values = placeholder.resolve(graph, Node(graph, name), value, record.path)
            new = list(graph.transaction.new)
            whole = set(graph.order) == {*before.order, *new} and all(
                graph.record(n) is before.record(n) for n in before.order
            )
            local = all(f[0] in _LOCAL and f[1] in before for f in graph.reads.facets)
            replace_results(graph, name, tuple(v.ref for v in values))
    except RetiariiError:
        return None
    outputs = graph.output_refs()
    types = tuple(graph.record(ref.node).types[ref.index] for ref in outputs)
    if not (whole and local) or graph.context is not context or graph.twins:
        return None
    retyped = [i for i, (a, b) in enumerate(zip(types, record.types, strict=True)) if a != b]
    records = tuple(graph.record(n) for n in new if n in graph)
    nested = tuple(r.name for r in records if r.op == "opaque" and r.path in placeholders)
    rooted = any(not r.inputs for r in records)
    if any(claim.ref.node not in graph or claim.ref.node in nested for claim in claims):
        return None
    several = len(outer) + rooted > 1
    joins = any(len({ref.node for ref in r.inputs}) > 1 for r in records)
    return Fragment(
        name,
        records,
        outputs,
        frozenset(Ref(name, i) for i in retyped),
        nested,
        tuple(claims),
        graph.suffixes,
        several and joins,
        rooted,
    )


def _outer(index: int) -> str:
    return f"\0{index}"
