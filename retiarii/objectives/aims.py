"""What a search with several objectives asks of its trials, and checks before it begins."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retiarii.errors import ObjectiveError, nearest
from retiarii.objectives.measures import Measures, shown_device
from retiarii.objectives.names import (
    BUILT_IN,
    PROXIES,
    TIMED,
    Limit,
    Objective,
    Quantity,
    Sifting,
)
from retiarii.objectives.pareto import Values
from retiarii.objectives.values import values_of
from retiarii.proxies.registry import REGISTERED

if TYPE_CHECKING:
    from retiarii.runtime.rows import TrialRow
    from retiarii.runtime.store import Store
    from retiarii.search_space import Point
    from retiarii.training.evaluator import Evaluator


class Aims:
    """The objectives of one search.

    What an evaluator is known to report is taken from its trials; what else has a built-in
    objective's name is measured before a trial is trained; the rest must be reported.

    Args:
        objectives: in the order given.
        measures: measures what is built in.
        evaluator: says what trials report.
        modelled: whether there are models; without one everything must be reported.
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        measures: Measures,
        evaluator: Evaluator,
        *,
        modelled: bool,
    ) -> None:
        self.objectives = tuple(objectives)
        self._measures = measures
        reported = evaluator.reported or frozenset()
        self.measured = tuple(
            each.name
            for each in objectives
            if modelled and each.name not in reported and Quantity.of(each.name) is not None
        )
        self._metric = evaluator.metric
        self._seen = False

    def measure(self, points: Mapping[int, Point]) -> dict[int, str]:
        """Measures models that are about to be trained, together; why some cannot be, by trial."""
        modelled = {n: p.candidate for n, p in points.items() if p.candidate is not None}
        failed: dict[int, str] = {}
        for name in self.measured:
            values = self._measures.values(name, list(modelled.values()))
            for number, value in zip(modelled, values, strict=True):
                if isinstance(value, str):
                    failed.setdefault(number, f"objective {name!r} cannot be measured: {value}")
        return failed

    def notes(self) -> list[str]:
        """What is to be told about measuring, a line each."""
        return self._measures.notes()

    def completed(
        self, point: Point, score: float, metrics: Mapping[str, float]
    ) -> dict[str, float]:
        """A trial's metrics with what was measured; what it reports itself comes first."""
        found: dict[str, float] = {self._metric: score, **metrics}
        for name in self.measured:
            if name not in found and point.candidate is not None:
                (value,) = self._measures.values(name, [point.candidate])
                assert not isinstance(value, str)
                found[name] = value
        return found

    def complete(self, store: Store, row: TrialRow, point: Point) -> None:
        """Adds what is measured to a trial of an earlier search, which may not have measured it."""
        if row.score is None or self.measure({row.id: point}):
            return
        metrics = self.completed(point, row.score, row.metrics)
        if metrics != row.metrics:
            at = row.finished or 0.0
            store.finish(row.id, row.state, row.score, metrics, row.seconds, at)

    def check(self, metrics: Mapping[str, Any]) -> str | None:
        """Why a trial with these metrics is of no use: an objective without a (finite) value.

        Raises:
            ObjectiveError: no trial so far has reported it.
        """
        missing = [o.name for o in self.objectives if o.name not in metrics]
        if missing and not self._seen:
            names = [name for name in metrics if name not in self.measured]
            if Quantity.of(missing[0]) is not None:
                raise ObjectiveError(
                    f"the objective {missing[0]!r} is measured on models, and this search has "
                    "only hyper-parameters",
                    where="objectives",
                    fix="leave it out, or return it from the function",
                )
            raise ObjectiveError(
                f"the objective {missing[0]!r} is not reported: the first trial has "
                f"{', '.join(names)}",
                where="objectives",
                fix=f"{nearest(missing[0], [*names, *BUILT_IN, *PROXIES])}; a function "
                "returns a dict with it",
            )
        if missing:
            return f"it did not report the objective {missing[0]!r}"
        self._seen = True
        for each in self.objectives:
            if not math.isfinite(metrics[each.name]):
                return f"its {each.name} is {metrics[each.name]}"
        return None

    def values(self, metrics: Mapping[str, Any]) -> Values | None:
        """The value of each objective, more being better; ``None`` where one is missing."""
        return values_of(self.objectives, metrics)


def check_known(
    objectives: Sequence[Objective],
    limits: Sequence[Limit],
    sifted: Sequence[Sifting],
    evaluator: Evaluator,
    *,
    modelled: bool,
) -> None:
    """Finds what cannot work, before anything is stored.

    Raises:
        ObjectiveError: an objective that nobody reports or measures, or in another direction than
            the evaluator's; a proxy or a limit without models or without labelled data.
    """
    for each in objectives:
        if each.name == evaluator.metric and each.maximize != evaluator.maximize:
            right = "max" if evaluator.maximize else "min"
            raise ObjectiveError(
                f"the evaluator's {each.name} is better the "
                f"{'higher' if evaluator.maximize else 'lower'} it is, and the objective says "
                f"{each.direction}",
                where=f"objective {each.name}={each.direction}",
                fix=f"give {each.name}={right}",
            )
        built_in = modelled and Quantity.of(each.name) is not None
        known = evaluator.reported
        if known is not None and each.name not in known and not built_in:
            raise ObjectiveError(
                f"no trial reports the objective {each.name!r}: they have "
                f"{', '.join(sorted(known))}",
                where=f"objective {each.name}={each.direction}",
                fix=nearest(each.name, [*known, *BUILT_IN, *PROXIES]),
            )
    if not modelled and (limits or sifted):
        what = f"constraint {limits[0]}" if limits else str(sifted[0])
        raise ObjectiveError(
            "there are no models to measure, only hyper-parameters", where=what, fix="leave it out"
        )
    proxies = [s.proxy for s in sifted]
    proxies += [limit.quantity.what for limit in limits if limit.quantity.is_proxy]
    proxies += [each.name for each in objectives if modelled and each.name in PROXIES]
    for proxy in proxies:
        if REGISTERED[proxy].labelled and not evaluator.labelled:
            free = [name for name, kind in REGISTERED.items() if not kind.labelled]
            raise ObjectiveError(
                f"{proxy} needs labelled data and a loss, and the evaluator has none",
                where=proxy,
                fix=f"use rt.Supervised, or a proxy without: {', '.join(free)}",
            )


def described(
    objectives: Sequence[Objective], limits: Sequence[Limit], measures: Measures
) -> dict[str, Any]:
    """For the identity of a search: nothing at all where there is neither.

    Raises:
        ObjectiveError: latency is to be measured on a device that is not there.
    """
    found: dict[str, Any] = {}
    if objectives:
        found["objectives"] = [f"{each.name}={each.direction}" for each in objectives]
    if limits:
        found["constraints"] = [str(limit) for limit in limits]
    named = [Quantity.of(each.name) for each in objectives] + [lim.quantity for lim in limits]
    timed = [q for q in named if q is not None and q.what in TIMED]
    if timed:
        found["latency_measured_on"] = sorted({shown_device(measures, q) for q in timed})
    return found
