"""Runs trials in the controller's own process and thread: breakpoints work."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import TYPE_CHECKING, NoReturn

from retiarii.runtime.executor import Deliver, Device, Leaving, Yielded, run_job
from retiarii.runtime.job import Job
from retiarii.training.events import Failed, Finished, TrialEvent

if TYPE_CHECKING:
    from retiarii.search_space import SearchSpace
    from retiarii.training.evaluator import Evaluator


class InlineExecutor:
    """One job after the other, within `poll`."""

    def __init__(self, space: SearchSpace, evaluator: Evaluator) -> None:
        self._space = space
        self._evaluator = evaluator
        self._waiting: deque[Job] = deque()
        self._open: set[int] = set()  # trials of the job at hand that have not ended
        self._stopping: set[int] = set()
        self._asked: set[int] = set()  # to give the device back
        self._abandoned = False

    def devices(self) -> tuple[Device, ...]:
        return (Device("inline", "inline"),)

    def submit(self, job: Job, device: str | None = None) -> None:
        del device
        numbers = {trial.number for trial in job.trials}
        self._stopping -= numbers
        self._asked -= numbers
        self._waiting.append(job)

    def poll(self, timeout: float, deliver: Deliver) -> None:  # noqa: ARG002 - never idle
        if not self._waiting:
            return
        job = self._waiting.popleft()
        self._open = {trial.number for trial in job.trials}
        try:
            self.check()
            run_job(job, self._space, self._evaluator, _Direct(deliver, self))
        except Leaving:
            if not self._abandoned:
                for number in sorted(self._open):
                    deliver(Yielded(number))
        except _ControllerError as error:
            raise error.reason from error.reason.__cause__
        finally:
            self._open = set()

    def leave(self, numbers: Collection[int]) -> None:
        self._asked.update(numbers)

    def check(self) -> None:
        """Raises `Leaving` if all trials of the job are left where they are."""
        if self._abandoned or not self._asked.isdisjoint(self._open):
            raise Leaving

    def stop(self, number: int) -> None:
        self._stopping.add(number)

    def ended(self, number: int) -> None:
        """A trial of the job at hand has ended."""
        self._open.discard(number)

    def stop_requested(self, number: int) -> bool:
        """Whether a trial was asked to stop.

        Raises:
            Leaving: all of them are left where they are.
        """
        self.check()
        return number in self._stopping

    def abandon(self) -> None:
        self._abandoned = True
        self._waiting.clear()

    def shutdown(self) -> None:
        self._waiting.clear()


class _ControllerError(BaseException):
    """Carries the controller's own error past a user's ``except Exception``."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason
        super().__init__(reason)


class _Direct:
    """The channel of a trial that runs in the controller's process."""

    def __init__(self, deliver: Deliver, executor: InlineExecutor) -> None:
        self._deliver = deliver
        self._executor = executor

    def send(self, event: TrialEvent) -> None:
        if isinstance(event, Finished | Failed):
            self._executor.ended(event.number)
        try:
            self._deliver(event)
        except Exception as error:
            _leave(error)

    def stop_requested(self, number: int) -> bool:
        return self._executor.stop_requested(number)


def _leave(error: Exception) -> NoReturn:
    raise _ControllerError(error)
