"""Telling apart what looks alike: colour refinement over a graph's terms.

Two layers with parameters of their own and equal inputs ("twins") have one Merkle digest, yet
``f(y, y) + g(z)`` is not ``f(y, z) + g(y)``. Here each twin gets a number that depends on how it
is used and not on its name: Weisfeiler-Lehman refinement, and where that leaves twins that are
alike in every use, picking one of them and refining again.

Picking is safe in both directions that matter. The numbers make all terms different, so the
digest made with them says the whole graph: two graphs that differ never share it. And twins that
refinement cannot tell apart are interchangeable in all but contrived graphs (several regular
patterns over one set of twins), so that renaming does not change it either.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from hashlib import blake2b

Colour = bytes


def number_twins(
    colours: Sequence[Colour],
    children: Sequence[tuple[int, ...]],
    unordered: Sequence[bool],
) -> dict[int, int]:
    """A number for each term that shares its colour with others.

    Args:
        colours: each term's digest from the inputs up.
        children: each term's inputs, as positions in these sequences.
        unordered: whether the order of the term's inputs says nothing.

    Returns:
        term -> its number among those of its colour.
    """
    groups: dict[Colour, list[int]] = defaultdict(list)
    for term, colour in enumerate(colours):
        groups[colour].append(term)
    alike = [group for group in groups.values() if len(group) > 1]
    partition = _Partition(colours, alike, children, unordered)
    partition.make_discrete()
    return {
        term: number
        for group in alike
        for number, term in enumerate(sorted(group, key=partition.colours.__getitem__))
    }


class _Partition:
    """The terms by colour. Only cells of several terms are looked at again."""

    def __init__(
        self,
        colours: Sequence[Colour],
        alike: list[list[int]],
        children: Sequence[tuple[int, ...]],
        unordered: Sequence[bool],
    ) -> None:
        self.colours = list(colours)
        self._open = {colours[group[0]]: group for group in alike}
        self._near = _neighbours({t for group in alike for t in group}, children, unordered)

    def make_discrete(self) -> None:
        """Refines, and picks where refining stops, until no two terms share a colour."""
        self._refine(set(self._open))
        while self._open:
            colour = min(self._open, key=lambda c: (len(self._open[c]), c))
            first, *rest = self._open.pop(colour)
            self.colours[first] = _digest(colour + b"picked")
            if len(rest) > 1:
                self._open[colour] = rest
            self._refine(self._touched([first]))

    def _refine(self, stale: set[Colour]) -> None:
        while stale:
            # Signatures of one round all see the colours of the round before, so that the
            # outcome does not depend on the order in which cells are visited.
            rounds = [(colour, self._by_signature(colour)) for colour in stale]
            moved: list[int] = []
            for colour, parts in rounds:
                if len(parts) == 1:
                    continue
                del self._open[colour]
                for signature, terms in parts.items():
                    new = _digest(colour + signature)
                    for term in terms:
                        self.colours[term] = new
                    moved += terms
                    if len(terms) > 1:
                        self._open[new] = terms
            stale = self._touched(moved)

    def _by_signature(self, colour: Colour) -> dict[bytes, list[int]]:
        parts: dict[bytes, list[int]] = defaultdict(list)
        colours = self.colours
        for term in self._open[colour]:
            seen = [edge + colours[other] for edge, other in self._near[term]]
            seen.sort()
            parts[b"".join(seen)].append(term)
        return parts

    def _touched(self, moved: list[int]) -> set[Colour]:
        """The open cells that hold a neighbour of what moved."""
        colours, opened = self.colours, self._open
        return {colours[o] for t in moved for _, o in self._near[t] if colours[o] in opened}


def _neighbours(
    twins: set[int], children: Sequence[tuple[int, ...]], unordered: Sequence[bool]
) -> dict[int, list[tuple[bytes, int]]]:
    """For each twin: what it reads and what reads it, each with the kind of edge."""
    near: dict[int, list[tuple[bytes, int]]] = {term: [] for term in twins}
    for term, reads in enumerate(children):
        for position, child in enumerate(reads):
            edge = 0 if unordered[term] else position + 1
            if child in twins:
                near[child].append((b"u" + edge.to_bytes(3, "big"), term))
            if term in twins:
                near[term].append((b"r" + edge.to_bytes(3, "big"), child))
    return near


def _digest(data: bytes) -> Colour:
    return blake2b(data, digest_size=16).digest()
