"""The canonical form: one digest for all graphs that compute the same family of functions.

A graph is rewritten, from its inputs up, into terms. Equal pure terms are one term; aliases (the
ReLU module, ``F.relu``) have one label; identities vanish; sums are flattened into multisets
without their zero terms, and a zero goes through whatever makes a zero of it. A layer with
parameters is a term of its own. The digest is that of the terms that the outputs need; terms that
look alike are told apart by how they are used (`twins`).

Names, dead nodes and the order of commutative inputs do not matter. The types and the order of
inputs and outputs do, and so do values that are not learned: constants, buffers, frozen weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import torch

from retiarii.ir.canonical.opaque import description
from retiarii.ir.canonical.sharing import Sharing
from retiarii.ir.canonical.signature import Kind, Signature, label_of, make_signature
from retiarii.ir.canonical.twins import number_twins
from retiarii.ir.types import Result, TensorType

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import NodeRecord

_SUM = label_of("sum")
_SHARED = label_of("shared parameters")
# Looking a member up in its class takes longer than all that is done with it here.
_PURE, _FRESH, _SUMS = Kind.PURE, Kind.FRESH, Kind.SUM
_IDENTITY, _ZERO = Kind.IDENTITY, Kind.ZERO
# Records whose signatures are known by identity; beyond, all are forgotten.
_SEEN = 1 << 16
_STRUCTURAL = frozenset({"input", "parameter", "buffer", "constant", "opaque"})


def canonical_hash(graph: Graph) -> str:
    """The digest of what the graph computes, whatever its nodes are called.

    Returns:
        32 hex digits; the same in every process.
    """
    form = _Form(graph)
    form.build()
    return form.digest().hex()


def canonical_terms(graph: Graph) -> tuple[list[bytes], list[tuple[int, ...]]]:
    """What the graph computes as terms, inputs first: each one's label, and the terms it reads.

    Graphs of equal hash have the same terms, in some order. Labels say the operation and its
    settings, and are the same in every process.
    """
    form = _Form(graph)
    form.build()
    form.close()
    return form.labels, form.children


class _Form:
    """The terms of one graph. A term is a position in ``labels``, ``children``, ``unordered``."""

    def __init__(self, graph: Graph) -> None:
        self._context = graph.context
        self._memo: dict[Any, Any] = graph.context.types.notes
        self._graph = graph
        self._live = _live(graph)
        self._sharing = Sharing(graph.context, self._live)
        # A term -> the node that it first was, where that holds parameters.
        self._holders: dict[int, NodeRecord] = {}
        self.labels: list[bytes] = []
        self.children: list[tuple[int, ...]] = []
        self.unordered: list[bool] = []
        self._known: dict[Any, int] = {}
        self._values: dict[str, tuple[int, ...]] = {}
        self._types: dict[int, TensorType] = {}
        self._sums: dict[int, tuple[int, ...]] = {}
        self._zeros: set[int] = set()
        self._inputs = {node.record.name: i for i, node in enumerate(graph.inputs)}

    # --- terms -------------------------------------------------------------------------------

    def build(self) -> None:
        """Adds each node's term, or finds it among those that are there."""
        # All nodes of all candidates come by here, most of them as records that are shared.
        values, types_of, zeros = self._values, self._types, self._zeros
        seen = self._memo.setdefault("signatures", {})
        for record in self._live:
            types = record.types
            if record.op in _STRUCTURAL:
                term = self._structural(record)
            else:
                reads = [values[node][index] for node, index in record.inputs]
                found = seen.get(id(record))
                signature = self._signature(record, seen) if found is None else found[1]
                term = -1
                if (zeros or signature.rewrites) and len(types) == 1 and not record.no_grad:
                    term = self._simplified(types[0], signature, reads)
                if term < 0:
                    term = self._plain(record, signature, reads)
            if term not in types_of:
                types_of[term] = types[0]
            values[record.name] = (term,) if len(types) == 1 else self._parts(term, types)

    def _signature(
        self, record: NodeRecord, seen: dict[int, tuple[NodeRecord, Signature]]
    ) -> Signature:
        key = (record.op, record.attrs)
        found: Signature | None = self._memo.get(key)
        if found is None:
            found = self._memo[key] = make_signature(record.op, record.attrs, self._context.types)
        if len(seen) > _SEEN:
            seen.clear()
        seen[id(record)] = record, found  # the record too, so that its number stays its own
        return found

    def _parts(self, term: int, types: tuple[TensorType, ...]) -> tuple[int, ...]:
        """The terms of all results of a node."""
        parts = [term]
        for index in range(1, len(types)):
            part = self._term(label_of("result", index), (term,), False)
            self._types.setdefault(part, types[index])
            parts.append(part)
        return tuple(parts)

    def _simplified(self, out: TensorType, signature: Signature, reads: list[int]) -> int:
        """The term where an algebraic rule applies, or -1."""
        kind, zeros = signature.kind, self._zeros
        if kind is _SUMS:
            return self._sum(out, reads)
        if kind is _IDENTITY:
            return reads[0] if len(reads) == 1 and self._types[reads[0]] == out else -1
        if kind is _ZERO:
            return self._zero(out)
        if zeros and reads:
            if signature.zero_from_all and zeros.issuperset(reads):
                return self._zero(out)
            if signature.zero_from_any and not zeros.isdisjoint(reads):
                return self._zero(out)
        return -1

    def _sum(self, out: TensorType, reads: list[int]) -> int:
        terms: list[int] = []
        for read in reads:
            if self._types[read].dtype != out.dtype:
                return -1
            inner = self._sums.get(read)
            if inner is None:
                terms.append(read)
            else:
                terms += inner
        rest = [t for t in terms if t not in self._zeros]
        if not rest:
            return self._zero(out)
        if len(rest) < len(terms) and self._broadcast(rest) != out.shape:
            rest.append(self._zero(out))
        if len(rest) == 1:
            return rest[0]
        rest.sort()
        key = tuple(rest)
        term = self._term(_SUM, key, True)
        self._sums[term] = key
        return term

    def _broadcast(self, terms: list[int]) -> tuple[int, ...]:
        first = self._types[terms[0]].shape
        if all(self._types[t].shape == first for t in terms):
            return first
        return _broadcast([self._types[t].shape for t in terms])

    def _zero(self, out: TensorType) -> int:
        key = ("zero", out)
        term = self._known.get(key)
        if term is None:
            term = self._known[key] = self._new(label_of("zero", out), (), False)
            self._types[term] = out
            self._zeros.add(term)
        return term

    def _plain(self, record: NodeRecord, signature: Signature, reads: list[int]) -> int:
        label, kind = signature.label, signature.kind
        if record.no_grad:
            label = label_of(label.hex(), "no_grad")
        if signature.commutative and len(reads) > 1:
            reads.sort()
        children = tuple(reads)
        if kind is _PURE:
            key = (label, children, None)
            term = self._known.get(key)
            if term is None:
                term = self._known[key] = self._new(label, children, signature.commutative)
            return term
        path, sharing = record.path, self._sharing
        if path is not None and sharing.marks and (remarks := sharing.remarks(record)):
            label = label_of(label.hex(), *remarks)
        if kind is _FRESH:
            term = self._new(label, children, signature.commutative)
        else:
            term = self._term(label, children, signature.commutative, path)
        if path is not None:
            self._holders[term] = record
        return term

    def _structural(self, record: NodeRecord) -> int:
        op = record.op
        if op == "input":
            return self._new(label_of("input", self._inputs[record.name]), (), False)
        if op == "opaque":
            inside = self._inside(str(record.path))
            label = label_of("opaque", record.path, record.attrs, record.no_grad, *inside)
            reads = tuple([self._values[node][index] for node, index in record.inputs])
            term = self._new(label, reads, False)
            self._holders[term] = record
            return term
        key = str(record.attrs["key"] if op == "constant" else record.path)
        key = self._context.ties.get(key, key)
        known = ("holder", key)
        found = self._known.get(known)
        if found is None:
            label = label_of(op, record.types[0], self._value_digest(record, key))
            found = self._known[known] = self._new(label, (), False)
            self._holders[found] = record
        return found

    def _inside(self, path: str) -> tuple[str, ...]:
        """What the opaque module at ``path`` is, where the graph has it."""
        module = self._context.opaque.get(path)
        if module is None or hasattr(module, "opaque_reason"):
            return ()  # a choice that is still to be made is told by its path
        notes = self._context.notes
        key = ("opaque", path)
        if key not in notes:
            notes[key] = description(module)
        return (notes[key],)

    def _value_digest(self, record: NodeRecord, key: str) -> str:
        """What the tensor holds, where that is not learned."""
        context = self._context
        if record.op == "parameter":
            learned = record.attrs.get("requires_grad", True) and key not in context.frozen
            if learned or record.fresh:
                return ""
        source = context.constants if record.op == "constant" else context.weights
        tensor = source.get(key)
        if tensor is None:
            return key
        digests = context.digests
        if tensor not in digests:
            digests[tensor] = _tensor_digest(tensor, key)
        return digests[tensor]

    def _term(
        self, label: bytes, children: tuple[int, ...], unordered: bool, path: str | None = None
    ) -> int:
        key = (label, children, path)
        term = self._known.get(key)
        if term is None:
            term = self._known[key] = self._new(label, children, unordered)
        return term

    def _new(self, label: bytes, children: tuple[int, ...], unordered: bool) -> int:
        self.labels.append(label)
        self.children.append(children)
        self.unordered.append(unordered)
        return len(self.labels) - 1

    # --- the digest --------------------------------------------------------------------------

    def digest(self) -> bytes:
        """The digest of all that the outputs need."""
        self.close()
        colours = self._colours([], {})
        if len(set(colours)) < len(colours):
            numbers = number_twins(colours, self.children, self.unordered)
            colours = self._colours(colours[: min(numbers)], numbers)
        return colours[-1]

    def close(self) -> None:
        """Adds the last term, which reads all outputs, and drops what it does not need."""
        outputs = tuple(self._values[node][index] for node, index in self._graph.output_refs())
        self._new(self._header(), outputs, False)
        self._keep_needed()

    def _header(self) -> bytes:
        graph = self._graph
        structure = graph.output_structure
        return label_of(
            "graph",
            *(record.types[0] for record in map(graph.record, self._inputs)),
            tuple(structure for _, structure in graph.context.forward.params),
            Result(0) if structure is None else structure,
        )

    def _keep_needed(self) -> None:
        """Drops the terms that the last one does not need, and adds one for what terms share."""
        needed = bytearray(len(self.labels))
        needed[-1] = 1
        for term in range(len(self.labels) - 1, -1, -1):
            if needed[term]:
                for child in self.children[term]:
                    needed[child] = 1
        held = self._held_by(needed)
        count = Counter([what for _, _, what in held])
        shared = {what: i for i, what in enumerate(w for w, n in count.items() if n > 1)}
        if not shared and all(needed):
            return
        kept = [term for term, flag in enumerate(needed) if flag]
        place = {term: i for i, term in enumerate(kept, len(shared))}
        first = len(shared)
        labels, unordered = self.labels, self.unordered
        self.labels = [_SHARED] * first + [labels[t] for t in kept]
        self.children = [()] * first + [tuple([place[c] for c in self.children[t]]) for t in kept]
        self.unordered = [False] * first + [unordered[t] for t in kept]
        for term, local, what in held:
            if what in shared:
                at = place[term]
                self.labels[at] = label_of(self.labels[at].hex(), "shares", local)
                self.children[at] += (shared[what],)

    def _held_by(self, needed: bytearray) -> list[tuple[int, str, str]]:
        """What the needed terms hold, as (term, place inside, what); none where all differ."""
        sharing = self._sharing
        holders = [(term, record) for term, record in self._holders.items() if needed[term]]
        if not sharing.ties and len({r.path for _, r in holders}) == len(holders):
            return []
        return [(term, *held) for term, record in holders for held in sharing.of(record)]

    def _colours(self, colours: list[bytes], numbers: Mapping[int, int]) -> list[bytes]:
        """Each term's digest, from those of its inputs; numbered terms hold their number.

        Args:
            colours: of the first terms, which no number reaches.
            numbers: term -> number.
        """
        labels, all_children, unordered = self.labels, self.children, self.unordered
        for term in range(len(colours), len(labels)):
            children = all_children[term]
            if len(children) == 1:
                inputs = colours[children[0]]
            else:
                parts = [colours[c] for c in children]
                if unordered[term]:
                    parts.sort()
                inputs = b"".join(parts)
            if term in numbers:
                inputs += numbers[term].to_bytes(4, "big")
            colours.append(blake2b(labels[term] + inputs, digest_size=16).digest())
        return colours


def _live(graph: Graph) -> list[NodeRecord]:
    """The nodes that the outputs follow from, in topological order."""
    wanted = {ref.node for ref in graph.output_refs()}
    live: list[NodeRecord] = []
    for record in reversed(list(graph.records())):
        if record.name in wanted:
            live.append(record)
            for node, _ in record.inputs:
                wanted.add(node)
    live.reverse()
    return live


def _broadcast(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of the sum of tensors that are known to broadcast."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    return tuple([next((n for n in sizes if n != 1), 1) for sizes in zip(*padded, strict=True)])


def _tensor_digest(tensor: torch.Tensor, key: str) -> str:
    if tensor.is_meta or tensor.layout is not torch.strided:
        return key
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return blake2b(data.numpy().tobytes(), digest_size=16).hexdigest()
