"""`ModelSpace`: a base model and the mutators applied to it; `Candidate`: one model of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from retiarii.base_model import GivenBase, Lowered, make_base, source_of
from retiarii.constraints import Constraint, Refusals
from retiarii.errors import InfeasibleError, SpaceError
from retiarii.ir.build.inherit import inherit
from retiarii.ir.build.module import to_module
from retiarii.ir.graph import Graph, Pattern, frozen_pattern
from retiarii.ir.transfer import transferred
from retiarii.mutators.choice import (
    Categorical,
    Chooser,
    Decision,
    Domain,
    Raw,
    Recorder,
    show,
)
from retiarii.mutators.count import count_ways
from retiarii.mutators.draw import uniform_chooser
from retiarii.mutators.given import FrozenRecorder
from retiarii.mutators.layers import Placeholder
from retiarii.mutators.mutator import Mutator
from retiarii.mutators.steps import Applied, Plan, check_targets
from retiarii.mutators.walk import walk
from retiarii.seeding import derive

if TYPE_CHECKING:
    from retiarii.ir.analysis.cost import Cost

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

    def build(
        self, seed: int = 0, *, parent: Mapping[str, torch.Tensor] | None = None
    ) -> nn.Module:
        """The model, with initial weights that are a function of the decisions and ``seed``.

        Args:
            seed: initialises what has no other weights.
            parent: another candidate's ``state_dict``: all with the same path and shape is copied,
                after growth and pruning (`widen`, `deepen`, `prune_channels`) did to it what they
                did to this candidate.

        Raises:
            SpaceError: ``parent`` is no ``state_dict``.
        """
        module = self._build(seed)
        if parent is not None:
            inherit(module, parent, self.graph.context.transfers)
        return module

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
        self._base = make_base(base, example_inputs, inherit=weights == "inherit")
        self._inherit = weights == "inherit"
        self._init = init
        self._applied: list[Applied] = []
        self._constraints: list[Constraint] = []

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
        if isinstance(self._base, GivenBase) and not self._applied:
            lowered = self._base.lower(Recorder(_first))
            if not lowered.placeholders:
                check_targets(lowered.graph, applied)
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
        return self._base.lower(Recorder(_first)).graph.copy()

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
        return sum(
            count_ways(self._plan(made.placeholders), made.graph)
            for made in walk(lambda chooser: self._base.lower(Recorder(chooser)))
            if isinstance(made, Lowered)
        )

    def describe(self) -> dict[str, Any]:
        """What makes this space this one, as JSON: for telling whether a search is the same."""
        return {
            "base": self._base.describe(),
            "mutators": {
                applied.name: {
                    "target": show(applied.target),
                    "shared": applied.shared,
                    "source": source_of(type(applied.mutator)),
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
        lowered = self._base.lower(recorder)
        plan = self._plan(lowered.placeholders)
        graph, todo = lowered.resolver.resolve(recorder)
        progress = plan.resume(todo)
        while (following := plan.next(graph, progress)) is not None:
            progress = plan.perform(graph, *following, recorder)
        decisions = recorder.decisions
        values = MappingProxyType({d.label: d.value for d in decisions})
        made = Candidate(values, graph, lambda seed: self._build(graph, decisions, seed))
        for constraint in self._constraints:
            constraint.check(made)
        return made, decisions

    def _build(self, graph: Graph, decisions: tuple[Decision, ...], seed: int) -> nn.Module:
        weights = self._base.weights(decisions, seed)
        if weights is not None and isinstance(self._base, GivenBase):
            weights = graph.context.weights  # with what mutators made of them
        elif weights is not None:
            weights = transferred(weights, graph.context.transfers)
        module = to_module(graph, seed=seed, weights=weights)
        if self._init is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(derive(seed, "init"))
                self._init(module)
        return module


def _first(_label: str, domain: Domain) -> Raw:
    return 0 if isinstance(domain, Categorical) else domain.low
