"""`ModelSpace`: a base model and the mutators applied to it; `Candidate`: one model of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from retiarii.constraints import Constraint, Refusals
from retiarii.errors import InfeasibleError, ParseError, RetiariiError, SpaceError
from retiarii.ir.build import to_module
from retiarii.ir.graph import Graph, Pattern, frozen_pattern
from retiarii.ir.parse import parse
from retiarii.mutators.choice import (
    Categorical,
    Chooser,
    Decision,
    Domain,
    FrozenRecorder,
    Raw,
    Recorder,
    recording,
    show,
)
from retiarii.mutators.count import count_ways
from retiarii.mutators.draw import uniform_chooser
from retiarii.mutators.layers import Placeholder
from retiarii.mutators.mutator import Mutator
from retiarii.mutators.steps import Applied, Plan, check_targets
from retiarii.mutators.walk import walk
from retiarii.seeding import derive

if TYPE_CHECKING:
    from retiarii.ir.cost import Cost

# How many infeasible samples in a row `sample` takes before it gives up.
_PATIENCE = 1000


@dataclass(frozen=True, slots=True)
class Candidate:
    """Decisions, and the concrete graph that follows from them.

    Attributes:
        decisions: label -> the value chosen.
        graph: only what was chosen; nothing is allocated yet.
    """

    decisions: Mapping[str, Any]
    graph: Graph
    _build: Callable[[int], nn.Module] = field(repr=False, compare=False)

    def build(self, seed: int = 0) -> nn.Module:
        """The model, with initial weights that are a function of the decisions and ``seed``."""
        return self._build(seed)

    def canonical_hash(self) -> str:
        """See `Graph.canonical_hash`."""
        return self.graph.canonical_hash()

    def cost(
        self,
        *,
        batch: int | None = None,
        latency: bool = False,
        device: str | torch.device = "cpu",
    ) -> Cost:
        """See `Graph.cost`: parameters, FLOPs and memory; nothing is built for them."""
        return self.graph.cost(batch=batch, latency=latency, device=device)


class ModelSpace:
    """Every model that can follow from a base model and the mutators applied to it.

    Args:
        base: a module; or a callable without arguments that makes one, run once a candidate, in
            which `rt.choice` returns plain values.
        example_inputs: what ``forward`` takes: a tensor, a tuple, or a dict of keyword arguments.
        weights: ``"fresh"`` initialises each candidate anew; ``"inherit"`` keeps the base model's
            weights for all parameters that keep their shape. Parameters that a module holds by
            itself (``nn.Parameter``) have no initialiser that we could run again, and keep the
            base model's values in both.
        init: called with each built model, under its seed, to initialise it in the user's way.

    Raises:
        SpaceError: ``base`` is neither, or makes no module.
        ParseError: the model does not run on the example inputs.
    """

    def __init__(
        self,
        base: nn.Module | Callable[[], nn.Module],
        example_inputs: Any,
        *,
        weights: str = "fresh",
        init: Callable[[nn.Module], Any] | None = None,
    ) -> None:
        if weights not in ("fresh", "inherit"):
            raise SpaceError(
                f"weights={weights!r} is unknown", fix="use weights='fresh' or weights='inherit'"
            )
        if not callable(base):
            raise SpaceError(
                f"the base of a space is a {type(base).__name__}",
                fix="give a torch.nn.Module, or a function or class that makes one",
            )
        self._callable = None if isinstance(base, nn.Module) else base
        self._example = example_inputs
        self._inherit = weights == "inherit"
        if self._inherit and self._callable is not None:
            raise SpaceError(
                "weights='inherit' needs a base model that is given, not one that is made",
                fix="pass the module itself, ModelSpace(model, ...)",
            )
        self._init = init
        self._applied: list[Applied] = []
        self._constraints: list[Constraint] = []
        self._base: Graph | None = None
        self._placeholders: Mapping[str, Placeholder] = MappingProxyType({})
        if isinstance(base, nn.Module):
            self._base, self._placeholders = self._lower(base)

    # --- saying what the space is --------------------------------------------------------------

    def apply_mutator(
        self,
        target: Pattern,
        mutator: Mutator,
        *,
        shared: bool = False,
        name: str | None = None,
    ) -> ModelSpace:
        """Applies a mutator to each node that matches ``target``; mutators run in this order.

        Args:
            target: a node's name, a glob, a predicate on nodes, or a list of these. It is matched
                when the mutator's turn comes, so it may name what an earlier mutator makes.
            mutator: the rule.
            shared: one set of decisions for all targets, instead of one at each.
            name: what its labels begin with; else the class's name.

        Returns:
            The space itself.

        Raises:
            SpaceError: not a mutator, or a target that names nothing, with the nearest names.
        """
        if not isinstance(mutator, Mutator):
            hint = "Mutator()" if isinstance(mutator, type) else "a subclass of rt.Mutator"
            raise SpaceError(
                f"apply_mutator was given {show(mutator)}, which is not a Mutator",
                where=f"apply_mutator({target!r}, ...)",
                fix=f"give an instance: {hint}",
            )
        wanted = name or mutator.name
        taken = {applied.name for applied in self._applied}
        number = 1
        while (unique := wanted if number == 1 else f"{wanted}_{number}") in taken:
            number += 1
        applied = Applied(mutator, frozen_pattern(target), unique, shared)
        if self._base is not None and not self._applied and not self._placeholders:
            check_targets(self._base, applied)
        self._applied.append(applied)
        return self

    def require(self, test: Callable[[Candidate], Any], *, name: str | None = None) -> ModelSpace:
        """Leaves out the candidates that ``test`` says no to, before any weight exists.

        They are infeasible: sampling, enumerating and searching skip them, and `freeze` raises.

        Args:
            test: of a candidate: ``lambda c: c.cost().params < 1e6``. The same candidate must
                get the same answer.
            name: as errors call it; else what ``test`` says.

        Returns:
            The space itself.

        Raises:
            SpaceError: ``test`` cannot be called.
        """
        self._constraints.append(Constraint.of(test, name))
        return self

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """What was required, in order."""
        return tuple(self._constraints)

    @property
    def graph(self) -> Graph:
        """The base model's graph (with the first option everywhere, for a callable)."""
        if self._base is not None:
            return self._base
        return self._lower(self._make(_first))[0]

    # --- its models -----------------------------------------------------------------------------

    def replay(self, chooser: Chooser) -> Candidate:
        """The candidate that follows when ``chooser`` answers.

        Raises:
            InfeasibleError: the decisions lead to no model.
        """
        return self._replay(Recorder(chooser))[0]

    def sample(self, seed: int = 0) -> Candidate:
        """A candidate, each decision drawn uniformly; infeasible draws are drawn again.

        Raises:
            InfeasibleError: none of 1,000 draws was feasible; it names the constraint that most of
                them did not meet.
        """
        refusals = Refusals()
        for attempt in range(_PATIENCE):
            try:
                return self.replay(uniform_chooser(derive(seed, "sample", attempt)))
            except InfeasibleError as error:
                refusals.note(error)
        raise refusals.error()

    def freeze(self, decisions: Mapping[str, Any]) -> Candidate:
        """The candidate of these decisions (label -> value).

        Raises:
            SpaceError: a label is missing, is never asked for, or has a value that is no option.
            InfeasibleError: the decisions lead to no model.
        """
        recorder = FrozenRecorder(decisions)
        candidate, _ = self._replay(recorder)
        recorder.check_all_asked()
        return candidate

    def enumerate(self) -> Iterator[Candidate]:
        """All candidates, each decision sequence once, lazily; infeasible ones are left out.

        Raises:
            SpaceError: a continuous choice.
        """
        return (way for way in walk(self.replay) if isinstance(way, Candidate))

    def count(self) -> int:
        """The number of candidates, exactly; conditional spaces too.

        Choices of mutators and of layers that do not depend on each other are multiplied, not
        visited. Choices in a callable's ``__init__`` are visited, since any Python may follow; and
        where something is required (see `require`), every candidate is visited and asked.

        Raises:
            SpaceError: a continuous choice.
        """
        if self._constraints:
            return sum(1 for _ in self.enumerate())
        if self._base is not None:
            return count_ways(self._plan(self._placeholders), self._base)
        total = 0
        for made in walk(self._make_and_lower):
            if not isinstance(made, InfeasibleError):
                graph, placeholders = made
                total += count_ways(self._plan(placeholders), graph)
        return total

    def describe(self) -> dict[str, Any]:
        """What makes this space this one, as JSON: for telling whether a search is the same."""
        base = self._callable
        return {
            "base": str(self._base) if base is None else _source(base),
            "mutators": {
                applied.name: {
                    "target": show(applied.target),
                    "shared": applied.shared,
                    "source": _source(type(applied.mutator)),
                    "fields": {k: show(v) for k, v in sorted(vars(applied.mutator).items())},
                }
                for applied in self._applied
            },
            "weights": "inherit" if self._inherit else "fresh",
            **self._described_constraints(),
        }

    # --- inside -----------------------------------------------------------------------------------

    def _described_constraints(self) -> dict[str, Any]:
        # Nothing at all where nothing is required: the identity of older searches stays.
        described = [constraint.describe() for constraint in self._constraints]
        return {"constraints": described} if described else {}

    def _plan(self, placeholders: Mapping[str, Placeholder]) -> Plan:
        return Plan(placeholders, tuple(self._applied))

    def _replay(self, recorder: Recorder) -> tuple[Candidate, tuple[Decision, ...]]:
        if self._base is not None:
            graph, placeholders = self._base.copy(), self._placeholders
        else:
            graph, placeholders = self._make_and_lower(recorder)
        plan = self._plan(placeholders)
        progress = plan.begin(graph)
        while (following := plan.next(graph, progress)) is not None:
            progress = plan.perform(graph, *following, recorder)
        decisions = recorder.decisions
        values = MappingProxyType({d.label: d.value for d in decisions})
        made = Candidate(values, graph, lambda seed: self._build(graph, decisions, seed))
        for constraint in self._constraints:
            constraint.check(made)
        return made, decisions

    def _make_and_lower(
        self, chooser: Chooser | Recorder
    ) -> tuple[Graph, Mapping[str, Placeholder]]:
        """The callable's model as a graph.

        Raises:
            InfeasibleError: making it raised, or it does not run on the example inputs.
        """
        recorder = chooser if isinstance(chooser, Recorder) else Recorder(chooser)
        try:
            return self._lower(self._make(recorder))
        except ParseError as error:
            shown = {d.label: d.shown for d in recorder.decisions}
            raise InfeasibleError(
                error.cause, where=f"{error.where}; decisions {shown}", fix=error.fix
            ) from error

    def _make(self, chooser: Chooser | Recorder, device: str = "meta") -> nn.Module:
        """Runs the user's callable, with ``chooser`` answering."""
        assert self._callable is not None
        recorder = chooser if isinstance(chooser, Recorder) else Recorder(chooser)
        try:
            with recording(recorder):
                made = self._on(device)
        except RetiariiError:
            raise
        except Exception as error:
            raise InfeasibleError(
                f"making the model raised {type(error).__name__}: {error}",
                where=f"decisions { {d.label: d.shown for d in recorder.decisions} }",
                fix="mend the model, or raise rt.InfeasibleError where choices lead nowhere",
            ) from error
        if not isinstance(made, nn.Module):
            raise SpaceError(
                f"the space's callable returned a {type(made).__name__}, not a module",
                fix="let it return a torch.nn.Module",
            )
        return made

    def _on(self, device: str) -> Any:
        assert self._callable is not None
        if device == "meta":
            try:
                with torch.device("meta"):
                    return self._callable()
            except (NotImplementedError, RuntimeError):
                # Some constructors compute with values (schedules of drop rates, masks).
                with torch.random.fork_rng(devices=[]):
                    return self._callable()
        return self._callable()

    def _lower(self, module: nn.Module) -> tuple[Graph, Mapping[str, Placeholder]]:
        graph = parse(module, self._example)
        found = {p: m for p, m in module.named_modules() if isinstance(m, Placeholder)}
        return graph, MappingProxyType(found)

    def _build(self, graph: Graph, decisions: tuple[Decision, ...], seed: int) -> nn.Module:
        weights: Mapping[str, torch.Tensor] | None = None
        if self._callable is not None:
            answers = {d.label: d.raw for d in decisions}
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(seed, "model"))
                made = self._make(lambda label, _: answers[label], device="cpu")
            weights = made.state_dict()
        elif self._inherit:
            weights = graph.context.weights
        module = to_module(graph, seed=seed, weights=weights)
        if self._init is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(seed, "init"))
                self._init(module)
        return module


def _first(_label: str, domain: Domain) -> Raw:
    return 0 if isinstance(domain, Categorical) else domain.low


def _source(thing: Any) -> str:
    """Source code where Python knows it, without comments and layout; else a name."""
    import ast
    import textwrap

    try:
        return ast.dump(ast.parse(textwrap.dedent(inspect.getsource(thing))))
    except (OSError, TypeError, SyntaxError):
        return show(thing)
