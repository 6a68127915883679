"""Runs trials in the controller's own process and thread: breakpoints work."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NoReturn

from retiarii.runtime.executor import Deliver, run_job
from retiarii.runtime.job import Job
from retiarii.training.events import TrialEvent

if TYPE_CHECKING:
    from retiarii.search_space import SearchSpace
    from retiarii.training.evaluator import Evaluator


class InlineExecutor:
    """One job after the other, within `poll`."""

    def __init__(self, space: SearchSpace, evaluator: Evaluator) -> None:
        self._space = space
        self._evaluator = evaluator
        self._waiting: deque[Job] = deque()
        self._stopping: set[int] = set()
        self._leaving = False

    def submit(self, job: Job) -> None:
        self._stopping -= {trial.number for trial in job.trials}
        self._waiting.append(job)

    def poll(self, timeout: float, deliver: Deliver) -> None:  # noqa: ARG002 - never idle
        if not self._waiting:
            return
        job = self._waiting.popleft()
        try:
            run_job(job, self._space, self._evaluator, _Direct(deliver, self))
        except _Abandoned:
            pass
        except _ControllerError as error:
            raise error.reason from error.reason.__cause__

    def stop(self, number: int) -> None:
        self._stopping.add(number)

    def stop_requested(self, number: int) -> bool:
        """Whether a trial was asked to stop.

        Raises:
            _Abandoned: all of them are left where they are.
        """
        if self._leaving:
            raise _Abandoned
        return number in self._stopping

    def abandon(self) -> None:
        self._leaving = True
        self._waiting.clear()

    def shutdown(self) -> None:
        self._waiting.clear()


class _ControllerError(BaseException):
    """Carries the controller's own error past a user's ``except Exception``."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason
        super().__init__(reason)


class _Abandoned(BaseException):
    """Leaves an evaluator, past a user's ``except Exception``: trials stay as they are."""


class _Direct:
    """The channel of a trial that runs in the controller's process."""

    def __init__(self, deliver: Deliver, executor: InlineExecutor) -> None:
        self._deliver = deliver
        self._executor = executor

    def send(self, event: TrialEvent) -> None:
        try:
            self._deliver(event)
        except Exception as error:
            _leave(error)

    def stop_requested(self, number: int) -> bool:
        return self._executor.stop_requested(number)


def _leave(error: Exception) -> NoReturn:
    raise _ControllerError(error)
