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

from retiarii.ir.canonical.sharing import Held, Sharing
from retiarii.ir.canonical.signature import Kind, Signature, label_of, make_signature
from retiarii.ir.canonical.twins import number_twins
from retiarii.ir.types import Result, TensorType

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import NodeRecord

_SUM = label_of("sum")
_SHARED = label_of("shared parameters")
_STRUCTURAL = frozenset({"input", "parameter", "buffer", "constant", "opaque"})


def canonical_hash(graph: Graph) -> str:
    """The digest of what the graph computes, whatever its nodes are called.

    Returns:
        32 hex digits; the same in every process.
    """
    form = _Form(graph)
    for record in form.live:
        form.add(record)
    return form.digest().hex()


def canonical_terms(graph: Graph) -> tuple[list[bytes], list[tuple[int, ...]]]:
    """What the graph computes as terms, inputs first: each one's label, and the terms it reads.

    Graphs of equal hash have the same terms, in some order. Labels say the operation and its
    settings, and are the same in every process.
    """
    form = _Form(graph)
    for record in form.live:
        form.add(record)
    form.close()
    return form.labels, form.children


class _Form:
    """The terms of one graph. A term is a position in ``labels``, ``children``, ``unordered``."""

    def __init__(self, graph: Graph) -> None:
        self._context = graph.context
        self._memo: dict[Any, Any] = graph.context.types.notes
        self._graph = graph
        self.live = _live(graph)
        self._sharing = Sharing(graph.context, self.live)
        self._held: dict[int, list[Held]] = {}
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

    def add(self, record: NodeRecord) -> None:
        """Adds the node's term, or finds it among those that are there."""
        if record.op in _STRUCTURAL:
            term = self._structural(record)
        else:
            reads = [self._values[node][index] for node, index in record.inputs]
            signature = self._signature(record)
            term = -1
            if not record.no_grad and len(record.types) == 1:
                term = self._simplified(record, signature, reads)
            if term < 0:
                term = self._plain(record, signature, reads)
        types = record.types
        self._types.setdefault(term, types[0])
        if len(types) == 1:
            self._values[record.name] = (term,)
            return
        parts = [term]
        for index in range(1, len(types)):
            part = self._term(label_of("result", index), (term,), False)
            self._types.setdefault(part, types[index])
            parts.append(part)
        self._values[record.name] = tuple(parts)

    def _signature(self, record: NodeRecord) -> Signature:
        key = (record.op, record.attrs)
        found = self._memo.get(key)
        if found is None:
            found = self._memo[key] = make_signature(record.op, record.attrs, self._context.types)
        return found

    def _simplified(self, record: NodeRecord, signature: Signature, reads: list[int]) -> int:
        """The term where an algebraic rule applies, or -1."""
        kind, zeros = signature.kind, self._zeros
        (out,) = record.types
        if kind is Kind.SUM:
            return self._sum(out, reads)
        if kind is Kind.IDENTITY:
            return reads[0] if len(reads) == 1 and self._types[reads[0]] == out else -1
        if kind is Kind.ZERO:
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
        if kind is Kind.PURE:
            return self._term(label, children, signature.commutative)
        if record.path is not None and (remarks := self._sharing.remarks(record)):
            label = label_of(label.hex(), *remarks)
        if kind is Kind.FRESH:
            term = self._new(label, children, signature.commutative)
        else:
            term = self._term(label, children, signature.commutative, record.path)
        if record.path is not None:
            self._held[term] = self._sharing.of_module(record)
        return term

    def _structural(self, record: NodeRecord) -> int:
        op = record.op
        if op == "input":
            return self._new(label_of("input", self._inputs[record.name]), (), False)
        if op == "opaque":
            label = label_of("opaque", record.path, record.attrs, record.no_grad)
            reads = tuple([self._values[node][index] for node, index in record.inputs])
            term = self._new(label, reads, False)
            self._held[term] = self._sharing.of_module(record)
            return term
        key = str(record.attrs["key"] if op == "constant" else record.path)
        key = self._context.ties.get(key, key)
        known = ("holder", key)
        found = self._known.get(known)
        if found is None:
            label = label_of(op, record.types[0], self._value_digest(record, key))
            found = self._known[known] = self._new(label, (), False)
            self._held[found] = self._sharing.of_raw(record)
        return found

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
        memo = ("tensor", record.op == "constant", key)
        if memo not in self._memo:
            self._memo[memo] = _tensor_digest(tensor, key)
        return str(self._memo[memo])

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
        colours = self._colours({})
        if len(set(colours)) < len(colours):
            numbers = number_twins(colours, self.children, self.unordered)
            colours = self._colours(numbers)
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
        held = [(t, local, what) for t, h in self._held.items() if needed[t] for local, what in h]
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

    def _colours(self, numbers: Mapping[int, int]) -> list[bytes]:
        """Each term's digest, from those of its inputs; numbered terms hold their number."""
        colours: list[bytes] = []
        for term, (label, children, unordered) in enumerate(
            zip(self.labels, self.children, self.unordered, strict=True)
        ):
            parts = [colours[c] for c in children]
            if unordered:
                parts.sort()
            number = numbers.get(term)
            if number is not None:
                parts.append(number.to_bytes(4, "big"))
            colours.append(blake2b(label + b"".join(parts), digest_size=16).digest())
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
