"""What runs trials: the interface of executors, and the part that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from retiarii.runtime.job import Job, JobTrial, point_of
from retiarii.training.events import TrialEvent
from retiarii.training.trial import Channel, Trial, failures_end

if TYPE_CHECKING:
    from retiarii.search_space import SearchSpace
    from retiarii.training.evaluator import Evaluator


@dataclass(frozen=True, slots=True)
class Lost(TrialEvent):
    """The worker that evaluated the trial died; the trial can go on from its checkpoint."""

    message: str


@dataclass(frozen=True, slots=True)
class Yielded(TrialEvent):
    """The trial gave its device back, as it was asked to; it can go on from its checkpoint."""


Deliver = Callable[[TrialEvent], None]


@dataclass(frozen=True, slots=True)
class Device:
    """Where one job runs at a time.

    Attributes:
        name: unique within an executor: ``cpu:0``, ``cuda:1``, ``node-2/cuda:0``.
        kind: what has the same speed: ``cpu``, or the GPU's name.
        memory: bytes; ``None`` where that is not known.
    """

    name: str
    kind: str
    memory: int | None = None


class Runner(Protocol):
    """Takes jobs and delivers what becomes of their trials: what the controller sees."""

    def submit(self, job: Job) -> None:
        """Queues a job; its trials' events come with later polls."""

    def poll(self, timeout: float, deliver: Deliver) -> None:
        """Calls ``deliver`` for each event, as it arrives; see `Executor.poll`."""

    def stop(self, number: int) -> None:
        """Asks a trial to end early."""

    def rest(self) -> None:
        """Begins nothing more, and has each cohort give its device back after its epoch."""

    def busy(self) -> bool:
        """Whether a cohort is under way."""

    def abandon(self) -> None:
        """Leaves what is being evaluated as soon as that can be done; `shutdown` follows."""

    def shutdown(self) -> None:
        """Ends all workers at once; unfinished trials stay as their checkpoints are."""


class Executor(Protocol):
    """Runs jobs, somewhere. Used by one thread, the controller's."""

    def devices(self) -> tuple[Device, ...]:
        """Where jobs can run now; on a cluster they come and go."""

    def submit(self, job: Job, device: str | None = None) -> None:
        """Queues a job; its trials' events come with later polls.

        Args:
            job: what to run.
            device: the name of the device that runs it; ``None`` is the first that is idle. A
                device that has gone is as good as ``None``.
        """

    def leave(self, numbers: Collection[int]) -> None:
        """Asks the jobs of these trials to give their devices back.

        At the next epoch of such a job, or before it begins, all of its trials that have not ended
        are left as their checkpoints are, and each is delivered as `Yielded`.
        """

    def poll(self, timeout: float, deliver: Deliver) -> None:
        """Calls ``deliver`` for each event, as it arrives.

        Returns when something was delivered or ``timeout`` seconds have passed; an executor
        that works in this thread returns when a job has ended.

        Raises:
            RetiariiError: no worker can be started.
        """

    def stop(self, number: int) -> None:
        """Asks a trial to end early."""

    def abandon(self) -> None:
        """Leaves what is being evaluated as soon as that can be done; `shutdown` follows."""

    def shutdown(self) -> None:
        """Ends all workers at once; unfinished trials stay as their checkpoints are."""


class Leaving(BaseException):
    """Leaves an evaluator, past a user's ``except Exception``: trials stay as they are.

    A channel raises it when a trial looks whether to stop. That is after its checkpoint was
    written, and all trials that are trained together are at that epoch then.
    """


# A context within which trials are evaluated.
Around = Callable[[Sequence[Trial]], AbstractContextManager[Any]]


def run_job(
    job: Job,
    space: SearchSpace,
    evaluator: Evaluator,
    channel: Channel,
    around: Around = nullcontext,
) -> None:
    """Evaluates a job's trials; each of them ends with an event, whatever happens.

    Args:
        job: the trials.
        space: where their decisions lead.
        evaluator: what scores them.
        channel: where their events go.
        around: a context for each evaluation, of one trial or of several together.

    Raises:
        Leaving: the channel did.
    """
    trials = []
    for spec in job.trials:
        trial = _trial(spec, job.search_seed, space, channel)
        if trial is not None:
            trials.append(trial)
    together = [trials] if evaluator.merges else [[trial] for trial in trials]
    for cohort in together:
        if cohort:
            with around(cohort):
                _run(evaluator, cohort)


def _trial(spec: JobTrial, search_seed: int, space: SearchSpace, channel: Channel) -> Trial | None:
    nothing = Trial(spec.number, spec.seed, attempt=spec.attempt, channel=channel)
    with failures_end(nothing):
        point = spec.point if spec.point is not None else point_of(space, spec.raws)
        return Trial(
            spec.number,
            spec.seed,
            search_seed=search_seed,
            attempt=spec.attempt,
            decisions={d.label: d.value for d in point.decisions},
            candidate=point.candidate,
            hyperparameters=point.hyperparameters,
            directory=spec.directory,
            channel=channel,
            limit=spec.limit,
            parent=spec.parent,
        )
    return None


def _run(evaluator: Evaluator, cohort: Sequence[Trial]) -> None:
    try:
        evaluator.run(cohort)
    except Exception as error:
        for trial in cohort:
            if trial.outcome is None:
                trial.end_by(error)
    for trial in cohort:
        if trial.outcome is None:
            trial.fail("the evaluator returned without a score for this trial")
