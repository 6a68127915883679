"""How many candidates a space has, exactly, without visiting each.

A step's subtree is counted once for all graphs on which the steps in it would read the same
things: what mutators look at is noted while they run (`retiarii.ir.reads`), so that twenty
independent choices among four cost 80 replays of one step, not 4^20 of all.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from retiarii.errors import InfeasibleError, SpaceError
from retiarii.ir.graph import Graph
from retiarii.ir.reads import Facet, NoReads, Reads, facet_value
from retiarii.mutators.choice import Chooser, Decision, Description, Raw, Recorder
from retiarii.mutators.steps import Plan, Progress, Step
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
        graph = ask.graph
        outline = graph.copy()
        outline.reads = Reads(graph, outline, frozenset())
        following = self.plan.next(outline, ask.progress)
        if following is None:
            return self._keep(ask, _Known(outline.reads.facets, {}, 1))
        tree, supposed = _Tree(), []
        for way in self._ways(ask, *following):
            if way.after is None:
                tree.add(way.answers, _Leaf(0, facets=way.facets))
            elif all(answer.possible for answer in way.answers):
                known = yield way.after
                assert known is not None
                tree.add(way.answers, way.leaf(graph, known))
            else:
                supposed.append((way, way.after))
        for way, after in supposed:
            known = self._recall(after)
            tree.add(way.answers, None if known is None else way.leaf(graph, known))
        total = tree.fold()
        facets = {**outline.reads.facets, **total.facets}
        return self._keep(ask, _Known(facets, total.labels, total.count))

    def _ways(self, ask: _Ask, step: Step, rest: Progress) -> Iterator[_Way]:
        """All ways through one step; of a label that earlier steps asked, all its answers."""
        graph = ask.graph
        path: list[_Answer] = []
        facets: Facets = {}

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
                facets.clear()
                facets.update(copy.reads.facets)
            copy.reads = NoReads()
            return _Ask(copy, after, {**ask.made, **{d.label: d for d in recorder.decisions}})

        for made in walk(one_way):
            yield _Way(tuple(path), dict(facets), made if isinstance(made, _Ask) else None)

    def _keep(self, ask: _Ask, known: _Known) -> _Known:
        self.known.setdefault(ask.progress, []).append(known)
        return known


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

    All values of an earlier decision are tried, to see whether the count depends on it: mostly
    what follows is known to have the same count after each of them. Where it is not known, the
    count is taken to depend on it: to count what can never be would be without end.
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
    """A count, the earlier decisions that it holds for, and what it depends on in the graph."""

    count: int
    labels: Mapping[str, Raw | None] = field(default_factory=dict)
    facets: Mapping[Facet, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Way:
    """One way through a step.

    Attributes:
        answers: on the way.
        facets: what the step read in the graph.
        after: what remains then; ``None`` where the answers are infeasible.
    """

    answers: tuple[_Answer, ...]
    facets: Facets
    after: _Ask | None

    def leaf(self, graph: Graph, known: _Known) -> _Leaf:
        """The count of what remains, as a count from before the step at ``graph``."""
        _carry(graph, known, self.facets)
        asked = {answer.label for answer in self.answers}
        labels = {label: raw for label, raw in known.labels.items() if label not in asked}
        return _Leaf(known.count, labels, self.facets)


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


@dataclass(slots=True)
class _Tree:
    """The ways through one step, by their answers."""

    question: _Answer | None = None
    branches: dict[Raw, _Tree] = field(default_factory=dict)
    leaf: _Leaf | None = None

    def add(self, answers: tuple[_Answer, ...], leaf: _Leaf | None) -> None:
        """Adds a way; one without a leaf has a count that is not known."""
        if not answers:
            self.leaf = leaf
            return
        self.question = answers[0]
        self.branches.setdefault(answers[0].raw, _Tree()).add(answers[1:], leaf)

    def fold(self) -> _Leaf:
        """The count over all answers to new questions, and all that it depends on."""
        total = self._fold()
        assert total is not None  # what earlier steps really answered is always known
        return total

    def _fold(self) -> _Leaf | None:
        if self.question is None:
            return self.leaf
        parts = {raw: branch._fold() for raw, branch in self.branches.items()}
        known = [part for part in parts.values() if part is not None]
        label, earlier = self.question.label, self.question.earlier
        if earlier is None:
            return _joined(known, sum(k.count for k in known)) if len(known) == len(parts) else None
        if len(known) == len(parts) and len({part.count for part in known}) == 1:
            return _joined(known, known[0].count)
        part = parts[earlier]
        return part and _Leaf(part.count, {**part.labels, label: earlier}, part.facets)


def _joined(parts: Sequence[_Leaf], count: int) -> _Leaf:
    labels: dict[str, Raw | None] = {}
    facets: Facets = {}
    for part in parts:
        labels.update(part.labels)
        facets.update(part.facets)
    return _Leaf(count, labels, facets)


def count_ways(plan: Plan, graph: Graph) -> int:
    """The number of feasible decision sequences that lead from ``graph`` to a candidate.

    Raises:
        SpaceError: a continuous choice, or a space that is not well formed.
    """
    return _Counter(plan).count(_Ask(graph, plan.begin(graph), {}))
