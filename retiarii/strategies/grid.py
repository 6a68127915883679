"""Exhaustive search, in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from retiarii.errors import SpaceError, StrategyError
from retiarii.mutators.choice import Domain, Raw
from retiarii.strategies.base import Strategy, Trace, barren, steps_of, trace, whole
from retiarii.strategies.sampling import first, last, size
from retiarii.strategies.tried import Step

if TYPE_CHECKING:
    from retiarii.search_space import Point, SearchSpace


class GridSearch(Strategy):
    """Every decision sequence once, the last decision turning fastest.

    It remembers the last sequence only, like an odometer: the next one turns the deepest decision
    that has a value left, and takes the first value of whatever is asked below. The seed is of no
    matter.

    Args:
        patience: infeasible proposals in a row before it gives up.

    Attributes:
        infeasible: how many proposals were infeasible so far.
    """

    name: ClassVar[str] = "grid"

    def __init__(self, *, patience: int = 1000) -> None:
        self.patience = whole("patience", patience, 1)

    def begin(self, space: SearchSpace, seed: int) -> None:
        super().begin(space, seed)
        self.infeasible = 0
        # The decisions that the next sequence begins with; None when there is no next one.
        self._ahead: tuple[Step, ...] | None = ()
        self._adopted: set[tuple[Step, ...]] = set()

    def ask(self, number: int) -> Point | None:  # noqa: ARG002 - the order says it all
        infeasible = 0
        while infeasible < self.patience:
            if self._ahead is None:
                return None
            found = self._next(self._ahead)
            self._ahead = _turn(found.steps)
            if found.point is None:
                self.infeasible += 1
                infeasible += 1
            elif found.steps not in self._adopted:
                return found.point
        if self._ahead is None:
            return None
        raise barren(self.patience)

    def adopt(self, number: int, point: Point) -> bool:  # noqa: ARG002
        self._adopted.add(steps_of(point))
        return False

    def _next(self, ahead: tuple[Step, ...]) -> Trace:
        asked = 0

        def chooser(label: str, domain: Domain) -> Raw:  # noqa: ARG001
            nonlocal asked
            asked += 1
            return ahead[asked - 1].raw if asked <= len(ahead) else first(domain)

        found = trace(self.space, chooser)
        # Checked after the replay: an error raised within would pass through the user's code.
        for step in found.steps:
            if size(step.domain) is None:
                raise StrategyError(
                    f"grid cannot enumerate {step.label!r}, which is a continuous range",
                    where=f"decision {step.label!r}: {step.domain}",
                    fix="use random or evolution, or a choice() of the values to try",
                )
        before = [(step.label, step.domain) for step in ahead]
        if before != [(step.label, step.domain) for step in found.steps[: len(ahead)]]:
            raise SpaceError(
                "the space asks for other decisions than before, after the same decisions",
                where=f"decision {ahead[-1].label!r}",
                fix="what a mutator or a model asks may depend on earlier choices only",
            )
        return found

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "patience": self.patience}


def _turn(steps: tuple[Step, ...]) -> tuple[Step, ...] | None:
    """The beginning of the sequence after ``steps``; ``None`` after the last."""
    for at in range(len(steps) - 1, -1, -1):
        step = steps[at]
        if step.raw < last(step.domain):
            return (*steps[:at], step._replace(raw=step.raw + 1))
    return None
