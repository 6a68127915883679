"""What an Optuna study keeps in memory: trials by reference, and no more of them than it needs.

Optuna's own storage copies trials and their distributions at every step, and shows samplers every
trial there ever was, which they go through at every proposal. This one shows the trials that wait
for a result, the best and the newest.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.study._frozen import FrozenStudy
from optuna.trial import FrozenTrial, TrialState

from retiarii.objectives.standing import Standing

_STUDY = 0
_NAME = "retiarii"
# Samplers look at the order of trials, never at the time.
_NO_TIME = datetime(2000, 1, 1)
# Forgetting sorts the trials: so it waits until some have gathered.
_SLACK = 0.125


class WindowStorage(BaseStorage):
    """One study, in one process, that forgets.

    Args:
        best: how many of the best results stay.
        recent: how many of the newest results stay, beside those.
        highest: whether the best are the highest.
    """

    def __init__(self, best: int, recent: int, *, highest: bool = True) -> None:
        self._best, self._recent, self._highest = best, recent, highest
        self._slack = max(4, int((best + recent) * _SLACK))
        self._shown: dict[int, FrozenTrial] = {}
        self._ended = 0
        self._next = 0
        self._directions: list[StudyDirection] = []
        self._user: dict[str, Any] = {}
        self._system: dict[str, Any] = {}

    # -- what the adapter needs

    def trial(self, number: int) -> FrozenTrial:
        """The trial itself; what is changed in it is what samplers see."""
        return self._shown[number]

    def decide(
        self, number: int, params: Mapping[str, Any], kinds: Mapping[str, BaseDistribution]
    ) -> None:
        """Says what was decided for a trial, which need not be what a sampler suggested."""
        trial = self._shown[number]
        trial.params = dict(params)
        trial.distributions = dict(kinds)

    def drop(self, number: int) -> None:
        """Forgets a trial that came to nothing."""
        del self._shown[number]

    # -- the study

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        if self._directions:
            raise DuplicatedStudyError(study_name or _NAME)
        self._directions = list(directions)
        return _STUDY

    def delete_study(self, study_id: int) -> None:  # noqa: ARG002
        self._shown.clear()

    def get_study_id_from_name(self, study_name: str) -> int:  # noqa: ARG002
        return _STUDY

    def get_study_name_from_id(self, study_id: int) -> str:  # noqa: ARG002
        return _NAME

    def get_study_directions(self, study_id: int) -> list[StudyDirection]:  # noqa: ARG002
        return self._directions

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:  # noqa: ARG002
        return self._user

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:  # noqa: ARG002
        self._user[key] = value

    def get_study_system_attrs(self, study_id: int) -> dict[str, Any]:  # noqa: ARG002
        return self._system

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:  # noqa: ARG002
        self._system[key] = value

    def get_all_studies(self) -> list[FrozenStudy]:
        return [
            FrozenStudy(_NAME, None, self._user, self._system, _STUDY, directions=self._directions)
        ]

    # -- its trials

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:  # noqa: ARG002
        number = self._next
        self._next += 1
        trial = template_trial or FrozenTrial(
            number=number,
            state=TrialState.RUNNING,
            value=None,
            datetime_start=_NO_TIME,
            datetime_complete=None,
            params={},
            distributions={},
            user_attrs={},
            system_attrs={},
            intermediate_values={},
            trial_id=number,
        )
        trial.number = trial._trial_id = number
        self._shown[number] = trial
        self._note_end(trial)
        return number

    def set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
    ) -> None:
        trial = self._shown[trial_id]
        trial.params[param_name] = distribution.to_external_repr(param_value_internal)
        trial.distributions[param_name] = distribution

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        trial = self._shown[trial_id]
        if values is not None:
            trial.values = list(values)
        trial.state = state
        if state.is_finished():
            trial.datetime_complete = _NO_TIME
        self._note_end(trial)
        return True

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        self._shown[trial_id].intermediate_values[step] = intermediate_value

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._shown[trial_id].user_attrs[key] = value

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        self._shown[trial_id].system_attrs[key] = value

    def get_trial(self, trial_id: int) -> FrozenTrial:
        return self._shown[trial_id]

    def get_all_trials(
        self,
        study_id: int,  # noqa: ARG002
        deepcopy: bool = True,  # noqa: ARG002
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        if states is None:
            return list(self._shown.values())
        if states == (TrialState.WAITING,):  # asked for at every proposal, and never there
            return []
        return [trial for trial in self._shown.values() if trial.state in states]

    # -- forgetting

    def _note_end(self, trial: FrozenTrial) -> None:
        if not trial.state.is_finished():
            return
        self._ended += 1
        if self._ended <= self._best + self._recent + self._slack:
            return
        ended = [number for number, t in self._shown.items() if t.state.is_finished()]
        for number in self._forgotten(ended):
            del self._shown[number]
        self._ended = self._best + self._recent

    def _forgotten(self, ended: list[int]) -> list[int]:
        """The numbers of those that are neither among the best nor among the newest."""
        scored = [n for n in ended if self._shown[n].state is TrialState.COMPLETE]
        best = set(self._ranked(scored)[: self._best])
        others = sorted(n for n in ended if n not in best)
        return others[: len(others) - self._recent]

    def _ranked(self, scored: list[int]) -> list[int]:
        """The numbers of trials, the best first."""
        sign = 1.0 if self._highest else -1.0
        values = {n: tuple(sign * v for v in self._shown[n].values) for n in scored}
        if len(self._directions) < 2:
            return sorted(scored, key=lambda n: (-values[n][0], n))
        standing = Standing()
        for number in scored:
            standing.add(number, values[number])
        scores = standing.scores()
        return sorted(scored, key=lambda n: (-scores[n], n))
