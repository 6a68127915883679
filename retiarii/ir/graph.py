"""The graph: nodes in SSA form, and the edits that keep it one that verifies."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from retiarii.errors import GraphError, RetiariiError
from retiarii.ir.claims import Claim
from retiarii.ir.context import GraphContext
from retiarii.ir.edit.order import Order
from retiarii.ir.edit.rewrites import Rewrites
from retiarii.ir.edit.scope import EditScope
from retiarii.ir.faces import Faces
from retiarii.ir.node import Node, NodeRecord, Value
from retiarii.ir.reads import NoReads
from retiarii.ir.structure import Structure
from retiarii.ir.types import Ref
from retiarii.user_code import defined_at, users_line

_NOTHING: Mapping[str, NodeRecord] = MappingProxyType({})

Pattern = str | Callable[[Node], bool] | Node | Sequence[Any]


class Graph(Structure, Faces, Rewrites):
    """One model as a dataflow graph.

    Nodes are in topological order. Copies share all that is immutable, so that copying a graph
    and editing the copy costs what is touched. Every public edit leaves a graph that verifies, or
    raises a `GraphError` and changes nothing.

    Attributes:
        context: what all copies share: weights, constants, how ``forward`` takes its arguments.
        output_structure: what ``forward`` returns, with ``Result(i)`` for output number ``i``.
    """

    # --- making ------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        records: Iterable[NodeRecord],
        outputs: Sequence[Ref],
        output_structure: Any,
        context: GraphContext,
    ) -> Graph:
        """A graph from records in topological order, taken as right (see `verify`).

        Raises:
            GraphError: a name used twice, or an input that no earlier node makes.
        """
        graph = cls(context)
        paths: dict[str, list[str]] = {}
        for record in records:
            if record.name in graph._records:
                raise GraphError(f"two nodes are called {record.name!r}", fix="rename one")
            for ref in record.inputs:
                graph._check_ref(ref, f"node {record.name!r}")
            graph._add(record, graph.order.last)
            if record.path is not None and record.op not in ("parameter", "buffer"):
                paths.setdefault(record.path, []).append(record.name)
        for ref in outputs:
            graph._check_ref(ref, "the graph's outputs")
        graph._set_outputs(tuple(outputs))
        graph.output_structure = output_structure
        graph._inputs = tuple(r.name for r in graph._records.values() if r.op == "input")
        graph._twins = {p: tuple(names) for p, names in paths.items() if len(names) > 1}
        return graph

    def copy(self) -> Graph:
        """An independent graph; nodes and weights are shared, since neither ever changes."""
        self.settle()
        twin = Graph(self.context)
        self._copy_to(twin)
        return twin

    def with_nodes(
        self,
        records: dict[str, NodeRecord],
        outputs: tuple[Ref, ...],
        suffixes: dict[str, int],
        claims: tuple[Claim, ...] = (),
        gone: Mapping[str, NodeRecord] = _NOTHING,
    ) -> Graph:
        """A graph with the same inputs and context, and other nodes, taken as right.

        Args:
            records: by name, in topological order; the graph's own from then on.
            outputs: as many as there are.
            suffixes: see `Structure.suffixes`.
            claims: sizes that must be as they are.
            gone: what claims are about beside ``records``, and what that was made of.
        """
        twin = Graph(self.context)
        twin._sizes, twin._claims, twin._gone = self.sizes, claims, gone
        twin.order = Order(records)
        twin.output_structure = self.output_structure
        twin._records, twin._outputs = records, outputs
        twin._inputs, twin._twins, twin._suffix = self._inputs, self._twins, suffixes
        del twin._users
        return twin

    # --- reading -----------------------------------------------------------------------------

    @property
    def nodes(self) -> tuple[Node, ...]:
        """All nodes, in topological order."""
        self.reads.note("whole")
        return tuple(Node(self, name) for name in self.order)

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The tensors that ``forward`` takes."""
        return tuple(Node(self, name) for name in self._inputs)

    @property
    def outputs(self) -> tuple[Value, ...]:
        """The tensors that ``forward`` returns; ``output_structure`` says how."""
        self.reads.note("whole")
        return tuple(Value(self, ref.node, ref.index) for ref in self._outputs)

    @property
    def opaque(self) -> tuple[Node, ...]:
        """The nodes that stand for a submodule that could not be lowered (``attrs["reason"]``)."""
        return tuple(n for n in self.nodes if self._records[n._name].op == "opaque")

    def node(self, name: str) -> Node:
        """The node of that name.

        Raises:
            GraphError: there is none; the message has the nearest names.
        """
        self.reads.note("op", name)
        if name not in self._records:
            raise GraphError(f"no node is called {name!r}", fix=self.suggest(name))
        return Node(self, name)

    def find(self, pattern: Pattern) -> tuple[Node, ...]:
        """The nodes that match, in topological order.

        Args:
            pattern: a name, a glob over names (``"stages.*.conv"``), a predicate on nodes, a
                node, or a list of these.
        """
        pattern = frozen_pattern(pattern)
        self.reads.note("found", pattern)
        return tuple(Node(self, name) for name in self.names_matching(pattern))

    def names_matching(self, pattern: Pattern) -> list[str]:
        """The names of what `find` finds."""
        # What a predicate reads on the way is summed up by which nodes it finds.
        reads, self.reads = self.reads, NoReads()
        try:
            return self._names_matching(pattern)
        finally:
            self.reads = reads

    def _names_matching(self, pattern: Pattern) -> list[str]:
        if isinstance(pattern, str):
            if pattern in self._records:
                return [pattern]
            if not any(c in pattern for c in "*?["):
                return []
            return [name for name in self.order if fnmatch.fnmatchcase(name, pattern)]
        if isinstance(pattern, Node):
            return [pattern._name] if pattern._name in self._records else []
        if callable(pattern):
            return [name for name in self.order if self._holds(pattern, name)]
        matched = {name for part in pattern for name in self._names_matching(part)}
        return [name for name in self.order if name in matched]

    def _holds(self, predicate: Callable[[Node], bool], name: str) -> bool:
        try:
            return bool(predicate(Node(self, name)))
        except RetiariiError:
            raise
        except Exception as error:
            raise GraphError(
                f"the predicate raised {type(error).__name__} on node {name!r}: {error}",
                where=users_line(error) or defined_at(predicate),
                fix="a predicate takes a node and returns whether it matches: "
                "lambda node: node.op == 'Conv2d'",
            ) from error

    def records(self) -> Iterator[NodeRecord]:
        """All records in topological order: what passes read."""
        self.settle()
        return map(self._records.__getitem__, self.order)

    # --- editing -----------------------------------------------------------------------------

    def insert(self, what: Any, *inputs: Any, name: str | None = None, **attrs: Any) -> Node:
        """Adds what ``what(*inputs)`` computes, directly behind its inputs. Nothing uses it yet.

        Args:
            what: a module (its weights are not taken: it stands for a fresh one), a module class
                (its constructor's arguments in ``attrs``; input sizes may be left out), a function
                such as ``torch.cat``, an op's name, or a `Graph`.
            inputs: nodes, values, numbers, or a list of them, as ``what`` takes them.
            name: the node's name; a number is added where it is taken.
            attrs: further arguments by name.

        Raises:
            GraphError: arguments that ``what`` does not take, or shapes that do not fit.
        """
        from retiarii.ir.edit import insertion

        with self._edit():
            return insertion.insert(self, what, inputs, name, attrs)

    def replace(self, target: Node, value: Node | Value) -> None:
        """Lets all users of ``target`` use ``value``, and removes ``target``.

        Raises:
            GraphError: it would make a cycle, or the numbers of results differ.
        """
        from retiarii.ir.edit import editing

        with self._edit():
            editing.replace(self, target, value)

    def remove(self, node: Node) -> None:
        """Takes a node out; its users use its input instead.

        Raises:
            GraphError: it has users, and not exactly one input and one result.
        """
        from retiarii.ir.edit import editing

        with self._edit():
            editing.remove(self, node)

    def update(self, node: Node, **attrs: Any) -> None:
        """Changes attributes (``out_channels=32``); what consumes its result is resized.

        Raises:
            GraphError: an attribute that the op does not have, or shapes that do not fit.
        """
        from retiarii.ir.edit import editing

        with self._edit():
            editing.update(self, node, attrs)

    def rewire(self, node: Node, input_index: int, value: Node | Value) -> None:
        """Lets input number ``input_index`` of ``node`` read ``value``.

        Raises:
            GraphError: it would make a cycle, or there is no such input.
        """
        from retiarii.ir.edit import editing

        with self._edit():
            editing.rewire(self, node, input_index, value)

    def edits(self) -> EditScope:
        """Several edits as one: shapes settle at its end, and any error undoes all of them.

        Between two edits that only together make shapes fit, this is what is needed. At its end,
        nodes that the edits left without users are dropped.
        """
        return EditScope(self, single=False)

    def _edit(self) -> EditScope:
        """One public edit."""
        return EditScope(self, single=True)

    def __repr__(self) -> str:
        return f"<Graph of {len(self)} nodes>"


def frozen_pattern(pattern: Pattern) -> Pattern:
    """The pattern with its lists made tuples, and nodes their names, so that it can be a key."""
    if isinstance(pattern, list | tuple):
        return tuple(frozen_pattern(part) for part in pattern)
    return pattern._name if isinstance(pattern, Node) else pattern
