"""A made-up search that is played through a dispatcher: who trains what, and how it went."""

from __future__ import annotations

import heapq
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from _cluster.simulated import Length, Machine, Simulated
from retiarii.dispatch.dispatcher import Dispatcher
from retiarii.dispatch.state import Policy
from retiarii.runtime.executor import Lost
from retiarii.runtime.job import Job, JobTrial
from retiarii.training.events import Finished, TrialEvent

_TURN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Search:
    """A search to play.

    Attributes:
        trials: how many.
        epochs: of a trial that is not stopped.
        stopped: the share of trials that end early, at an epoch drawn evenly.
        cohort: how many are proposed together.
        window: how many cohorts are proposed before the first has its results; 0: all at once.
        families: how many kinds of trials there are that cannot be trained together.
        architectures: how many different models there are; trials of equal ones are drawn as
            often as the first of a long tail.
        seed: of everything in it.
    """

    trials: int
    epochs: int = 12
    stopped: float = 0.5
    cohort: int = 16
    window: int = 0
    families: int = 1
    architectures: int = 1000
    seed: int = 0

    def lengths(self) -> list[Length]:
        """How each trial goes."""
        draw = random.Random(f"{self.seed} lengths")
        found = []
        for _ in range(self.trials):
            early = draw.random() < self.stopped
            epochs = draw.randint(1, self.epochs - 1) if early else self.epochs
            found.append(Length(epochs, draw.lognormvariate(0.0, 0.3), draw.betavariate(8, 3)))
        return found

    def kin(self, number: int, *, equal: bool) -> int:
        """Trials of equal kin may be trained together: of one family, or of one architecture."""
        draw = random.Random(f"{self.seed} {number}")
        family = draw.randrange(self.families)
        if not equal:
            return family
        return int(self.architectures ** draw.random())


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a search went.

    Attributes:
        makespan: seconds until all trials had ended.
        best: seconds until the best trial had.
        utilisation: the share of device time, until then, in which models were trained.
        wasted: the share of trial-epochs that were trained and lost.
        lost: how many times a trial lost its device.
        control: seconds of real time that the dispatcher took for a trial.
        twice: trials that ended more than once; there must be none.
    """

    makespan: float
    best: float
    utilisation: float
    wasted: float
    lost: int
    control: float
    twice: int


def play(
    search: Search,
    machines: Sequence[tuple[Machine, int]],
    policy: Policy,
    *,
    equal: bool = False,
    regroup: bool = True,
) -> Outcome:
    """Plays a search through a dispatcher with a policy.

    Args:
        search: what is searched.
        machines: on what.
        policy: who decides.
        equal: whether only equal architectures can be trained together.
        regroup: whether trials of different proposals can.
    """
    lengths = search.lengths()
    devices = sum(count for _, count in machines)
    executor = Simulated(machines, lengths.__getitem__, search.seed)
    dispatcher = Dispatcher(executor, policy, regroup=regroup, clock=lambda: executor.now)
    ended: dict[int, float] = {}
    twice = lost = 0
    again: list[int] = []

    def deliver(event: TrialEvent) -> None:
        nonlocal twice, lost
        if isinstance(event, Finished):
            twice += event.number in ended
            ended[event.number] = executor.now
            heapq.heappush(free, event.number)
        elif isinstance(event, Lost):
            lost += 1
            again.append(event.number)

    free: list[int] = []  # results, by number
    settled = proposed = 0
    began = time.perf_counter()
    while len(ended) < search.trials:
        while free and free[0] == settled:
            heapq.heappop(free)
            settled += 1
        ahead = (settled // search.cohort + search.window) * search.cohort
        limit = min(search.trials, ahead) if search.window else search.trials
        while proposed < limit:
            group = range(proposed, min(proposed + search.cohort, search.trials))
            _submit(dispatcher, search, group, equal)
            proposed = group.stop
        for number in again:
            _submit(dispatcher, search, [number], equal)
        again.clear()
        dispatcher.poll(_TURN_SECONDS, deliver)
    control = (time.perf_counter() - began) / search.trials
    needed = sum(length.epochs for length in lengths)
    busy = sum(executor.measured.busy.values())
    best = max(
        range(search.trials), key=lambda n: lengths[n].score * (lengths[n].epochs >= search.epochs)
    )
    return Outcome(
        executor.now,
        ended[best],
        busy / (executor.now * devices),
        1 - needed / executor.measured.trained,
        lost,
        control,
        twice,
    )


def _submit(dispatcher: Dispatcher, search: Search, numbers: Sequence[int], equal: bool) -> None:
    """Hands trials in, those that may be trained together as one job."""
    together: dict[int, list[int]] = {}
    for number in numbers:
        together.setdefault(search.kin(number, equal=equal), []).append(number)
    for kin, group in together.items():
        trials = tuple(JobTrial(n, n, 0, (), None) for n in group)
        dispatcher.submit(Job(trials, search_seed=kin))
