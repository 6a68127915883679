"""Nodes: the immutable record that graphs hold, and the handles that users hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from retiarii.errors import GraphError
from retiarii.ir.types import Attrs, Ref, TensorType

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph


# Why a choice that is a layer is one node; it is resolved before anything runs.
CHOICE = "is a choice, made once a candidate"


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node, immutable, so that copies of a graph share it.

    Attributes:
        name: unique in its graph; the module path where there is one ("stem.0").
        op: the row of the op table, or "input", "parameter", "buffer", "constant", "opaque".
        inputs: the tensors it reads.
        attrs: its other arguments, by name.
        types: the types of the tensors it makes.
        result: what it returns: ``None`` for one tensor, else a structure with ``Result(i)``.
        path: the module path that owns its parameters; equal for the calls of one module.
        fresh: made by a mutator; its parameters are never taken from the parsed model.
        no_grad: ran under ``torch.no_grad``.
        where: "file.py:12" of the call.
    """

    name: str
    op: str
    inputs: tuple[Ref, ...] = ()
    attrs: Attrs = field(default_factory=Attrs)
    types: tuple[TensorType, ...] = ()
    result: Any = None
    path: str | None = None
    fresh: bool = False
    no_grad: bool = False
    where: str | None = None

    @property
    def is_choice(self) -> bool:
        """Whether it stands for a choice that is still to be made."""
        return self.op == "opaque" and self.attrs.get("reason") == CHOICE

    def with_(
        self,
        *,
        name: str | None = None,
        inputs: tuple[Ref, ...] | None = None,
        attrs: Attrs | None = None,
        types: tuple[TensorType, ...] | None = None,
        result: Any = ...,
        path: str | None = None,
        fresh: bool | None = None,
    ) -> NodeRecord:
        """A copy with some fields changed (``dataclasses.replace`` is ten times slower)."""
        return NodeRecord(
            self.name if name is None else name,
            self.op,
            self.inputs if inputs is None else inputs,
            self.attrs if attrs is None else attrs,
            self.types if types is None else types,
            self.result if result is ... else result,
            self.path if path is None else path,
            self.fresh if fresh is None else fresh,
            self.no_grad,
            self.where,
        )


class _Handle:
    """A tensor of a graph: the node's name, and which of its results."""

    __slots__ = ("_graph", "_index", "_name")

    def __init__(self, graph: Graph, name: str, index: int = 0) -> None:
        self._graph = graph
        self._name = name
        self._index = index

    @property
    def graph(self) -> Graph:
        return self._graph

    @property
    def name(self) -> str:
        """The node's name, unique in the graph; the module path where there is one."""
        self._graph.reads.note_name(self._name)
        return self._name

    @property
    def type(self) -> TensorType:
        """The type of the tensor."""
        return self._types()[self._index]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape, at the example batch size."""
        return self.type.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.type.dtype

    def _types(self) -> tuple[TensorType, ...]:
        self._graph.reads.note("types", self._name)
        return self._graph.settled(self._name).types

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Handle) or type(other) is not type(self):
            return NotImplemented
        self._graph.reads.note("whole")
        return (
            self._graph is other._graph
            and self._name == other._name
            and self._index == other._index
        )

    def __hash__(self) -> int:
        self._graph.reads.note("whole")
        return hash((self._name, self._index))


class Node(_Handle):
    """A handle on one node of one graph; reads what the graph holds now."""

    __slots__ = ()

    def __init__(self, graph: Graph, name: str) -> None:
        super().__init__(graph, name)

    @property
    def record(self) -> NodeRecord:
        self._graph.reads.note("whole")
        return self._graph.record(self._name)

    @property
    def op(self) -> str:
        """The op table's row: ``"Conv2d"``, ``"add"``, ..."""
        self._graph.reads.note("op", self._name)
        return self._graph.record(self._name).op

    @property
    def attrs(self) -> Attrs:
        """The arguments other than tensors, by name."""
        self._graph.reads.note("attrs", self._name)
        return self._graph.settled(self._name).attrs

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The tensors it reads, in order."""
        self._graph.reads.note("arity", self._name)
        return tuple(
            Value(self._graph, ref.node, ref.index) for ref in self._graph.record(self._name).inputs
        )

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that read any of its results, in topological order."""
        self._graph.reads.note("users", self._name)
        return tuple(Node(self._graph, name) for name in self._graph.users_of(self._name))

    @property
    def types(self) -> tuple[TensorType, ...]:
        """The type of each tensor it makes."""
        return self._types()

    @property
    def type(self) -> TensorType:
        """The type of the tensor it makes.

        Raises:
            GraphError: it makes several; see ``types``.
        """
        types = self.types
        if len(types) != 1:
            raise GraphError(
                f"node {self._name!r} makes {len(types)} tensors",
                where=f"node {self._name!r}",
                fix="name one: node[0], or read node.types",
            )
        return types[0]

    @property
    def path(self) -> str | None:
        """The module path that owns its parameters."""
        self._graph.reads.note("op", self._name)
        return self._graph.record(self._name).path

    @property
    def where(self) -> str | None:
        """File and line of the call, where it is known."""
        return self._graph.record(self._name).where

    def __getitem__(self, index: int) -> Value:
        """Its tensor number ``index``."""
        count = len(self._graph.record(self._name).types)
        if not -count <= index < count:
            raise IndexError(f"node {self._name!r} makes {count} tensors, not {index + 1}")
        return Value(self._graph, self._name, index % count)

    def __iter__(self) -> Iterable[Value]:
        return iter(Value(self._graph, self._name, i) for i in range(len(self.types)))

    def __repr__(self) -> str:
        self._graph.reads.note("whole")
        if self._name not in self._graph:
            return f"<Node {self._name!r}, removed>"
        record = self._graph.record(self._name)
        return f"<Node {self._name!r}: {record.op} -> {', '.join(map(str, record.types))}>"


class Value(_Handle):
    """One tensor: a result of a node. A Node serves wherever a Value does, meaning its first."""

    __slots__ = ()

    @property
    def node(self) -> Node:
        """The node that makes it."""
        return Node(self._graph, self._name)

    @property
    def index(self) -> int:
        """Which of the node's results it is."""
        return self._index

    @property
    def ref(self) -> Ref:
        return Ref(self._name, self._index)

    def __repr__(self) -> str:
        self._graph.reads.note("whole")
        return f"<Value {self._name!r}[{self._index}]>"
