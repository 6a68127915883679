"""All choices that are layers, resolved at once.

What follows one by one from edits (`Plan.perform`) is put together here from pieces that are kept:
the same nodes, in the same order, with the same names. It goes as far as options make tensors of
the types that their placeholders have, so that no layer around them changes but in what it reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from retiarii.ir.claims import Claim
from retiarii.ir.graph import Graph
from retiarii.ir.node import NodeRecord
from retiarii.ir.types import Ref, TensorType
from retiarii.mutators.choice import Description, Raw, Recorder
from retiarii.mutators.fragments import Fragment, Piece, fragment
from retiarii.mutators.layers import Placeholder

# Pieces and records that are kept for one node; a space has few for most of its nodes.
_KEPT = 4096

Inputs = tuple[Ref, ...]


@dataclass(slots=True)
class _Place:
    """A placeholder's node, and what was made of it so far."""

    record: NodeRecord
    placeholder: Placeholder
    label: str
    description: Description
    fragments: dict[tuple[Raw, tuple[TensorType, ...]], Fragment | None] = field(
        default_factory=dict
    )
    pieces: dict[tuple[Raw, Inputs, tuple[str, ...]], Piece] = field(default_factory=dict)
    # (raw, inputs) -> whether the order of the inputs matters, and the nodes around
    around: dict[tuple[Raw, Inputs], tuple[bool, tuple[str, ...]] | None] = field(
        default_factory=dict
    )


class Resolver:
    """Makes graphs without placeholders of one that has them.

    Args:
        graph: the graph; never changed.
        placeholders: module path -> placeholder.
    """

    def __init__(self, graph: Graph, placeholders: Mapping[str, Placeholder]) -> None:
        self.graph = graph
        self.placeholders = placeholders
        self.places: dict[str, _Place] = {}
        self._rewired: dict[tuple[str, Inputs], NodeRecord] = {}
        self._same: set[tuple[int, int]] = set()
        self.order = tuple(graph.order)
        self.base = {record.name: record for record in graph.records()}
        self.position = {name: i for i, name in enumerate(self.order)}
        self.todo = tuple(unresolved(graph, self.order, placeholders))
        chosen = set(self.todo)
        self.readers = tuple(
            r.name for r in self.base.values() if any(ref.node in chosen for ref in r.inputs)
        )
        inputs = [self.position[node._name] for node in graph.inputs]
        first = min((self.position[name] for name in self.todo), default=0)
        # Nodes without inputs stand behind the last of these.
        self.root = self.order[max(inputs)] if inputs and max(inputs) < first else None
        self.read_by_layers = {
            ref for r in self.base.values() if r.name not in chosen for ref in r.inputs
        }.union(graph.output_refs())
        self.used = {ref for r in self.base.values() for ref in r.inputs} | {*graph.output_refs()}

    def resolve(self, recorder: Recorder) -> tuple[Graph, tuple[str, ...]]:
        """A new graph, and the placeholders that are still to be resolved one by one, in order.

        Raises:
            SpaceError: a label with two lists of options.
        """
        if not self.todo or self.root is None:
            return self.graph.copy(), self.todo
        return _Run(self, recorder).graph()

    def place(self, record: NodeRecord) -> _Place:
        found = self.places.get(record.name)
        if found is None:
            assert record.path is not None
            placeholder = self.placeholders[record.path]
            description = placeholder.description()
            label = description.label or record.path
            found = self.places[record.name] = _Place(record, placeholder, label, description)
        return found

    def answer(self, place: _Place, recorder: Recorder, asked: dict[str, Description]) -> Raw:
        """The answer to the place's question, which others may have asked before."""
        description, before = place.description, asked.get(place.label)
        if before is None or (id(before), id(description)) not in self._same:
            recorder.ask(place.label, description)
            if before is None:
                asked[place.label] = description
            else:
                self._same.add((id(before), id(description)))
        raw = recorder.made(place.label)
        assert raw is not None
        return raw

    def rewired(self, record: NodeRecord, inputs: Inputs) -> NodeRecord:
        """The record with other inputs."""
        key = (record.name, inputs)
        found = self._rewired.get(key)
        if found is None or found.attrs is not record.attrs or found.types is not record.types:
            if len(self._rewired) > _KEPT * 16:
                self._rewired.clear()
            found = self._rewired[key] = record.with_(inputs=inputs)
        return found


class _Run:
    """One candidate in the making."""

    def __init__(self, of: Resolver, recorder: Recorder) -> None:
        self._of = of
        self._recorder = recorder
        self._asked: dict[str, Description] = {}
        self._records = of.base.copy()
        self._moved: dict[Ref, Ref] = {}
        # A nested placeholder's result -> the results that it replaces for now.
        self._passed_on: dict[Ref, list[Ref]] = {}
        # Behind which node what was put, the newest last.
        self._behind: dict[str, list[tuple[str, ...]]] = {}
        self._put: list[tuple[str, tuple[str, ...]]] = []
        self._keys: dict[str, tuple[int, ...]] = {}
        self._keyed = 0
        self._readers: list[str] = []
        self._dropped: list[str] = []
        self._claims: list[Claim] = []
        self._gone: dict[str, NodeRecord] = {}
        self._suffixes = dict(of.graph.suffixes)

    def graph(self) -> tuple[Graph, tuple[str, ...]]:
        todo = list(reversed(self._of.todo))
        while todo:
            piece = self._piece(todo[-1])
            if piece is None:
                break
            self._insert(todo.pop(), piece)
            todo.extend(reversed(piece.nested))
        return self._made(), tuple(reversed(todo))

    def _piece(self, name: str) -> Piece | None:
        """What replaces a placeholder; ``None`` where that is to be found out by an edit."""
        of, record = self._of, self._records[name]
        place = of.place(record)
        raw = of.answer(place, self._recorder, self._asked)
        moved = self._moved
        inputs = tuple([moved.get(ref, ref) for ref in record.inputs])
        key = (raw, inputs)
        if key not in place.around:
            self._look_up(place, raw, inputs)
        known = place.around[key]
        if known is None:
            return None
        ranked, around = known
        if ranked:
            around = tuple(sorted(around, key=self._key))
        piece = place.pieces.get((raw, inputs, around))
        if piece is None:
            kinds = tuple([self._records[node].types[index] for node, index in inputs])
            made = place.fragments[raw, kinds]
            assert made is not None
            assert of.root is not None
            piece = made.placed(inputs, around, of.root)
            place.pieces[raw, inputs, around] = piece
        taken = not self._records.keys().isdisjoint(piece.records)
        return None if taken or not self._suffixes.keys().isdisjoint(piece.suffixes) else piece

    def _look_up(self, place: _Place, raw: Raw, inputs: Inputs) -> None:
        of = self._of
        if len(place.around) > _KEPT:
            place.around.clear()
            place.pieces.clear()
        kinds = tuple([self._records[node].types[index] for node, index in inputs])
        if (raw, kinds) not in place.fragments:
            value = place.description.value(raw)
            place.fragments[raw, kinds] = fragment(
                of.graph.context, place.record, kinds, place.placeholder, value, of.placeholders
            )
        made = place.fragments[raw, kinds]
        if made is None or self._spreads(made):
            place.around[raw, inputs] = None
            return
        assert of.root is not None
        nodes = [*(ref.node for ref in inputs), *([of.root] if made.rooted else [])]
        around = tuple(dict.fromkeys(nodes))
        place.around[raw, inputs] = made.ranked and len(around) > 1, around

    def _spreads(self, made: Fragment) -> bool:
        """Whether layers must follow a change of type; choices are still to be made, and do not."""
        retyped = made.retyped
        return bool(retyped) and not (
            made.name in self._of.base and self._of.read_by_layers.isdisjoint(retyped)
        )

    def _insert(self, name: str, piece: Piece) -> None:
        record = self._records.pop(name)
        self._records.update(piece.records)
        self._moved.update(piece.moved)
        if piece.nested or self._passed_on:
            self._follow(piece)
        for anchor, block in piece.blocks:
            self._behind.setdefault(anchor, []).append(block)
            self._put.append((anchor, block))
        if piece.readers:
            self._readers += piece.readers
        if piece.dropped:
            self._dropped += piece.dropped
        elif not self._of.used.issuperset(piece.moved):
            # A result that nothing reads: what it was made of may go.
            self._dropped += [ref.node for ref in (*record.inputs, *piece.moved.values())]
        if piece.claims:
            self._claims += piece.claims
        if piece.suffixes:
            self._suffixes.update(piece.suffixes)

    def _follow(self, piece: Piece) -> None:
        """What a nested placeholder stood for is now what it became."""
        for result, new in piece.moved.items():
            results = [result, *self._passed_on.pop(result, ())]
            self._moved.update(dict.fromkeys(results, new))
            if new.node in piece.nested:
                self._passed_on.setdefault(new, []).extend(results)

    def _key(self, name: str) -> tuple[int, ...]:
        """Grows along the order: what is put behind a node comes before what was put there."""
        while self._keyed < len(self._put):
            self._keyed += 1
            anchor, block = self._put[self._keyed - 1]
            key = self._key_of(anchor)
            for i, new in enumerate(block):
                self._keys[new] = (*key, -self._keyed, i)
        return self._key_of(name)

    def _key_of(self, name: str) -> tuple[int, ...]:
        key = self._keys.get(name)
        return (self._of.position[name],) if key is None else key

    # --- the graph ----------------------------------------------------------------------------

    def _made(self) -> Graph:
        of, records, moved = self._of, self._records, self._moved
        for name in (*of.readers, *self._readers):
            record = records.get(name)
            if record is not None:
                inputs = tuple([moved.get(ref, ref) for ref in record.inputs])
                records[name] = of.rewired(record, inputs)
        outputs = tuple([moved.get(ref, ref) for ref in of.graph.output_refs()])
        if self._dropped:
            self._prune(outputs)
        ordered: dict[str, NodeRecord] = {}
        for name in of.order:
            if name in records:
                ordered[name] = records[name]
            if name in self._behind:
                self._unfold(name, ordered)
        claims = tuple([replace(c, ref=moved.get(c.ref, c.ref)) for c in self._claims])
        return of.graph.with_nodes(ordered, outputs, self._suffixes, claims, self._gone)

    def _unfold(self, anchor: str, ordered: dict[str, NodeRecord]) -> None:
        """Adds what stands behind a node, and behind that, in order."""
        records, behind = self._records, self._behind
        stack = [name for block in behind[anchor] for name in reversed(block)]
        while stack:
            name = stack.pop()
            if name in records:
                ordered[name] = records[name]
            if name in behind:
                stack += [new for block in behind[name] for new in reversed(block)]

    def _prune(self, outputs: tuple[Ref, ...]) -> None:
        """Drops what nothing uses any more."""
        records = self._records
        uses: dict[str, int] = {}
        for record in records.values():
            for ref in record.inputs:
                uses[ref.node] = uses.get(ref.node, 0) + 1
        for ref in outputs:
            uses[ref.node] = uses.get(ref.node, 0) + 1
        stack = self._dropped
        while stack:
            name = stack.pop()
            found = records.get(name)
            if found is None or found.op == "input" or uses.get(name):
                continue
            del records[name]
            if self._claims:
                self._gone[name] = found
            for ref in found.inputs:
                uses[ref.node] -= 1
                stack.append(ref.node)


def unresolved(
    graph: Graph, names: tuple[str, ...] | list[str], placeholders: Mapping[str, Placeholder]
) -> list[str]:
    """Those of the nodes that stand for a choice that is to be made."""
    records = map(graph.record, names)
    return [r.name for r in records if r.op == "opaque" and r.path in placeholders]
