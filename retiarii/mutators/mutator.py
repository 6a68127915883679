"""`Mutator`: a rule that edits a graph, asking `choice()` wherever it could go several ways."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeVar

from retiarii.errors import SpaceError
from retiarii.ir.graph import Graph
from retiarii.ir.node import Node
from retiarii.mutators.choice import Description, Recorder, describe_options

T = TypeVar("T")


@dataclass(slots=True)
class Application:
    """One mutator at work on one target: where its choices go, and how they are labelled."""

    recorder: Recorder
    scope: str
    unnamed: int = 0

    def ask(self, label: str | None, description: Description) -> Any:
        if label is None:
            label = f"choice{self.unnamed}"
            self.unnamed += 1
        return self.recorder.ask(f"{self.scope}/{label}", description)


_current: ContextVar[Application | None] = ContextVar("retiarii_application", default=None)


@contextmanager
def applying(application: Application) -> Iterator[None]:
    """Within it, a mutator's `choice` is answered by ``application``."""
    token = _current.set(application)
    try:
        yield
    finally:
        _current.reset(token)


class Mutator(ABC):
    """A rule that edits a graph.

    It is replayed for each candidate: ``mutate`` must depend on nothing but the graph, the target
    and the answers of ``choice``, and may use any Python.
    """

    @property
    def name(self) -> str:
        """The first part of its decisions' labels."""
        return type(self).__name__

    @abstractmethod
    def mutate(self, graph: Graph, target: Node) -> None:
        """Edits ``graph`` at ``target``.

        Shapes downstream are inferred again when it returns, and what consumes them is resized.
        """

    def choice(self, options: Sequence[T], label: str | None = None) -> T:
        """One of ``options``; inside ``mutate`` only.

        Args:
            options: any Python values, at least one; or what `rt.uniform`, `rt.randint` and
                their kin return.
            label: names the decision within this mutator at this target. The same label with the
                same options is the same decision. Without one, decisions are numbered in order.

        Raises:
            SpaceError: no options; called outside of ``mutate``; a label asked again with other
                options.
        """
        application = _current.get()
        if application is None:
            raise SpaceError(
                f"{self.name}.choice() was called outside of mutate()",
                fix="call it in mutate(), which a ModelSpace replays for each candidate",
            )
        description = (
            options
            if isinstance(options, Description)
            else describe_options(options, label and f"{application.scope}/{label}")
        )
        answer: T = application.ask(label, description)
        return answer
