"""The only place that talks to Optuna: a study that is asked and told, and its samplers."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.trial import TrialState

from retiarii.mutators.choice import Categorical, Domain, Integer, Raw
from retiarii.strategies.optuna_samplers import quiet
from retiarii.strategies.optuna_storage import WindowStorage
from retiarii.strategies.sampling import first, size
from retiarii.strategies.tried import Step


class Study:
    """An Optuna study of points of a space; `Suggested` asks it, decision by decision.

    Args:
        sampler: makes the sampler.
        best: how many of the best results the sampler sees.
        recent: how many of the newest it sees beside them.
        objectives: how many values a result has.
    """

    #: No trial's number.
    NONE = -1

    def __init__(
        self, sampler: Callable[[], BaseSampler], best: int, recent: int, objectives: int = 1
    ) -> None:
        self._storage = WindowStorage(best, recent)
        with quiet():
            self._study = optuna.create_study(
                storage=self._storage, sampler=sampler(), directions=["maximize"] * objectives
            )
        self._known: dict[tuple[str, Domain], tuple[str, BaseDistribution]] = {}

    def ask(self) -> Suggested:
        """Suggestions for one more trial."""
        return Suggested(self, self._study.ask())

    def decide(self, number: int, steps: Sequence[Step]) -> None:
        """Notes what was decided for a trial in the end: the truth that samplers learn from."""
        self._storage.decide(number, *self._params(steps))

    def drop(self, number: int) -> None:
        """Gives up a trial that was asked for, if one was."""
        if number != self.NONE:
            self._storage.drop(number)

    def tell(self, number: int, values: Sequence[float] | None) -> None:
        """The result of a trial: one value an objective, or ``None`` if there is none.

        A trial without a result is told as one that was stopped before its first step: samplers
        that can do something with it (TPE) take it for worse than any other; the rest ignore it.
        """
        state = TrialState.PRUNED if values is None else TrialState.COMPLETE
        # As Optuna's own `tell`, but for the copies that it makes of the trial.
        self._study.sampler.after_trial(self._study, self._storage.trial(number), state, values)
        self._storage.set_trial_state_values(number, state, values)

    def add(self, steps: Sequence[Step], values: Sequence[float] | None) -> None:
        """Notes a point that Optuna was not asked for, with its result as in `tell`."""
        self.tell(self.adopt(steps), values)

    def adopt(self, steps: Sequence[Step], *, counted: bool = False) -> int:
        """Begins a trial whose decisions Optuna was not asked for.

        Args:
            counted: have the sampler count it as one of its own: of a generation, say.
        """
        number = self.ask().number if counted else self._storage.create_new_trial(0)
        self.decide(number, steps)
        return number

    def kind(self, label: str, domain: Domain) -> tuple[str, BaseDistribution]:
        """The name and the distribution that a decision has in the study.

        The name holds the domain: Optuna wants one distribution a name, and a label may be asked
        with other options in another branch.
        """
        found = self._known.get((label, domain))
        if found is None:
            found = self._known[label, domain] = (f"{label}|{_shape(domain)}", _kind(domain))
        return found

    def suggest(self, number: int, params: Mapping[str, Any]) -> None:
        """Lets samplers of single decisions see what was decided together for this trial."""
        self._storage.trial(number).params.update(params)

    def sample(self, number: int, name: str, kind: BaseDistribution) -> Any:
        """A value for a decision that the sampler did not decide together with others."""
        return self._study.sampler.sample_independent(
            self._study, self._storage.trial(number), name, kind
        )

    def _params(self, steps: Sequence[Step]) -> tuple[dict[str, Any], dict[str, BaseDistribution]]:
        params: dict[str, Any] = {}
        kinds: dict[str, BaseDistribution] = {}
        for label, domain, raw in steps:
            if size(domain) != 1:
                name, kind = self.kind(label, domain)
                params[name], kinds[name] = raw, kind
        return params, kinds


class Suggested:
    """A chooser that answers what Optuna suggests for one trial, the same however often asked.

    Attributes:
        number: the trial's number in the study.
    """

    __slots__ = ("_answers", "_study", "_together", "number")

    def __init__(self, study: Study, trial: optuna.Trial) -> None:
        self._study = study
        self.number: int = trial.number
        with warnings.catch_warnings():  # of a fit that does not converge, among others
            warnings.simplefilter("ignore")
            self._together: Mapping[str, Any] = trial.relative_params
        study.suggest(self.number, self._together)
        self._answers: dict[tuple[str, Domain], Raw] = {}

    def __call__(self, label: str, domain: Domain) -> Raw:
        key = (label, domain)
        answer = self._answers.get(key)
        if answer is None:
            answer = self._answers[key] = self._ask(label, domain)
        return answer

    def _ask(self, label: str, domain: Domain) -> Raw:
        if size(domain) == 1:
            return first(domain)
        name, kind = self._study.kind(label, domain)
        value = self._together.get(name)
        if value is None:
            value = self._study.sample(self.number, name, kind)
        if isinstance(domain, Categorical):
            return int(value)
        number = int(value) if isinstance(domain, Integer) else float(value)
        return min(max(number, domain.low), domain.high)


def _shape(domain: Domain) -> str:
    if isinstance(domain, Categorical):
        return str(domain.n)
    kind = "int" if isinstance(domain, Integer) else "float"
    return f"{kind}:{domain.low}:{domain.high}:{'log' if domain.log else 'linear'}"


def _kind(domain: Domain) -> BaseDistribution:
    if isinstance(domain, Categorical):
        return CategoricalDistribution(tuple(range(domain.n)))
    if isinstance(domain, Integer):
        return IntDistribution(domain.low, domain.high, log=domain.log)
    return FloatDistribution(domain.low, domain.high, log=domain.log)
