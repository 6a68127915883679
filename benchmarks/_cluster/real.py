"""A real search on this machine, and the same played: how far the simulation is off."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from _cluster.simulated import Length, Machine, Simulated
from retiarii.dispatch.dispatcher import Dispatcher
from retiarii.dispatch.fixed import AsGiven
from retiarii.experiment import Experiment
from retiarii.runtime.job import Job, JobTrial
from retiarii.runtime.progress import Progress
from retiarii.runtime.source import load_space_file
from retiarii.training.events import Finished, TrialEvent

# A small convolutional net, a mutator with 360 outcomes; the data ship with scikit-learn.
_SPACE = Path(__file__).parents[2] / "examples" / "digits" / "space.py"


@dataclass(frozen=True, slots=True)
class Check:
    """One real search against its simulation.

    Attributes:
        cohort: trials trained together.
        trials: how many there were.
        real: seconds from the first trial's start to the last one's end.
        played: the same, simulated from speeds that were measured on another search.
    """

    cohort: int
    trials: int
    real: float
    played: float

    @property
    def error(self) -> float:
        return self.played / self.real - 1


@dataclass(frozen=True, slots=True)
class _Run:
    """What was seen of a real search: when cohorts began, and each of their epochs."""

    seconds: float
    first: float  # median seconds of a cohort's first epoch
    epoch: float  # median seconds of each later one
    epochs: int
    lengths: tuple[int, ...]  # of the cohorts


def check(cohort: int, trials: int, say: Callable[[str], None]) -> Check:
    """Measures on one search (seed 1), and predicts another (seed 0)."""
    learnt = _search(cohort, min(trials, 2 * cohort), seed=1)
    run = _search(cohort, trials, seed=0)
    say(f"cohorts of {cohort}: an epoch takes {learnt.epoch:.2f} s, the first {learnt.first:.2f} s")
    return Check(cohort, trials, run.seconds, _played(run, learnt, cohort))


def _played(run: _Run, learnt: _Run, cohort: int) -> float:
    rates = {1: cohort / learnt.epoch / cohort, cohort: cohort / learnt.epoch}
    merging = (max(0.0, learnt.first - learnt.epoch), 0.0)
    machine = Machine("cpu", rates, merging, spread=0.0)
    executor = Simulated([(machine, 1)], lambda _: Length(run.epochs, 1.0, 0.0), seed=0)
    dispatcher = Dispatcher(executor, AsGiven(), clock=lambda: executor.now)
    number = 0
    for size in run.lengths:
        group = range(number, number + size)
        dispatcher.submit(Job(tuple(JobTrial(n, n, 0, (), None) for n in group), 0))
        number += size
    done = 0

    def deliver(event: TrialEvent) -> None:
        nonlocal done
        done += isinstance(event, Finished)

    while done < number:
        dispatcher.poll(1.0, deliver)
    return executor.now


def _search(cohort: int, trials: int, seed: int) -> _Run:
    """Runs a search in this process, and keeps the time."""
    loaded = load_space_file(_SPACE)
    begun: dict[int, float] = {}
    marks: dict[int, dict[int, float]] = {}
    last = started = time.perf_counter()

    def watch(progress: Progress) -> None:
        nonlocal last, started
        now = time.perf_counter()
        if progress.kind == "begin":
            started = now
        elif progress.kind == "step" and progress.trial is not None and progress.step is not None:
            group = progress.trial.id // cohort
            begun.setdefault(group, last)
            marks.setdefault(group, {}).setdefault(progress.step, now)
            last = now

    with tempfile.TemporaryDirectory() as place:
        result = Experiment(
            loaded.space,
            loaded.evaluator,
            "random",
            trials,
            Path(place) / "search",
            cohort=cohort,
            seed=seed,
            progress=watch,
            source=loaded,
        ).run()
    trained = [t for t in result.trials if t.same_as is None]
    sizes = [sum(t.id // cohort == group for t in trained) for group in sorted(marks)]
    firsts = [times[min(times)] - begun[group] for group, times in marks.items()]
    later = [
        times[step] - times[step - 1]
        for times in marks.values()
        for step in times
        if step - 1 in times
    ]
    return _Run(
        last - started,
        statistics.median(firsts),
        statistics.median(later),
        max(max(times) for times in marks.values()),
        tuple(size for size in sizes if size),
    )
