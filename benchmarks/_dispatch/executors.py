"""What executors cost: their start, each cohort, and what more workers gain."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from retiarii.dispatch.dispatcher import Dispatcher
from retiarii.dispatch.fixed import AsGiven
from retiarii.runtime.executor import Executor
from retiarii.runtime.inline import InlineExecutor
from retiarii.runtime.job import Job, JobTrial
from retiarii.runtime.local import LocalExecutor
from retiarii.runtime.source import FileSource, load_space_file
from retiarii.search_space import SearchSpace
from retiarii.training.events import Failed, Finished, Started, TrialEvent

_HERE = Path(__file__).parent
_COHORT = 16
_PATIENCE_SECONDS = 120.0

Make = Callable[[Path, Path, int], Executor]


def _inline(file: Path, directory: Path, workers: int) -> Executor:
    del directory, workers
    loaded = load_space_file(file)
    space = SearchSpace(loaded.space, loaded.evaluator.hyperparameters())
    return InlineExecutor(space, loaded.evaluator)


def _local(file: Path, directory: Path, workers: int) -> Executor:
    del directory
    return LocalExecutor(FileSource(file, load_space_file(file).digest), workers)


def _ray(file: Path, directory: Path, workers: int) -> Executor:
    from retiarii.runtime.cluster.executor import RayExecutor

    source = FileSource(file, load_space_file(file).digest)
    return RayExecutor(source, directory, workers=workers)


EXECUTORS: dict[str, Make] = {"inline": _inline, "local": _local, "ray": _ray}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one executor costs.

    Attributes:
        executor: its name.
        start: seconds from its making to the first trial's start.
        seconds: of each cohort, between the ends of two.
        asked: seconds that a cohort's own work takes.
        over: the median of those against inline's, as a part of it; `None` for inline.
    """

    executor: str
    start: float
    seconds: tuple[float, ...]
    asked: float
    over: float | None


def costs(names: list[str], cohorts: int, seconds: float) -> list[Cost]:
    """Cohorts of 16 trials, one after the other, with five reports each, on each executor."""
    found: list[Cost] = []
    base: float | None = None
    with _environment(RETIARII_BENCH_SECONDS=str(seconds)):
        for name in names:
            start, ends = _one_by_one(EXECUTORS[name], cohorts)
            each = tuple(later - earlier for earlier, later in pairwise(ends))
            median = statistics.median(each)
            base = median if base is None else base
            over = None if name == "inline" else median / base - 1
            found.append(Cost(name, start, each, seconds, over))
    return found


def _one_by_one(make: Make, cohorts: int) -> tuple[float, list[float]]:
    with tempfile.TemporaryDirectory(prefix="dispatch-") as folder:
        directory = Path(folder)
        began = time.monotonic()
        executor = make(_HERE / "sleeping.py", directory, 1)
        try:
            started: list[float] = []
            ends: list[float] = []
            # The first is to warm up: its end begins the measuring.
            dispatcher = Dispatcher(executor, AsGiven())
            for index in range(cohorts + 1):
                group = range(index * _COHORT, (index + 1) * _COHORT)
                dispatcher.submit(Job(tuple(_trial(n, directory) for n in group), 0))
            left = _COHORT * (cohorts + 1)

            def deliver(event: TrialEvent) -> None:
                nonlocal left
                if isinstance(event, Started) and not started:
                    started.append(time.monotonic())
                if isinstance(event, Failed):
                    raise RuntimeError(event.message)
                if isinstance(event, Finished):
                    left -= 1
                    if left % _COHORT == 0:
                        ends.append(time.monotonic())

            deadline = time.monotonic() + _PATIENCE_SECONDS
            while left:
                if time.monotonic() > deadline:
                    raise RuntimeError("an executor did not end its cohorts")
                dispatcher.poll(0.2, deliver)
        finally:
            executor.shutdown()
        return started[0] - began, ends


def _trial(number: int, directory: Path) -> JobTrial:
    place = directory / "trials" / str(number)
    return JobTrial(number, number, 0, (("x", number % 1000),), place)


@dataclass(frozen=True, slots=True)
class Scaling:
    """Trials that compute on one core each, with so many workers.

    Attributes:
        workers: how many.
        seconds: from the first trial's start, all workers being up, to the last one's end.
        speedup: against one worker.
    """

    workers: int
    seconds: float
    speedup: float


def scaling(workers: list[int], trials: int, rounds: int) -> list[Scaling]:
    """The same trials on more and more workers of this machine."""
    found: list[Scaling] = []
    with _environment(RETIARII_BENCH_ROUNDS=str(rounds)):
        for count in workers:
            seconds = _all_at_once(count, trials)
            first = found[0].seconds if found else seconds
            found.append(Scaling(count, seconds, first / seconds))
    return found


def _all_at_once(workers: int, trials: int) -> float:
    with tempfile.TemporaryDirectory(prefix="dispatch-") as folder:
        directory = Path(folder)
        executor = _local(_HERE / "computing.py", directory, workers)
        try:
            # As many trials as workers, first, so that all of them are up.
            _run(executor, range(workers), directory)
            began = time.monotonic()
            _run(executor, range(workers, workers + trials), directory)
            return time.monotonic() - began
        finally:
            executor.shutdown()


def _run(executor: Executor, numbers: range, directory: Path) -> None:
    left = set(numbers)
    for number in numbers:
        raws = (("x", number % 999),)
        executor.submit(Job((JobTrial(number, number, 0, raws, directory / str(number)),), 0))

    def deliver(event: TrialEvent) -> None:
        if isinstance(event, Failed):
            raise RuntimeError(event.message)
        if isinstance(event, Finished):
            left.discard(event.number)

    while left:
        executor.poll(0.5, deliver)


@contextmanager
def _environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
