"""How many candidates a space has, exactly, without visiting each.

A step's subtree is counted once for all graphs on which the steps in it would read the same
things: what mutators look at is noted while they run (`retiarii.ir.reads`), so that twenty
independent choices among four cost 80 replays of one step, not 4^20 of all.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field

from retiarii.errors import InfeasibleError, SpaceError
from retiarii.ir.graph import Graph
from retiarii.ir.reads import Facet, NoReads, Reads, facet_value
from retiarii.mutators.choice import Chooser, Decision, Description, Raw, Recorder
from retiarii.mutators.steps import Plan, Progress
from retiarii.mutators.walk import walk

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
        graph, facets = ask.graph, Facets()
        outline = graph.copy()
        outline.reads = Reads(graph, outline, frozenset())
        following = self.plan.next(outline, ask.progress)
        facets.update(outline.reads.facets)
        if following is None:
            return self._keep(ask, _Known(facets, {}, 1))
        step, rest = following
        path: list[_Answer] = []

        def one_way(chooser: Chooser) -> _Ask:
            path.clear()
            copy = graph.copy()
            copy.reads = Reads(graph, copy, frozenset({step.node}))
            recorder = _PathRecorder(chooser, ask.made, path)
            try:
                after = self.plan.perform(copy, step, rest, recorder)
            except SpaceError as error:
                if all(answer.possible for answer in path):
                    raise
                raise InfeasibleError(error.cause, where=error.where, fix=error.fix) from error
            finally:
                facets.update(copy.reads.facets)
            copy.reads = NoReads()
            return _Ask(copy, after, {**ask.made, **{d.label: d for d in recorder.decisions}})

        tree = _Tree()
        for way in walk(one_way):
            leaf = _Leaf(0)
            if isinstance(way, _Ask):
                answers = tuple(path)
                known = yield way
                assert known is not None
                _carry(graph, known, facets)
                asked = {answer.label for answer in answers}
                labels = {lb: raw for lb, raw in known.labels.items() if lb not in asked}
                tree.add(answers, _Leaf(known.count, labels))
            else:
                tree.add(tuple(path), leaf)
        total = tree.fold()
        return self._keep(ask, _Known(facets, total.labels, total.count))

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


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer on the way through a step.

    Attributes:
        earlier: the raw answer that an earlier step got for the same label; ``None``: it is new.
    """

    label: str
    raw: Raw
    earlier: Raw | None

    @property
    def possible(self) -> bool:
        return self.earlier is None or self.raw == self.earlier


class _PathRecorder(Recorder):
    """Notes the answers on the way; asks again what earlier steps decided.

    All values of an earlier decision are tried, to see whether the count depends on it: mostly it
    does not, and then what follows is counted once for all of them.
    """

    def __init__(self, chooser: Chooser, made: Decisions, path: list[_Answer]) -> None:
        super().__init__(chooser)
        self._before = made
        self._path = path

    def _answer(self, label: str, description: Description) -> Raw:
        earlier = self._before.get(label)
        if earlier is not None and earlier.domain != description.domain:
            raise SpaceError(
                f"label {label!r} is asked with two different lists of options: "
                f"{earlier.domain} and {description.domain}",
                where=f"decision {label!r}",
                fix="give each list its own label, or ask with equal options to share one",
            )
        raw = super()._answer(label, description)
        self._path.append(_Answer(label, raw, None if earlier is None else earlier.raw))
        return raw


@dataclass(frozen=True, slots=True)
class _Leaf:
    """A count, and the earlier decisions that it holds for."""

    count: int
    labels: Mapping[str, Raw | None] = field(default_factory=dict)


@dataclass(slots=True)
class _Tree:
    """The ways through one step, by their answers."""

    question: _Answer | None = None
    branches: dict[Raw, _Tree] = field(default_factory=dict)
    leaf: _Leaf | None = None

    def add(self, answers: tuple[_Answer, ...], leaf: _Leaf) -> None:
        if not answers:
            self.leaf = leaf
            return
        self.question = answers[0]
        self.branches.setdefault(answers[0].raw, _Tree()).add(answers[1:], leaf)

    def fold(self) -> _Leaf:
        """The count over all answers to new questions, and what earlier answers it depends on."""
        if self.question is None:
            assert self.leaf is not None
            return self.leaf
        parts = {raw: branch.fold() for raw, branch in self.branches.items()}
        earlier = self.question.earlier
        labels: dict[str, Raw | None] = {}
        if earlier is not None and len({part.count for part in parts.values()}) > 1:
            return _Leaf(
                parts[earlier].count, {**parts[earlier].labels, self.question.label: earlier}
            )
        for part in parts.values():
            labels.update(part.labels)
        counts = [part.count for part in parts.values()]
        return _Leaf(counts[0] if earlier is not None else sum(counts), labels)


def count_ways(plan: Plan, graph: Graph) -> int:
    """The number of feasible decision sequences that lead from ``graph`` to a candidate.

    Raises:
        SpaceError: a continuous choice, or a space that is not well formed.
    """
    return _Counter(plan).count(_Ask(graph, plan.begin(graph), {}))
