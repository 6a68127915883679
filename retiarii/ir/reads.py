"""What a mutation looked at: so that counting a space knows which choices depend on which.

A mutator that only passes handles on (`target.inputs`) learns nothing from them; one that reads a
shape does. Each read is noted as a facet of the graph with its value, and a later graph on which
all noted facets have equal values would lead the same mutation to ask the same choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph

Facet = tuple[Any, ...]


def _record_field(name: str) -> Callable[[Graph, str], Any]:
    def read(graph: Graph, node: str) -> Any:
        return getattr(graph.record(node), name) if node in graph else None

    return read


def _arity(graph: Graph, node: str) -> int:
    return len(graph.record(node).inputs) if node in graph else -1


def _users(graph: Graph, node: str) -> tuple[str, ...] | None:
    return tuple(graph.users_of(node)) if node in graph else None


def _used_beyond(graph: Graph, node: str, users: frozenset[str]) -> bool | None:
    return graph.used_beyond(node, users) if node in graph else None


def _whole(graph: Graph) -> str:
    return str(graph)


def _found(graph: Graph, pattern: Any) -> tuple[str, ...]:
    if hasattr(pattern, "observed"):  # a pattern of a subgraph
        seen: tuple[str, ...] = pattern.observed(graph)
        return seen
    return tuple(graph.names_matching(pattern))


_READERS: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "op": _record_field("op"),
        "attrs": _record_field("attrs"),
        "types": _record_field("types"),
        "arity": _arity,
        "users": _users,
        "used_beyond": _used_beyond,
        "whole": _whole,
        "found": _found,
    }
)


def facet_value(graph: Graph, facet: Facet) -> Any:
    """What ``graph`` shows at ``facet``, settled."""
    graph.settle()
    kind, *arguments = facet
    return _READERS[kind](graph, *arguments)


class NoReads:
    """Notes nothing: what every graph has, until somebody counts."""

    __slots__ = ()

    @property
    def facets(self) -> Mapping[Facet, Any]:
        return MappingProxyType({})

    def note(self, *facet: Any) -> None:
        pass

    def note_name(self, name: str) -> None:
        pass

    def note_used(self, name: str) -> None:
        pass


class Reads(NoReads):
    """The facets read so far, each with the value it had *before* the mutation's own edits.

    Args:
        before: the graph as the mutation found it.
        now: the graph that it edits; reads of nodes made since are not noted, since they follow
            from the mutation itself.
        known: names that say nothing new (the target's own).
    """

    __slots__ = ("_before", "_known", "_now", "facets")

    def __init__(self, before: Graph, now: Graph, known: frozenset[str]) -> None:
        self._before = before
        self._now = now
        self._known = known
        self.facets: dict[Facet, Any] = {}

    def note(self, *facet: Any) -> None:
        if facet in self.facets or (facet[0] != "found" and self._made_here(facet[1:])):
            return
        self.facets[facet] = facet_value(self._before, facet)

    def note_name(self, name: str) -> None:
        if name not in self._known:
            self.note("whole")

    def note_used(self, name: str) -> None:
        """Notes whether anything uses the node, now that some of its users are gone.

        Which users it has does not matter, so that choices behind different users stay independent.
        """
        if name in self._before:
            users = self._before.users_of(name)
            gone = frozenset(users) - frozenset(self._now.users_of(name))
            self.note("used_beyond", name, gone)

    def _made_here(self, about: tuple[Any, ...]) -> bool:
        return bool(about) and about[0] in self._now and about[0] not in self._before
