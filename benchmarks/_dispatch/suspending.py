"""How long a cohort takes to give its device back, and to go on."""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from retiarii.runtime.executor import Yielded
from retiarii.runtime.job import Job, JobTrial
from retiarii.runtime.local import LocalExecutor
from retiarii.runtime.source import FileSource, load_space_file
from retiarii.search_space import SearchSpace
from retiarii.strategies.registry import make_strategy
from retiarii.training.events import Failed, Reported, TrialEvent

_SPACE = Path(__file__).parents[2] / "examples" / "digits" / "space.py"
_PATIENCE_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Suspension:
    """One cohort of small models that leaves, and goes on.

    Attributes:
        trials: how many are trained together.
        epoch: median seconds of an epoch.
        leave: seconds from `Executor.leave` to the last `Yielded`, the epoch at hand included.
        back: seconds from the new launch to the first report of a new epoch, which is included.
    """

    trials: int
    epoch: float
    leave: float
    back: float

    @property
    def suspending(self) -> float:
        """Seconds of `leave` beyond the epoch that was at hand."""
        return max(0.0, self.leave - self.epoch)

    @property
    def resuming(self) -> float:
        """Seconds of `back` beyond the epoch."""
        return max(0.0, self.back - self.epoch)


def suspend(trials: int) -> Suspension:
    """A cohort of the digits example, in a worker process; it leaves after its third epoch."""
    loaded = load_space_file(_SPACE)
    space = SearchSpace(loaded.space, loaded.evaluator.hyperparameters())
    strategy = make_strategy("random")
    strategy.begin(space, 0)
    points = [strategy.ask(number) for number in range(trials)]
    with tempfile.TemporaryDirectory(prefix="dispatch-") as folder:
        specs = tuple(
            JobTrial(n, n, 0, point.raws, Path(folder) / "trials" / str(n))
            for n, point in enumerate(points)
            if point is not None
        )
        executor = LocalExecutor(FileSource(_SPACE, loaded.digest), 1)
        try:
            return _measure(executor, Job(specs, 0))
        finally:
            executor.shutdown()


def _measure(executor: LocalExecutor, job: Job) -> Suspension:
    numbers = {trial.number for trial in job.trials}
    ends: dict[int, float] = {}  # epoch -> when all had reported it
    reported: dict[int, set[int]] = {}
    yielded: set[int] = set()
    asked = 0.0
    deadline = time.monotonic() + _PATIENCE_SECONDS

    def deliver(event: TrialEvent) -> None:
        nonlocal asked
        if isinstance(event, Failed):
            raise RuntimeError(event.message)
        if isinstance(event, Yielded):
            yielded.add(event.number)
        if isinstance(event, Reported):
            reported.setdefault(event.step, set()).add(event.number)
            if reported[event.step] == numbers and event.step not in ends:
                ends[event.step] = time.monotonic()
                if event.step == 3:
                    asked = time.monotonic()
                    executor.leave(numbers)

    executor.submit(job)
    while yielded != numbers:
        if time.monotonic() > deadline:
            raise RuntimeError(f"the cohort did not leave; epochs that ended: {sorted(ends)}")
        executor.poll(0.2, deliver)
    left = time.monotonic()
    last = max(ends)
    executor.submit(job)
    while max(ends) == last:
        if time.monotonic() > deadline:
            raise RuntimeError("the cohort did not go on")
        executor.poll(0.2, deliver)
    back = ends[max(ends)] - left
    epochs = [ends[e + 1] - ends[e] for e in range(1, last) if e + 1 in ends]
    return Suspension(len(numbers), statistics.median(epochs), left - asked, back)
