"""Which parameters the nodes of a graph hold, by names that are equal where they are one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from retiarii.ir.context import GraphContext
from retiarii.ir.node import NodeRecord

RAW = frozenset({"parameter", "buffer"})
_RAW_OR_CONSTANT = RAW | {"constant"}

# (place inside the node, identity): what a node holds.
Held = tuple[str, str]


class Sharing:
    """Answers for the nodes of one graph.

    Args:
        context: has the ties, the frozen parameters and the modes.
        records: the nodes that matter.

    Attributes:
        marks: whether any node has `remarks`.
        ties: whether a node may hold what another one has under another name.
    """

    def __init__(self, context: GraphContext, records: Sequence[NodeRecord]) -> None:
        self._modes = context.modes
        self._frozen = _by_prefix((k, k) for k in context.frozen) if context.frozen else {}
        self.marks = bool(self._modes or self._frozen)
        self._tied: dict[str, list[Held]] = {}
        raw = {r.path for r in records if r.op in RAW and r.path is not None}
        if not raw and not context.ties:
            return
        paths = {r.path for r in records if r.op not in RAW and r.path is not None}
        keys = {*context.ties, *context.ties.values()}
        keys |= {key for key in raw if any(p in paths for p in _prefixes(key))}
        firsts = {(key, "key " + context.ties.get(key, key)) for key in keys}
        self._tied = _by_prefix(firsts)
        self._tied.update({key: [("", first)] for key, first in firsts if key in raw})

    @property
    def ties(self) -> bool:
        return bool(self._tied)

    def of(self, record: NodeRecord) -> list[Held]:
        """What a node holds."""
        return self._of_raw(record) if record.op in _RAW_OR_CONSTANT else self._of_module(record)

    def _of_module(self, record: NodeRecord) -> list[Held]:
        """Of a layer: the module itself, and parameters that may be others' too."""
        path = str(record.path)
        held = [("", "module " + path)]
        if self._tied and not record.fresh:
            held += sorted(self._tied.get(path, ()))
        return held

    def _of_raw(self, record: NodeRecord) -> list[Held]:
        """The same for a parameter or a buffer that is used directly."""
        return self._tied.get(str(record.path), []) if not record.fresh else []

    def remarks(self, record: NodeRecord) -> list[Any]:
        """What sets the layer apart from one with the same attributes: its mode, frozen weights."""
        if record.fresh or not self.marks:
            return []
        path = str(record.path)
        remarks: list[Any] = []
        if path in self._modes:
            remarks.append(self._modes[path])
        if path in self._frozen:
            # Frozen weights are not learned: which ones they are matters.
            remarks.append((path, sorted(self._frozen[path])))
        return remarks


def _prefixes(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _by_prefix(pairs: Iterable[tuple[str, str]]) -> dict[str, list[Held]]:
    """(key, value) pairs under each prefix of the key: [(rest of the key, value)]."""
    found: dict[str, list[Held]] = defaultdict(list)
    for key, value in pairs:
        for prefix in _prefixes(key):
            found[prefix].append((key[len(prefix) + 1 :], value))
    return dict(found)
