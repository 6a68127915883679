"""A strategy whose proposals a zero-cost proxy looks through before they are trained."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from retiarii.objectives.measures import Measures
from retiarii.objectives.names import Sifting
from retiarii.strategies.base import Strategy

if TYPE_CHECKING:
    from retiarii.search_space import Point, SearchSpace


class _Asked(NamedTuple):
    inside: int | None  # its number for the strategy; ``None`` once that knows how it ended
    point: Point


class _Shelved(NamedTuple):
    """A point that was passed over; the best come first, of equals the earlier."""

    order: tuple[float, int]
    point: Point


class Sieve(Strategy):
    """Asks a strategy for several times as many points, and proposes the best by a proxy.

    The others are told as trials that failed: the strategy takes them for bad. When it has nothing
    new left, they are proposed after all, the best first, and it is told nothing more.

    Args:
        inner: proposes.
        every: how all cohorts are sifted; ``None``: they are not.
        first: how the first one is; ``None``: as all others.
        cohort: how many points are proposed together.
        measures: computes proxies, of all points of a cohort in one merged pass.
    """

    def __init__(
        self,
        inner: Strategy,
        every: Sifting | None,
        first: Sifting | None,
        cohort: int,
        measures: Measures,
    ) -> None:
        self._inner = inner
        self._every, self._first = every, first
        self._cohort = cohort
        self._measures = measures

    def begin(self, space: SearchSpace, seed: int) -> None:
        self._inner.objectives = self.objectives
        self._inner.begin(space, seed)
        self._next = 0
        self._warm = self._first is not None
        self._ready: deque[_Asked] = deque()
        self._inside: dict[int, int] = {}
        self._shelf: list[_Shelved] = []

    # What a search reads off its strategy is that of the one inside.

    @property
    def name(self) -> str:  # type: ignore[override]
        return self._inner.name

    @property
    def several(self) -> bool:  # type: ignore[override]
        return self._inner.several

    @property
    def listens(self) -> bool:
        return self._inner.listens

    @property
    def infeasible(self) -> int:
        """How many proposals were infeasible so far."""
        return int(getattr(self._inner, "infeasible", 0))

    def describe(self) -> dict[str, Any]:
        sifted = {"prefilter": self._every, "warm_start": self._first}
        return self._inner.describe() | {k: str(v) for k, v in sifted.items() if v is not None}

    def ask(self, number: int) -> Point | None:
        if not self._ready:
            self._gather()
        if not self._ready:
            return None
        asked = self._ready.popleft()
        if asked.inside is not None:
            self._inside[number] = asked.inside
        return asked.point

    def adopt(self, number: int, point: Point) -> bool:
        inside = self._number()
        told = self._inner.adopt(inside, point)
        if told:
            self._inside[number] = inside
        return told

    def tell(self, number: int, score: float | None) -> None:
        if number in self._inside:
            self._inner.tell(self._inside[number], score)

    def tell_all(self, number: int, values: tuple[float, ...] | None) -> None:
        if number in self._inside:
            self._inner.tell_all(self._inside[number], values)

    def rescore(self, scores: Mapping[int, float]) -> None:
        inside = self._inside
        self._inner.rescore({inside[n]: score for n, score in scores.items() if n in inside})

    def report(self, number: int, step: int, score: float) -> bool:
        return number in self._inside and self._inner.report(self._inside[number], step, score)

    # -- inside

    def _number(self) -> int:
        self._next += 1
        return self._next - 1

    def _gather(self) -> None:
        """Fills ``ready``: with a cohort, or one point where nothing is sifted."""
        rule = self._first if self._warm else self._every
        self._warm = False
        asked: list[_Asked] = []
        for _ in range(1 if rule is None else rule.times * self._cohort):
            inside = self._number()
            point = self._inner.ask(inside)
            if point is None:
                break
            asked.append(_Asked(inside, point))
        if rule is not None and asked:
            asked = self._sifted(asked, rule.proxy)
        if not asked and self._shelf:
            asked = [_Asked(None, self._shelf.pop(0).point)]
        self._ready.extend(asked)

    def _sifted(self, asked: list[_Asked], proxy: str) -> list[_Asked]:
        """The best of them, in the order asked; the others are passed over."""
        candidates = [a.point.candidate for a in asked if a.point.candidate is not None]
        values = self._measures.values(proxy, candidates)
        bad = float("-inf")
        worth = [bad if isinstance(value, str) else value for value in values]
        ranked = sorted(range(len(asked)), key=lambda i: (-worth[i], i))
        for index in ranked[self._cohort :]:
            inside, point = asked[index]
            assert inside is not None
            if self.several and self.objectives > 1:
                self._inner.tell_all(inside, None)
            else:
                self._inner.tell(inside, None)
            insort(self._shelf, _Shelved((-worth[index], inside), point), key=lambda s: s.order)
        return [asked[index] for index in sorted(ranked[: self._cohort])]
