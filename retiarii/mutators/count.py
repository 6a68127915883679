"""How many candidates a space has, exactly, without visiting each.

A step's subtree is counted once for all graphs on which the steps in it would read the same
things: what mutators look at is noted while they run (`retiarii.ir.reads`), so that twenty
independent choices among four cost 80 replays of one step, not 4^20 of all.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field

from retiarii.errors import InfeasibleError
from retiarii.ir.graph import Graph
from retiarii.ir.reads import Facet, NoReads, Reads, facet_value
from retiarii.mutators.choice import Chooser, Decision, Description, Raw, Recorder
from retiarii.mutators.steps import Plan, Progress
from retiarii.mutators.walk import walk

Labels = dict[str, "Raw | None"]
Facets = dict[Facet, object]
Decisions = Mapping[str, Decision]


@dataclass(frozen=True, slots=True)
class _Ask:
    """What remains at a graph, after some decisions."""

    graph: Graph
    progress: Progress
    made: Decisions


@dataclass(frozen=True, slots=True)
class _Known:
    """The count of what remains, and all that it depends on."""

    facets: Mapping[Facet, object]
    labels: Mapping[str, Raw | None]
    count: int

    def holds(self, ask: _Ask) -> bool:
        for label, raw in self.labels.items():
            decision = ask.made.get(label)
            if (None if decision is None else decision.raw) != raw:
                return False
        return all(facet_value(ask.graph, f) == value for f, value in self.facets.items())


@dataclass(slots=True)
class _Counter:
    plan: Plan
    known: dict[Progress, list[_Known]] = field(default_factory=dict)

    def count(self, first: _Ask) -> int:
        # Generators on a list of our own: a thousand steps are deeper than Python's stack.
        stack = [self._explore(first)]
        answer: _Known | None = None
        while stack:
            try:
                ask = stack[-1].send(answer)
            except StopIteration as done:
                answer = done.value
                stack.pop()
                continue
            answer = self._recall(ask)
            if answer is None:
                stack.append(self._explore(ask))
        assert answer is not None
        return answer.count

    def _recall(self, ask: _Ask) -> _Known | None:
        return next((k for k in self.known.get(ask.progress, ()) if k.holds(ask)), None)

    def _explore(self, ask: _Ask) -> Generator[_Ask, _Known | None, _Known]:
        graph, facets, labels, count = ask.graph, Facets(), Labels(), 0
        outline = graph.copy()
        outline.reads = Reads(graph, outline, frozenset())
        following = self.plan.next(outline, ask.progress)
        facets.update(outline.reads.facets)
        if following is None:
            return self._keep(ask, _Known(facets, labels, 1))
        step, rest = following

        def one_way(chooser: Chooser) -> tuple[_Ask, Decisions]:
            copy = graph.copy()
            copy.reads = Reads(graph, copy, frozenset({step.node}))
            recorder = _Continued(chooser, ask.made, labels)
            try:
                after = self.plan.perform(copy, step, rest, recorder)
            finally:
                facets.update(copy.reads.facets)
            decided = {d.label: d for d in recorder.decisions}
            return _Ask(copy, after, {**ask.made, **decided}), decided

        for way in walk(one_way):
            if isinstance(way, InfeasibleError):
                continue
            further, decided = way
            further.graph.reads = NoReads()
            known = yield further
            assert known is not None
            count += known.count
            _carry(graph, known, facets)
            labels.update({lb: raw for lb, raw in known.labels.items() if lb not in decided})
        return self._keep(ask, _Known(facets, labels, count))

    def _keep(self, ask: _Ask, known: _Known) -> _Known:
        self.known.setdefault(ask.progress, []).append(known)
        return known


def _carry(graph: Graph, known: _Known, facets: Facets) -> None:
    """What later steps depend on, the step at ``graph`` depends on too.

    What it shows after the step follows from what it showed before and from the step's own reads.
    """
    for facet, value in known.facets.items():
        kind, *about = facet
        if kind == "whole" or (kind == "found" and facet_value(graph, facet) != value):
            facet = ("whole",)
        elif kind != "found" and about[0] not in graph and value is not None:
            continue  # made by the step
        if facet not in facets:
            facets[facet] = facet_value(graph, facet)


class _Continued(Recorder):
    """A recorder that remembers the decisions of earlier steps, and notes which were asked."""

    def __init__(self, chooser: Chooser, made: Decisions, labels: Labels) -> None:
        super().__init__(chooser)
        self._before = made
        self._labels = labels

    def _answer(self, label: str, description: Description) -> Raw:
        earlier = self._before.get(label)
        self._labels[label] = None if earlier is None else earlier.raw
        if earlier is not None and earlier.domain == description.domain:
            return earlier.raw
        return super()._answer(label, description)


def count_ways(plan: Plan, graph: Graph) -> int:
    """The number of feasible decision sequences that lead from ``graph`` to a candidate.

    Raises:
        SpaceError: a continuous choice, or a space that is not well formed.
    """
    return _Counter(plan).count(_Ask(graph, plan.begin(graph), {}))
