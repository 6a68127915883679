"""Edits as transactions: a journal to roll back by, and shapes that settle when it ends.

Within one, structure is checked at once, while shapes downstream of an edit are inferred when
somebody reads them, and at the end at the latest. A failure rolls everything back.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from retiarii.errors import ShapeError
from retiarii.ir.edit.following import joins_branches, widths_to_follow
from retiarii.ir.edit.resize import fit_parameters, resize
from retiarii.ir.edit.widths import width_name
from retiarii.ir.infer import infer
from retiarii.ir.node import NodeRecord
from retiarii.ir.types import TensorType

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph

Undo = Callable[[], Any]

_HOLDERS = frozenset({"input", "parameter", "buffer", "constant"})


@dataclass(frozen=True, slots=True)
class Mark:
    """A point within a transaction: how much was done, and what was stale then."""

    done: int
    dirty: dict[str, bool]
    failed: dict[str, ShapeError]
    known_types: dict[str, tuple[TensorType, ...]]


class Transaction:
    """The changes under way on one graph.

    Attributes:
        new: the names of what was inserted so far.

    Args:
        graph: the graph.
        single: one edit alone: what it inserts waits for the next edit to be used.
    """

    __slots__ = (
        "_dirty",
        "_failed",
        "_graph",
        "_journal",
        "_known_types",
        "_loose",
        "_said",
        "_settling",
        "_single",
        "new",
    )

    def __init__(self, graph: Graph, *, single: bool = False) -> None:
        self._graph = graph
        self._single = single
        self._journal: list[Undo] = []
        self._dirty: dict[str, bool] = {}
        self._failed: dict[str, ShapeError] = {}
        self._loose: dict[str, None] = {}
        self.new: list[str] = []
        # Types that a node's inputs had when its attributes were last right: what resizing
        # compares with.
        self._known_types: dict[str, tuple[TensorType, ...]] = {}
        self._said: dict[str, None] = {}
        self._settling = False

    # --- journal -----------------------------------------------------------------------------

    def mark(self) -> Mark:
        """A point to roll back to."""
        return Mark(
            len(self._journal), self._dirty.copy(), self._failed.copy(), self._known_types.copy()
        )

    def on_undo(self, undo: Undo) -> None:
        self._journal.append(undo)

    def roll_back(self, mark: Mark | None = None) -> None:
        """Undoes everything since ``mark``, shapes that settled since then included."""
        while len(self._journal) > (0 if mark is None else mark.done):
            self._journal.pop()()
        if mark is not None:
            self._dirty = mark.dirty
            self._failed = mark.failed
            self._known_types = mark.known_types
        for name in [n for n in self._loose if n not in self._graph]:
            del self._loose[name]
        self.new = [name for name in self.new if name in self._graph]

    def renamed(self, names: Mapping[str, str]) -> None:
        """Nodes have other names (old -> new)."""
        for marks in (self._dirty, self._failed, self._loose, self._known_types, self._said):
            _rekey(marks, names)
        self.new = [names.get(name, name) for name in self.new]

    # --- shapes ------------------------------------------------------------------------------

    def touch(self, name: str, *, attrs: bool = False) -> None:
        """The node's inputs (or its attributes) changed: infer it again."""
        self._dirty[name] = attrs or self._dirty.get(name, False)

    def keep_attrs(self, name: str) -> None:
        """The mutator said a node's literal sizes itself: they are not worked out again."""
        self._said[name] = None

    def release_attrs(self, names: Iterable[str]) -> None:
        """From now on, these nodes' literal sizes are worked out again."""
        for name in names:
            self._said.pop(name, None)

    def remember_inputs(self, record: NodeRecord) -> None:
        """Keeps the types of the node's inputs, before they change."""
        if record.name not in self._known_types:
            self._known_types[record.name] = self._graph.input_types(record)

    @property
    def unsettled(self) -> bool:
        return bool(self._dirty)

    def settle(self, strict: bool) -> None:
        """Infers the types that edits made stale, resizing what consumes them.

        Args:
            strict: at the end of the transaction; only then do the far ends of residual branches
                follow (`retiarii.ir.edit.following`), since until then the mutator may mean to.

        Raises:
            ShapeError: ``strict``, and shapes do not fit.
        """
        if self._settling:
            return
        self._settling = True
        try:
            self._settle()
            followed: set[str] = set()
            while strict and self._failed and self._follow(followed):
                self._settle()
        finally:
            self._settling = False
        if strict and self._failed:
            raise next(iter(self._failed.values()))

    def _settle(self) -> None:
        graph = self._graph
        queue = [(graph.order.key(n), n) for n in (*self._dirty, *self._failed) if n in graph]
        heapq.heapify(queue)
        changed_attrs = {name for name, attrs in self._dirty.items() if attrs}
        self._dirty.clear()
        self._failed.clear()
        done: set[str] = set()
        while queue:
            _, name = heapq.heappop(queue)
            if name in done:
                continue
            done.add(name)
            if name not in changed_attrs and self._inputs_as_before(name):
                continue
            for dependant in self._infer_again(name):
                if dependant in done:  # a tied twin earlier in the order
                    done.discard(dependant)
                heapq.heappush(queue, (graph.order.key(dependant), dependant))

    def _follow(self, followed: set[str]) -> bool:
        """Widens what lags behind at the first node that fails; whether there was anything."""
        graph = self._graph
        name = min((n for n in self._failed if n in graph), key=graph.order.key)
        old = self._known_types.get(name)
        if old is None:
            return False
        record = graph.record(name)
        widths = widths_to_follow(graph, record, old, graph.input_types(record))
        if not widths or any(maker in followed for maker, _ in widths):
            return False
        for (maker, axis), size in widths.items():
            followed.add(maker)
            self._widen(graph.record(maker), axis, size)
        return True

    def _widen(self, record: NodeRecord, axis: int, size: int) -> None:
        graph = self._graph
        if record.op == "parameter":
            (kind,) = record.types
            shape = (*kind.shape[:axis], size, *kind.shape[axis + 1 :])
            self.put_parameter(record, TensorType(shape, kind.dtype))
            return
        width = width_name(record)
        assert width is not None
        attrs = record.attrs.merged({width: size})
        for twin in [record.name, *graph.twins_of(record)]:
            self.remember_inputs(graph.record(twin))
            graph.put(graph.record(twin).with_(attrs=attrs))
            self.touch(twin, attrs=True)

    def put_parameter(self, holder: NodeRecord, kind: TensorType, reader: str = "") -> None:
        """Gives a raw parameter another shape; what reads it (but ``reader``) is inferred again."""
        graph = self._graph
        attrs = holder.attrs.merged({"shape": kind.shape})
        graph.reads.note("users", holder.name)
        for user in graph.users_of(holder.name):
            if user != reader:
                self.remember_inputs(graph.record(user))
                self.touch(user)
        graph.put(holder.with_(attrs=attrs, types=(kind,)))

    def _inputs_as_before(self, name: str) -> bool:
        """Whether the node reads other tensors, of the types that it read before."""
        known = self._known_types.get(name)
        record = self._graph.record(name)
        if known is None or known != self._graph.input_types(record):
            return False
        for ref in record.inputs:
            self._graph.reads.note("types", ref.node)
        del self._known_types[name]
        return True

    def _infer_again(self, name: str) -> list[str]:
        """Brings one node up to date; the nodes that must follow."""
        graph = self._graph
        record = graph.record(name)
        if record.op in _HOLDERS:
            return []
        note = graph.reads.note
        note("attrs", name)
        for ref in record.inputs:
            note("types", ref.node)
        follow: list[str] = []
        try:
            attrs, types, result = self._fitted(record)
            if attrs is not record.attrs and attrs != record.attrs:
                follow += self._carry_to_twins(record, attrs)
        except ShapeError as error:
            self._failed[name] = error
            self._dirty[name] = True
            return []
        changed = types != record.types
        if changed:
            graph.reads.note("users", name)
            for user in graph.users_of(name):
                self.remember_inputs(graph.record(user))
                follow.append(user)
        if changed or attrs is not record.attrs:
            graph.put(record.with_(attrs=attrs, types=types, result=result))
        self._known_types.pop(name, None)
        return follow

    def _fitted(self, record: NodeRecord) -> tuple[Any, tuple[TensorType, ...], Any]:
        graph = self._graph
        new = graph.input_types(record)
        old = self._known_types.get(record.name)
        if record.op == "opaque":
            return record.attrs, self._opaque_types(record, old, new), record.result
        cache = graph.context.types
        try:
            attrs = record.attrs
            if record.name not in self._said:
                attrs = resize(record, new, old_input_types=old)
            return attrs, *infer(record.op, attrs, new, cache)
        except ShapeError as error:
            if old is not None and self._fit_parameters(record, old, new):
                new = graph.input_types(record)
                return record.attrs, *infer(record.op, record.attrs, new, cache)
            raise _placed(error, record, graph) from None

    def _opaque_types(
        self, record: NodeRecord, old: tuple[TensorType, ...] | None, new: tuple[TensorType, ...]
    ) -> tuple[TensorType, ...]:
        """What an opaque module makes is known only for inputs as it had them."""
        if record.is_choice or old is None or old == new:
            return record.types
        raise ShapeError(
            f"module {record.path!r} is opaque ({record.attrs['reason']}), so that it cannot be "
            f"resized: it had {', '.join(map(str, old))} and gets {', '.join(map(str, new))}",
            where=f"node {record.name!r}",
            fix="keep the shape of what it reads, or replace it as well",
        )

    def _fit_parameters(
        self, record: NodeRecord, old: tuple[TensorType, ...], new: tuple[TensorType, ...]
    ) -> bool:
        """Resizes raw parameters (position embeddings, scales) that no longer broadcast."""
        graph = self._graph
        holders = [graph.record(ref.node) for ref in record.inputs]
        held = [i for i, holder in enumerate(holders) if holder.op == "parameter"]
        shapes = fit_parameters(record, new, old, held)
        for index, shape in shapes.items():
            kind = TensorType(shape, new[index].dtype)
            self.put_parameter(holders[index], kind, reader=record.name)
        return bool(shapes)

    def _carry_to_twins(self, record: NodeRecord, attrs: Any) -> list[str]:
        """The other calls of one module have its attributes too."""
        graph = self._graph
        twins = [n for n in graph.twins_of(record) if n in graph]
        changed = []
        for name in twins:
            twin = graph.record(name)
            if twin.attrs == attrs:
                continue
            # What a later call reads may be stale still; its own turn tells.
            earlier = graph.order.key(name) < graph.order.key(record.name)
            if earlier and resize(twin.with_(attrs=attrs), graph.input_types(twin)) != attrs:
                raise ShapeError(
                    f"module {record.path!r} is called at {record.name!r} and {name!r} with inputs "
                    f"of different widths: {_shapes(graph, record)} and {_shapes(graph, twin)}",
                    where=f"node {name!r}",
                    fix="give the two calls equal inputs, or replace one call by its own module",
                )
            graph.put(twin.with_(attrs=attrs))
            changed.append(name)
        return changed

    # --- what nothing uses any more ----------------------------------------------------------

    def loosen(self, name: str) -> None:
        """The node lost a user: drop it at the end if nothing uses it."""
        self._loose[name] = None

    def added(self, name: str) -> None:
        """The node is new: drop it at the end if nothing uses it."""
        self.new.append(name)
        if not self._single:
            self._loose[name] = None

    def prune(self) -> None:
        """Drops what edits left without users."""
        graph = self._graph
        stack = [name for name in self._loose if name in graph]
        while stack:
            name = stack.pop()
            if name not in graph:
                continue
            graph.reads.note_used(name)
            record = graph.record(name)
            if record.op == "input" or graph.is_used(name):
                continue
            graph.drop(name)
            stack.extend(ref.node for ref in record.inputs)
        self._loose.clear()


def _rekey(marks: dict[str, Any], names: Mapping[str, str]) -> None:
    for old in [n for n in names if n in marks]:
        marks[names[old]] = marks.pop(old)


def _shapes(graph: Graph, record: NodeRecord) -> str:
    return ", ".join(str(t) for t in graph.input_types(record))


def _placed(error: ShapeError, record: NodeRecord, graph: Graph) -> ShapeError:
    inputs = ", ".join(
        f"{ref.node} {t}" for ref, t in zip(record.inputs, graph.input_types(record), strict=True)
    )
    place = f"node {record.name!r}" + (f" ({record.where})" if record.where else "")
    kinds = graph.input_types(record)
    if joins_branches(record) and len({kind.shape for kind in kinds}) > 1:
        sides = dict.fromkeys(
            f"{ref.node!r} {kind}" for ref, kind in zip(record.inputs, kinds, strict=True)
        )
        return ShapeError(
            f"{record.op} joins branches whose shapes do not agree: {' and '.join(sides)}",
            where=place,
            fix="give both one width, or adapt one: graph.align(a, b) inserts the projection",
        )
    return ShapeError(
        error.cause,
        where=f"{place}, inputs {inputs}",
        fix=error.fix
        or "make the inputs fit, or insert a projection (a 1x1 convolution, a Linear)",
    )
