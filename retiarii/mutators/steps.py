"""From a base graph to a candidate's, one step at a time: placeholders first, then mutators.

A step asks its choices and edits the graph. What remains to be done after some steps is a
`Progress`; both a replay and the counting of a space go from one `Progress` to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from retiarii.errors import GraphError, InfeasibleError, RetiariiError, ShapeError, SpaceError
from retiarii.ir.edit.editing import replace_results
from retiarii.ir.graph import Graph, Pattern
from retiarii.ir.node import Node
from retiarii.mutators.choice import Decision, Recorder, show
from retiarii.mutators.layers import Placeholder
from retiarii.mutators.mutator import Application, Mutator, applying
from retiarii.mutators.resolve import unresolved
from retiarii.user_code import defined_at, users_line


@dataclass(frozen=True, slots=True)
class Applied:
    """A mutator, what it is applied to, and the name that its labels begin with."""

    mutator: Mutator
    target: Pattern
    name: str
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Resolve:
    """Step: resolve the placeholder at a node."""

    node: str


@dataclass(frozen=True, slots=True)
class Mutate:
    """Step: apply mutator number ``index`` at a node."""

    index: int
    node: str


Step = Resolve | Mutate


@dataclass(frozen=True, slots=True)
class Progress:
    """What is left to do: steps in order, then the mutators from ``next_mutator`` on."""

    todo: tuple[Step, ...]
    next_mutator: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is done to a base graph.

    Attributes:
        placeholders: module path -> placeholder.
        applied: mutators in the order applied.
    """

    placeholders: Mapping[str, Placeholder]
    applied: tuple[Applied, ...]

    def begin(self, graph: Graph) -> Progress:
        if not self.placeholders:
            return Progress(())
        return self.resume(unresolved(graph, list(graph.order), self.placeholders))

    def resume(self, todo: Iterable[str]) -> Progress:
        """What is left to do where these placeholders' nodes are still to be resolved."""
        return Progress(tuple(map(Resolve, todo)))

    def next(self, graph: Graph, progress: Progress) -> tuple[Step, Progress] | None:
        """The next step and what is left after it; ``None`` when nothing is left."""
        todo, index = progress.todo, progress.next_mutator
        while True:
            while todo:
                step, todo = todo[0], todo[1:]
                # An earlier step may have taken the node away.
                graph.reads.note("op", step.node)
                if step.node in graph:
                    return step, Progress(todo, index)
            if index == len(self.applied):
                return None
            pattern = self.applied[index].target
            graph.reads.note("found", pattern)
            todo = tuple(Mutate(index, name) for name in graph.names_matching(pattern))
            index += 1

    def perform(self, graph: Graph, step: Step, rest: Progress, recorder: Recorder) -> Progress:
        """Asks the step's choices and edits the graph; what is left then.

        Raises:
            InfeasibleError: the decisions lead to shapes that cannot fit, or the mutator raised.
            SpaceError: empty options, or a label with two lists of options.
        """
        if isinstance(step, Resolve):
            return self._resolve(graph, step, rest, recorder)
        self._mutate(graph, step, recorder)
        return rest

    def _resolve(self, graph: Graph, step: Resolve, rest: Progress, recorder: Recorder) -> Progress:
        path = graph.record(step.node).path
        assert path is not None
        placeholder = self.placeholders[path]
        description = placeholder.description()
        value = recorder.ask(description.label or path, description)
        try:
            with graph.edits():
                node = Node(graph, step.node)
                values = placeholder.resolve(graph, node, value, path)
                replace_results(graph, step.node, tuple(v.ref for v in values))
                new = graph.transaction.new
        except (ShapeError, GraphError) as error:
            raise _infeasible(error, f"{type(placeholder).__name__} {path!r}", recorder) from error
        nested = unresolved(graph, [n for n in new if n in graph], self.placeholders)
        return Progress((*(Resolve(n) for n in nested), *rest.todo), rest.next_mutator)

    def _mutate(self, graph: Graph, step: Mutate, recorder: Recorder) -> None:
        applied = self.applied[step.index]
        scope = applied.name if applied.shared else f"{applied.name}/{step.node}"
        who = f"mutator {applied.name} at {step.node!r}"
        try:
            with graph.edits(), applying(Application(recorder, scope)), torch.device("meta"):
                applied.mutator.mutate(graph, Node(graph, step.node))
        except InfeasibleError as error:
            if error.where is not None:
                raise
            raise _infeasible(error, who, recorder, users_line(error)) from error
        except GraphError as error:
            raise _infeasible(error, who, recorder) from error
        except RetiariiError:
            raise
        except (Exception, SystemExit) as error:
            place = users_line(error) or defined_at(type(applied.mutator))
            raise InfeasibleError(
                f"{who} raised {type(error).__name__}: {error}",
                where=f"{place}, decisions {_shown(recorder.decisions)}",
                fix="mend mutate(), or raise rt.InfeasibleError where a choice leads nowhere",
            ) from error


def _infeasible(
    error: RetiariiError, who: str, recorder: Recorder, place: str | None = None
) -> InfeasibleError:
    return InfeasibleError(
        f"{who}: {error.cause}",
        where=f"{place or error.where or 'the edit'}; decisions {_shown(recorder.decisions)}",
        fix=error.fix or "give the mutator other options, or let the search skip these",
    )


def _shown(decisions: tuple[Decision, ...]) -> str:
    return "{" + ", ".join(f"{d.label}: {d.shown}" for d in decisions) + "}"


def check_targets(graph: Graph, applied: Applied) -> None:
    """Raises SpaceError when a target matches nothing that the base graph has."""
    target = applied.target
    if graph.names_matching(target):
        return
    shown = repr(target) if isinstance(target, str) else show(target)
    raise SpaceError(
        f"no node matches the target {shown} of mutator {applied.name}",
        where=defined_at(target) if callable(target) else f"apply_mutator({shown}, ...)",
        fix=graph.suggest(target)
        if isinstance(target, str)
        else "look at the names and ops: retiarii inspect, or print(space.graph)",
    )
