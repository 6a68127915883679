"""Finding a pattern in a graph, and putting something in the place of what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import permutations
from typing import TYPE_CHECKING, Any

from torch import nn

from retiarii.errors import GraphError
from retiarii.ir.edit.editing import own_ref, replace_results
from retiarii.ir.edit.insertion import insert
from retiarii.ir.edit.patterns import Pattern, Term, Wildcard, read_pattern
from retiarii.ir.node import Node, NodeRecord, Value
from retiarii.ir.ops import function_op, op_spec
from retiarii.ir.reads import NoReads
from retiarii.ir.types import Attrs, Operand, Ref, leaves

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph

_Binding = dict[Term, Ref]


class Match:
    """One place in a graph where a pattern is.

    ``match["conv"]`` is the node of the pattern's variable ``conv``. Handles read what the graph
    holds now: `inputs` stay right when what feeds them is replaced.
    """

    def __init__(self, graph: Graph, pattern: Pattern, binding: _Binding) -> None:
        self._graph = graph
        self._names = {str(t.variable): binding[t].node for t in pattern.terms}
        self._output = binding[pattern.output].node
        self._reads: dict[str, tuple[str, int]] = {}
        self._inner: list[tuple[str, int, Ref]] = []
        for term in pattern.terms:
            user = binding[term].node
            read = graph.record(user).inputs
            for source in term.inputs:
                at = read.index(binding[source])
                if source.is_parameter:
                    self._reads.setdefault(str(source.variable), (user, at))
                else:
                    self._inner.append((user, at, binding[source]))
        order = [str(p.variable) for p in pattern.parameters]
        self._reads = {name: self._reads[name] for name in order}

    @property
    def nodes(self) -> dict[str, Node]:
        """Pattern variable -> node."""
        return {variable: Node(self._graph, name) for variable, name in self._names.items()}

    @property
    def inputs(self) -> dict[str, Value]:
        """The pattern's parameter -> the tensor that it stands for."""
        return {
            name: Value(self._graph, *self._graph.record(user).inputs[at])
            for name, (user, at) in self._reads.items()
        }

    @property
    def output(self) -> Node:
        """The node that makes what the pattern returns."""
        return Node(self._graph, self._output)

    def __getitem__(self, variable: str) -> Node:
        if variable not in self._names:
            raise KeyError(f"{variable!r} is not in the pattern: {', '.join(self._names)}")
        return Node(self._graph, self._names[variable])

    def __repr__(self) -> str:
        self._graph.reads.note("whole")
        return f"<Match {self._names}>"

    def check(self, graph: Graph) -> None:
        """Raises if it is not there any more.

        Raises:
            GraphError: it is of another graph, or was edited since.
        """
        if graph is not self._graph:
            raise GraphError(
                "the match is of another graph", fix="match again in the graph that is edited"
            )
        for user, at, ref in self._inner:
            if user not in graph or graph.record(user).inputs[at : at + 1] != (ref,):
                raise GraphError(
                    f"what was matched at {self._output!r} has been edited since",
                    where=f"node {user!r}",
                    fix="match again: graph.match(pattern)",
                )
        graph.record(self._output)


def match(graph: Graph, pattern: Any, overlapping: bool) -> tuple[Match, ...]:
    """See `Graph.match`."""
    wanted = read_pattern(pattern)
    finder = _Finder(wanted, overlapping)
    graph.settle()
    graph.reads.note("found", finder)
    return tuple(Match(graph, wanted, binding) for binding in finder.bindings(graph))


def replace_match(
    graph: Graph, found: Match, what: Any, name: str | None, attrs: Mapping[str, Any]
) -> Node:
    """See `Graph.replace_match`."""
    found.check(graph)
    if isinstance(what, Node | Value):
        ref = own_ref(graph, what)
    else:
        function = callable(what) and not isinstance(what, nn.Module | type)
        if function and function_op(what) is None:
            what = _Called(what)
        new = insert(graph, what, tuple(found.inputs.values()), name, attrs)
        ref = own_ref(graph, new)
    replace_results(graph, found.output._name, (ref,))
    return Node(graph, ref.node)


class _Called(nn.Module):
    """A function of tensors as a module, so that it can be inserted."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *inputs: Any) -> Any:
        return self._function(*inputs)


class _Finder:
    """A pattern to find; also what counting notes, with what was found as its value."""

    def __init__(self, pattern: Pattern, overlapping: bool) -> None:
        self._pattern = pattern
        self._overlapping = overlapping

    def observed(self, graph: Graph) -> tuple[str, ...]:
        """All that somebody learns from the matches: who stands for what."""
        return tuple(
            f"{ref.node}[{ref.index}]"
            for binding in self.bindings(graph)
            for ref in binding.values()
        )

    def bindings(self, graph: Graph) -> Iterator[_Binding]:
        # What conditions read on the way is summed up by what is found.
        reads, graph.reads = graph.reads, NoReads()
        try:
            yield from list(self._bindings(graph))
        finally:
            graph.reads = reads

    def _bindings(self, graph: Graph) -> Iterator[_Binding]:
        used: set[str] = set()
        outputs = {ref.node for ref in graph.output_refs()}
        for name in graph.order:
            for binding in _at(graph, self._pattern.output, Ref(name), {}):
                nodes = {binding[t].node for t in self._pattern.terms}
                if not self._overlapping and used & nodes:
                    continue
                if len(nodes) < len(self._pattern.terms):
                    continue
                if not _closed(graph, nodes, name, outputs):
                    continue
                used |= nodes
                yield {t: binding[t] for t in (*self._pattern.parameters, *self._pattern.terms)}
                break


def _closed(graph: Graph, nodes: set[str], output: str, outputs: set[str]) -> bool:
    """Whether only the last node's result is used outside."""
    return all(
        name == output or (name not in outputs and nodes.issuperset(graph.users_of(name)))
        for name in nodes
    )


def _at(graph: Graph, term: Term, ref: Ref, binding: _Binding) -> Iterator[_Binding]:
    """The ways in which a term can stand for one tensor, given what stands already."""
    if term in binding:
        if binding[term] == ref:
            yield binding
        return
    if term.is_parameter:
        yield {**binding, term: ref}
        return
    record = graph.record(ref.node)
    if len(record.types) != 1 or not _fits(graph, term, record):
        return
    wanted = term.inputs
    count = len(record.inputs)
    if len(wanted) > count or (len(wanted) < count and not term.rest):
        return
    reads = record.inputs[: len(wanted)]
    orders = permutations(reads) if _commutes(record) else (reads,)
    for order in orders:
        yield from _all_at(graph, wanted, order, {**binding, term: ref})


def _all_at(
    graph: Graph, terms: tuple[Term, ...], refs: tuple[Ref, ...], binding: _Binding
) -> Iterator[_Binding]:
    if not terms:
        yield binding
        return
    for made in _at(graph, terms[0], refs[0], binding):
        yield from _all_at(graph, terms[1:], refs[1:], made)


def _commutes(record: NodeRecord) -> bool:
    spec = op_spec(record.op)
    plain_sum = record.op == "add" and record.attrs.get("alpha", 1) == 1
    placed = any(isinstance(leaf, Operand) for v in record.attrs.values() for leaf in leaves(v))
    return (spec.commutative or plain_sum) and not placed and len(record.inputs) == 2


def _fits(graph: Graph, term: Term, record: NodeRecord) -> bool:
    if term.wildcard is not None:
        return _fits_wildcard(graph, term.wildcard, record)
    assert term.op is not None
    if record.op in _STRUCTURAL:
        return False
    op, attrs = _plain(record.op, record.attrs)
    wanted_op, wanted = _plain(term.op, Attrs(term.attrs))
    return op == wanted_op and _same_attrs(op, attrs, wanted, term.inferred)


def _fits_wildcard(graph: Graph, wanted: Wildcard, record: NodeRecord) -> bool:
    if record.op in _STRUCTURAL and record.op not in wanted.ops:
        return False
    if wanted.ops and not wanted.ops & {record.op, _plain(record.op, record.attrs)[0]}:
        return False
    defaults = op_spec(record.op).defaults
    for name, value in wanted.attrs.items():
        held = record.attrs.get(name, defaults.get(name, ...))
        if not _same_value(held, value):
            return False
    return wanted.where is None or bool(wanted.where(Node(graph, record.name)))


def _plain(op: str, attrs: Attrs) -> tuple[str, Attrs]:
    """One spelling for what has two: the ReLU layer and ``F.relu``."""
    alias = op_spec(op).alias
    known = not any(isinstance(v, Wildcard) for v in attrs.values())
    other = alias(attrs) if alias is not None and known else None
    return (op, attrs) if other is None else other


def _same_attrs(op: str, held: Attrs, wanted: Attrs, free: frozenset[str]) -> bool:
    defaults = op_spec(op).defaults
    names = {*held, *wanted} - free - {"inplace"}
    return all(
        _same_value(held.get(n, defaults.get(n, ...)), wanted.get(n, defaults.get(n, ...)))
        for n in names
    )


def _same_value(held: Any, wanted: Any) -> bool:
    if isinstance(wanted, Wildcard):
        return True
    return Attrs(v=held) == Attrs(v=wanted)


_STRUCTURAL = frozenset({"input", "parameter", "buffer", "constant", "opaque"})
