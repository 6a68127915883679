"""A topological order that stays one under edits, at a cost that does not grow with the graph.

A linked list whose entries carry integer keys, so that "is a before b" is one comparison. When an
edge would point backwards, only the nodes between its ends move (Pearce and Kelly, "A dynamic
topological sort algorithm for directed acyclic graphs", JEA 2006).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

# Python's integers are unbounded: this many bits let ~1,000 entries go between two neighbours
# before the keys are dealt anew.
_GAP = 1 << 1024

Successors = Callable[[str], Iterable[str]]


class Order:
    """Names in order; each insertion and removal is O(1)."""

    __slots__ = ("_first", "_flat", "_key", "_last", "_next", "_prev")

    def __init__(self, names: Iterable[str] = ()) -> None:
        # Many graphs are made to be read once: links are laid when they are needed.
        self._flat: tuple[str, ...] | None = tuple(names)
        self._next: dict[str, str | None] = {}
        self._prev: dict[str, str | None] = {}
        self._key: dict[str, int] = {}
        self._first: str | None = None
        self._last: str | None = None

    def __iter__(self) -> Iterator[str]:
        return self._walk() if self._flat is None else iter(self._flat)

    def _walk(self) -> Iterator[str]:
        name = self._first
        while name is not None:
            yield name
            name = self._next[name]

    def _link_all(self) -> None:
        """Lays the links, before the first question or change."""
        names, self._flat = self._flat or (), None
        before: str | None = None
        for name in names:
            self.insert_after(name, before)
            before = name

    def copy(self) -> Order:
        if self._flat is not None:
            return Order(self._flat)
        twin = Order()
        twin._flat = None
        twin._next, twin._prev = self._next.copy(), self._prev.copy()
        twin._key = self._key.copy()
        twin._first, twin._last = self._first, self._last
        return twin

    def key(self, name: str) -> int:
        """A number that grows along the order."""
        if self._flat is not None:
            self._link_all()
        return self._key[name]

    @property
    def last(self) -> str | None:
        if self._flat is not None:
            self._link_all()
        return self._last

    def previous(self, name: str) -> str | None:
        if self._flat is not None:
            self._link_all()
        return self._prev[name]

    def insert_after(self, name: str, anchor: str | None) -> None:
        """Puts ``name`` directly after ``anchor`` (first, where that is None)."""
        if self._flat is not None:
            self._link_all()
        after = self._first if anchor is None else self._next[anchor]
        key = self._key_between(anchor, after)
        if key is None:
            self._deal_keys()
            key = self._key_between(anchor, after)
            assert key is not None
        self._key[name] = key
        self._prev[name], self._next[name] = anchor, after
        self._link(anchor, name)
        self._link_back(after, name)

    def remove(self, name: str) -> None:
        if self._flat is not None:
            self._link_all()
        before, after = self._prev.pop(name), self._next.pop(name)
        del self._key[name]
        self._link(before, after)
        self._link_back(after, before)

    def put_before(
        self, first: str, then: str, successors: Successors
    ) -> list[tuple[str, str | None]] | None:
        """Makes ``first`` come before ``then``, moving ``then`` and what follows from it.

        Returns:
            What moved, in order, each with what it stood behind (see `put_back`); ``None`` when
            ``first`` follows from ``then``, so that no order exists. Nothing has moved then.
        """
        bound = self.key(first)
        if self._key[then] < bound:
            moving = {then}
            stack = [then]
            while stack:
                for name in successors(stack.pop()):
                    if name == first:
                        return None
                    if name not in moving and self._key[name] < bound:
                        moving.add(name)
                        stack.append(name)
            moved = [(n, self._prev[n]) for n in sorted(moving, key=self._key.__getitem__)]
            anchor = first
            for name, _ in moved:
                self.remove(name)
                self.insert_after(name, anchor)
                anchor = name
            return moved
        return None if first == then else []

    def put_back(self, moved: list[tuple[str, str | None]]) -> None:
        """Undoes a `put_before`."""
        for name, _ in moved:
            self.remove(name)
        for name, anchor in moved:
            self.insert_after(name, anchor)

    def _key_between(self, before: str | None, after: str | None) -> int | None:
        if before is None and after is None:
            return 0
        if after is None:
            assert before is not None
            return self._key[before] + _GAP
        if before is None:
            return self._key[after] - _GAP
        low, high = self._key[before], self._key[after]
        middle = (low + high) >> 1
        return middle if low < middle else None

    def _deal_keys(self) -> None:
        for position, name in enumerate(self):
            self._key[name] = position * _GAP

    def _link(self, before: str | None, after: str | None) -> None:
        if before is None:
            self._first = after
        else:
            self._next[before] = after

    def _link_back(self, after: str | None, before: str | None) -> None:
        if after is None:
            self._last = before
        else:
            self._prev[after] = before
