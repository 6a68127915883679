"""Limits on what is measured of models, asked before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from retiarii.constraints import Refusals, UnmetError
from retiarii.errors import InfeasibleError
from retiarii.mutators.draw import uniform_chooser
from retiarii.objectives.measures import Measures
from retiarii.objectives.names import TIMED, Limit
from retiarii.seeding import derive

if TYPE_CHECKING:
    from retiarii.search_space import SearchSpace
    from retiarii.space import Candidate

# Samples that are drawn to find one that keeps to the limits; and of these, how many are timed.
_SAMPLES = 1000
_TIMED = 64


class Limits:
    """What every model of a search must keep to; models that do not are infeasible.

    Args:
        limits: in any order; what takes long to measure is asked last.
        measures: measures it.
    """

    def __init__(self, limits: Sequence[Limit], measures: Measures) -> None:
        self._limits = sorted(limits, key=_cost)
        self._measures = measures

    def check(self, candidate: Candidate) -> None:
        """Raises where a candidate will not do.

        Raises:
            UnmetError: it does not keep to a limit.
            InfeasibleError: something cannot be measured of it.
        """
        for limit in self._limits:
            (value,) = self._measures.values(limit.name, [candidate])
            if isinstance(value, str):
                raise InfeasibleError(
                    f"{limit.name} cannot be measured: {value}",
                    where=f"constraint {limit}",
                    fix="leave the constraint out, or the options that lead to such models",
                )
            if not limit.met(value):
                unmet = UnmetError(
                    f"the constraint `{limit}` is not met: it is {value:.6g}",
                    where=f"constraint {limit}",
                    fix="choose otherwise, or loosen the constraint",
                )
                unmet.constraint = str(limit)
                raise unmet

    def probe(self, space: SearchSpace, seed: int) -> None:
        """Looks for one point that keeps to all limits.

        Raises:
            InfeasibleError: none of so many samples does; it says how many, and what they do not
                meet.
        """
        refusals = Refusals()
        before = self._measures.timed
        for attempt in range(_SAMPLES):
            try:
                space.replay(uniform_chooser(derive(seed, "limits", attempt)))
                return
            except InfeasibleError as error:
                refusals.note(error)
            if self._measures.timed - before >= _TIMED:
                break
        raise refusals.error()


def _cost(limit: Limit) -> tuple[Any, ...]:
    return (limit.quantity.is_proxy, limit.quantity.what in TIMED, str(limit))
