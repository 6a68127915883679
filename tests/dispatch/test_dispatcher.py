"""The dispatcher over an executor of the test's own: what goes where, and what comes back."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

from retiarii.dispatch.adaptive import Adaptive
from retiarii.dispatch.dispatcher import Dispatcher
from retiarii.dispatch.fixed import AsGiven
from retiarii.dispatch.state import Launch, Leave, Policy, State
from retiarii.runtime.executor import Deliver, Device, Lost, Yielded
from retiarii.runtime.job import Job, JobTrial
from retiarii.training.events import Failed, Finished, Noted, Reported, TrialEvent


@dataclass
class Played:
    """An executor that does what the test says."""

    count: int = 2
    jobs: list[tuple[str | None, tuple[int, ...]]] = field(default_factory=list)
    left: list[tuple[int, ...]] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    coming: list[TrialEvent] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def devices(self) -> tuple[Device, ...]:
        return tuple(Device(f"cuda:{i}", "gpu") for i in range(self.count))

    def submit(self, job: Job, device: str | None = None) -> None:
        self.jobs.append((device, tuple(t.number for t in job.trials)))

    def poll(self, timeout: float, deliver: Deliver) -> None:
        coming, self.coming = self.coming, []
        for event in coming:
            deliver(event)

    def leave(self, numbers: Collection[int]) -> None:
        self.left.append(tuple(numbers))

    def stop(self, number: int) -> None:
        self.stopped.append(number)

    def abandon(self) -> None:
        self.ended.append("abandon")

    def shutdown(self) -> None:
        self.ended.append("shutdown")


class Play:
    """A dispatcher, its executor, a clock, and what the controller was told."""

    def __init__(self, policy: Policy, count: int = 2, regroup: bool = True) -> None:
        self.now = 0.0
        self.played = Played(count)
        self.told: list[TrialEvent] = []
        self.dispatcher = Dispatcher(self.played, policy, regroup=regroup, clock=lambda: self.now)

    def submit(self, *numbers: int, alone: bool = False) -> None:
        trials = tuple(JobTrial(n, n, 0, (), None) for n in numbers)
        self.dispatcher.submit(Job(trials, 0, alone=alone))

    def turn(self, *events: TrialEvent, seconds: float = 0.0) -> None:
        self.now += seconds
        self.played.coming += events
        self.dispatcher.poll(0.0, self.told.append)


def finished(*numbers: int) -> list[TrialEvent]:
    return [Finished(n, 1.0, {}) for n in numbers]


def test_jobs_as_given() -> None:
    play = Play(AsGiven(), regroup=False)
    play.submit(0, 1, 2)
    play.submit(3, 4)
    play.submit(5, alone=True)
    play.turn()
    assert play.played.jobs == [("cuda:0", (0, 1, 2)), ("cuda:1", (3, 4))]
    play.turn(*finished(0, 2))
    assert len(play.played.jobs) == 2
    play.turn(*finished(1))
    play.turn()
    assert play.played.jobs[2:] == [("cuda:0", (5,))]
    assert [e.number for e in play.told] == [0, 2, 1]


def test_one_model_a_device() -> None:
    play = Play(AsGiven(most=1))
    play.submit(0, 1, 2)
    play.turn(*finished())
    assert play.played.jobs == [("cuda:0", (0,)), ("cuda:1", (1,))]


def test_trials_of_different_jobs_are_trained_together() -> None:
    play = Play(Adaptive(first=4), count=1)
    play.submit(0, 1)
    play.submit(2, 3)
    play.submit(4, alone=True)
    play.turn()
    assert play.played.jobs == [("cuda:0", (0, 1, 2, 3))]


def test_speeds_are_learnt_from_whole_epochs() -> None:
    play = Play(Adaptive(first=2), count=1)
    play.submit(0, 1, 2, 3, 4, 5)
    play.turn()
    assert play.played.jobs == [("cuda:0", (0, 1))]
    play.turn(*(Reported(n, 1, {}) for n in (0, 1)), seconds=5.0)
    assert play.dispatcher.speeds.rate("gpu", 2) is None  # the first one merges, too
    play.turn(*(Reported(n, 2, {}) for n in (0, 1)), seconds=0.5)
    assert play.dispatcher.speeds.rate("gpu", 2) == 4.0
    # With a trial gone in between it is an epoch of neither size.
    play.turn(Finished(0, 1.0, {}), seconds=1.0)
    play.turn(Reported(1, 3, {}), seconds=1.0)
    assert play.dispatcher.speeds.rate("gpu", 2) == 4.0
    assert play.dispatcher.speeds.rates["gpu"].keys() == {2}
    play.turn(*finished(1))
    play.turn()
    assert play.played.jobs[-1] == ("cuda:0", (2, 3, 4, 5))


def test_a_cohort_that_leaves_waits_again_and_nobody_is_told() -> None:
    def once(state: State) -> tuple[Launch | Leave, ...]:
        if state.now == 7.0 and len(state.running) == 1 and not state.running[0].leaving:
            return (Leave(state.running[0].job, "so"),)
        return Adaptive(first=8)(state) if not state.running else ()

    play = Play(once, count=1)
    play.submit(0, 1, 2)
    play.turn()
    play.submit(3, 4)
    play.turn(Finished(1, 1.0, {}), seconds=6.0)
    play.turn(seconds=1.0)
    assert play.played.left == [(0, 2)]
    (running,) = play.dispatcher.state().running
    assert running.leaving
    play.dispatcher.stop(2)
    play.turn(Yielded(0), Yielded(2), seconds=1.0)
    play.turn()
    assert play.played.jobs[-1] == ("cuda:0", (3, 4, 0, 2))
    assert play.played.stopped == [2, 2]  # it is asked again where it is now
    begun = {w.number: w.begun for w in play.dispatcher.state().waiting}
    assert begun == {}
    assert [type(e) for e in play.told] == [Finished]


def test_what_ends_otherwise() -> None:
    play = Play(Adaptive(first=4), count=1)
    play.submit(0, 1, 2)
    play.turn()
    play.turn(Failed(0, "no"), Lost(1, "gone"), Noted(2, "small", fits=2))
    assert [type(e) for e in play.told] == [Failed, Lost, Noted]
    assert play.dispatcher.state().fits == {"gpu": 2}
    play.submit(1, alone=True)
    play.submit(5, 6, 7)
    play.turn(*finished(2))
    play.turn()
    assert play.played.jobs[-1] == ("cuda:0", (1,))
    play.turn(*finished(1))
    play.turn()
    assert play.played.jobs[-1] == ("cuda:0", (5, 6))


def test_devices_come_and_go() -> None:
    play = Play(Adaptive(first=1), count=0)
    play.submit(0, 1)
    play.turn()
    assert play.played.jobs == []
    play.played.count = 2
    play.turn(seconds=2.0)
    assert play.played.jobs == [("cuda:0", (0,)), ("cuda:1", (1,))]


def test_at_rest_nothing_begins_and_all_are_asked_once() -> None:
    play = Play(Adaptive(first=2))
    play.submit(0, 1, 2, 3, 4)
    play.turn()
    assert play.dispatcher.busy()
    assert play.dispatcher.waiting() == 1
    play.dispatcher.rest()
    play.dispatcher.rest()
    assert play.played.left == [(0, 1), (2, 3)]
    launched = len(play.played.jobs)
    play.turn(Yielded(0), Yielded(1), Finished(2, 1.0, {}), seconds=2.0)
    assert play.dispatcher.busy()
    play.turn(Yielded(3), seconds=2.0)
    play.turn(seconds=2.0)
    assert not play.dispatcher.busy()
    assert play.dispatcher.waiting() == 4
    assert len(play.played.jobs) == launched
    assert [e.number for e in play.told] == [2]


def test_ending() -> None:
    play = Play(Adaptive())
    play.submit(0)
    play.dispatcher.abandon()
    play.turn()
    play.dispatcher.shutdown()
    assert play.played.jobs == []
    assert play.played.ended == ["abandon", "shutdown"]
