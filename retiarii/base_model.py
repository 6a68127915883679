"""The base of a space: a model that is given, or a callable that makes one for each candidate."""

from __future__ import annotations

import ast
import inspect
import textwrap
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from retiarii.errors import InfeasibleError, ParseError, RetiariiError, SpaceError
from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse_with
from retiarii.ir.tracing.memory import Memory
from retiarii.mutators.choice import (
    Decision,
    Description,
    Raw,
    Recorder,
    recording,
    show,
)
from retiarii.mutators.layers import Placeholder
from retiarii.mutators.resolve import Resolver
from retiarii.seeding import derive
from retiarii.user_code import defined_at, users_line

# How many models of a callable are kept, for candidates that differ in other decisions only, ...
_KEPT = 64
# ... and of how many answers it is kept why they lead to none.
_REFUSED = 10_000


_Answers = tuple[tuple[str, Raw], ...]


@dataclass(frozen=True, slots=True)
class Lowered:
    """A model as a graph, with its choices that are layers, by module path.

    Attributes:
        graph: with a node for each of these choices.
        placeholders: the choices.
        resolver: makes them.
    """

    graph: Graph
    placeholders: Mapping[str, Placeholder]
    resolver: Resolver

    @staticmethod
    def of(module: nn.Module, example_inputs: Any, memory: Memory | None = None) -> Lowered:
        """Parses a module.

        Args:
            module: a space's base.
            example_inputs: what its ``forward`` takes.
            memory: what parses of the space's other models found out.

        Raises:
            ParseError: it does not run on the example inputs.
        """
        graph = parse_with(memory or Memory(), module, example_inputs)
        found = {p: m for p, m in module.named_modules() if isinstance(m, Placeholder)}
        return Lowered(graph, MappingProxyType(found), Resolver(graph, found))


class Base(ABC):
    """Where a space's candidates begin."""

    @abstractmethod
    def lower(self, recorder: Recorder) -> Lowered:
        """The graph to begin with; ``recorder`` makes the choices of the model's own ``__init__``.

        The graph is not to be edited; copy it.

        Raises:
            InfeasibleError: the choices lead to no model, or to one that does not run.
        """

    @abstractmethod
    def weights(
        self, decisions: tuple[Decision, ...], seed: int
    ) -> Mapping[str, torch.Tensor] | None:
        """Initial weights by ``state_dict`` key; ``None`` leaves them to the layers."""

    @abstractmethod
    def describe(self) -> str:
        """Text that is the same for the same base, in every process."""


class GivenBase(Base):
    """A model, as it is.

    Args:
        module: the model; never changed.
        example_inputs: what its ``forward`` takes.
        inherit: candidates keep its weights.
    """

    def __init__(self, module: nn.Module, example_inputs: Any, *, inherit: bool) -> None:
        self._lowered = Lowered.of(module, example_inputs)
        self._inherit = inherit

    def lower(self, recorder: Recorder) -> Lowered:  # noqa: ARG002
        return self._lowered

    def weights(
        self,
        decisions: tuple[Decision, ...],  # noqa: ARG002
        seed: int,  # noqa: ARG002
    ) -> Mapping[str, torch.Tensor] | None:
        return self._lowered.graph.context.weights if self._inherit else None

    def describe(self) -> str:
        return str(self._lowered.graph)


@dataclass(slots=True)
class _Asked:
    """What a callable asks next, after some answers; ``None`` when it has its model."""

    question: tuple[str, Description] | None = None
    after: dict[Raw, _Asked] = field(default_factory=dict)


class MadeBase(Base):
    """A callable that makes the model, run once for each way to answer its choices.

    Candidates that differ only in decisions made later share the model and its graph: the callable
    must depend on nothing but the answers.
    """

    def __init__(self, make: Callable[[], nn.Module], example_inputs: Any) -> None:
        self._make = make
        self._example = example_inputs
        self._asked = _Asked()
        self._memory = Memory()
        self._kept: OrderedDict[_Answers, Lowered] = OrderedDict()
        # (cause, where, fix): an error itself would keep the model alive
        self._refused: dict[_Answers, tuple[str, str | None, str | None]] = {}

    def lower(self, recorder: Recorder) -> Lowered:
        self._answer_known(recorder)
        known = _answers(recorder.decisions)
        if known in self._kept:
            self._kept.move_to_end(known)
            return self._kept[known]
        if known in self._refused:
            cause, where, fix = self._refused[known]
            raise InfeasibleError(cause, where=where, fix=fix)
        try:
            lowered = self._lowered(recorder)
        except InfeasibleError as error:
            self._remember(recorder)
            if len(self._refused) >= _REFUSED:
                self._refused.clear()
            self._refused[_answers(recorder.decisions)] = error.cause, error.where, error.fix
            raise
        self._remember(recorder)
        self._kept[_answers(recorder.decisions)] = lowered
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return lowered

    def _lowered(self, recorder: Recorder) -> Lowered:
        if self._memory.is_stale():
            self._memory = Memory()
        try:
            return Lowered.of(self._made(recorder, "meta"), self._example, self._memory)
        except ParseError as error:
            raise InfeasibleError(
                error.cause,
                where=f"{error.where}; decisions {_shown(recorder)}",
                fix=error.fix,
            ) from error

    def weights(
        self, decisions: tuple[Decision, ...], seed: int
    ) -> Mapping[str, torch.Tensor] | None:
        answers = dict(_answers(decisions))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(seed, "model"))
            made = self._made(Recorder(lambda label, _: answers[label]), "cpu")
        return made.state_dict()

    def describe(self) -> str:
        return source_of(self._make)

    def _answer_known(self, recorder: Recorder) -> None:
        """Asks what the callable is known to ask, without running it."""
        asked = self._asked
        while asked.question is not None:
            label, description = asked.question
            recorder.ask(label, description)
            raw = recorder.made(label)
            assert raw is not None
            if raw not in asked.after:
                return
            asked = asked.after[raw]

    def _remember(self, recorder: Recorder) -> None:
        asked = self._asked
        for decision, description in recorder.questions:
            asked.question = (decision.label, description)
            asked = asked.after.setdefault(decision.raw, _Asked())

    def _made(self, recorder: Recorder, device: str) -> nn.Module:
        """Runs the user's callable, with ``recorder`` answering."""
        try:
            with recording(recorder):
                made = self._on(device)
        except RetiariiError:
            raise
        except Exception as error:
            raise InfeasibleError(
                f"making the model raised {type(error).__name__}: {error}",
                where=f"{users_line(error) or defined_at(self._make)}; "
                f"decisions {_shown(recorder)}",
                fix="mend the model, or raise rt.InfeasibleError where choices lead nowhere",
            ) from error
        if not isinstance(made, nn.Module):
            raise SpaceError(
                f"the space's callable returned a {type(made).__name__}, not a module",
                where=defined_at(self._make),
                fix="let it return a torch.nn.Module",
            )
        return made

    def _on(self, device: str) -> Any:
        if device == "meta":
            try:
                with torch.device("meta"):
                    return self._make()
            except (NotImplementedError, RuntimeError):
                # Some constructors compute with values (schedules of drop rates, masks).
                with torch.random.fork_rng(devices=[]):
                    return self._make()
        return self._make()


def make_base(base: Any, example_inputs: Any, *, inherit: bool) -> Base:
    """The base that a user gave.

    Raises:
        SpaceError: neither a module nor a callable; or weights to inherit from a callable.
    """
    if isinstance(base, nn.Module):
        return GivenBase(base, example_inputs, inherit=inherit)
    if not callable(base):
        raise SpaceError(
            f"the base of a space is of type {type(base).__name__}",
            fix="give a torch.nn.Module, or a function or class that makes one",
        )
    if inherit:
        raise SpaceError(
            "weights='inherit' needs a base model that is given, not one that is made",
            fix="pass the module itself, ModelSpace(model, ...)",
        )
    return MadeBase(base, example_inputs)


def source_of(thing: Any) -> str:
    """Source code where Python knows it, without comments and layout; else a name."""
    try:
        return ast.dump(ast.parse(textwrap.dedent(inspect.getsource(thing))))
    except (OSError, TypeError, SyntaxError):
        return show(thing)


def _answers(decisions: tuple[Decision, ...]) -> _Answers:
    return tuple((d.label, d.raw) for d in decisions)


def _shown(recorder: Recorder) -> dict[str, str]:
    return {d.label: d.shown for d in recorder.decisions}
