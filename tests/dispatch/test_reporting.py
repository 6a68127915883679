from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from retiarii.dispatch.adaptive import Adaptive
from retiarii.dispatch.dispatcher import Dispatcher
from retiarii.dispatch.reporting import Reporting
from retiarii.runtime.executor import Deliver, Device, Lost
from retiarii.runtime.job import Job, JobTrial
from retiarii.runtime.live import LiveCohort, read_live
from retiarii.training.events import Failed, Finished, Noted, Reported, Started, TrialEvent


@dataclass
class Played:
    """An executor whose events are given by the test, with a few seconds before each."""

    clock: list[float]
    coming: list[tuple[float, TrialEvent]] = field(default_factory=list)

    def devices(self) -> tuple[Device, ...]:
        return (Device("cuda:0", "gpu"), Device("cuda:1", "gpu"))

    def submit(self, job: Job, device: str | None = None) -> None: ...

    def poll(self, timeout: float, deliver: Deliver) -> None:
        coming, self.coming = self.coming, []
        for seconds, event in coming:
            self.clock[0] += seconds
            deliver(event)

    def leave(self, numbers: Collection[int]) -> None: ...

    def stop(self, number: int) -> None: ...

    def abandon(self) -> None: ...

    def shutdown(self) -> None: ...


class Play:
    def __init__(self, directory: Path) -> None:
        self.clock = [100.0]
        self.played = Played(self.clock)
        self.directory = directory
        inner = Dispatcher(
            self.played, Adaptive(first=2), regroup=True, clock=lambda: self.clock[0]
        )
        self.reporting = Reporting(inner, directory, "search", clock=lambda: self.clock[0])
        self.told: list[TrialEvent] = []

    def submit(self, *numbers: int, attempt: int = 0) -> None:
        place = self.directory / "trials"
        trials = tuple(JobTrial(n, n, attempt, (), place / str(n)) for n in numbers)
        self.reporting.submit(Job(trials, 0))

    def turn(self, *events: tuple[float, TrialEvent]) -> None:
        self.played.coming += events
        self.reporting.poll(0.0, self.told.append)

    def log(self, number: int) -> list[str]:
        path = self.directory / "logs" / f"trial-{number:05d}.log"
        if not path.exists():
            return []
        return [line.split(" ", 2)[-1] for line in path.read_text().splitlines()]


def test_what_is_going_on_is_written_once_a_second(tmp_path: Path) -> None:
    play = Play(tmp_path)
    play.submit(*range(6))
    play.turn()
    first = read_live(tmp_path)
    assert first is not None
    assert first.cohorts == (
        LiveCohort("cuda:0", 2, "0-1", (0, 0), 0.0, None, False),
        LiveCohort("cuda:1", 2, "2-3", (0, 0), 0.0, None, False),
    )
    assert (first.waiting, first.next) == (2, (4, 5))
    play.turn((0.75, Started(0)), (0.0, Started(1)))
    assert read_live(tmp_path) == first
    play.turn(
        (2.0, Reported(0, 1, {})),
        (0.0, Reported(1, 1, {})),
        (0.5, Reported(0, 2, {})),
        (0.0, Reported(1, 2, {})),
        (1.0, Finished(2, 1.0, {})),
    )
    second = read_live(tmp_path)
    assert second is not None
    assert second.seconds == 4.25
    assert second.cohorts[0] == LiveCohort("cuda:0", 2, "0-1", (2, 2), 4.25, 4.0, False)
    play.turn((1.0, Noted(3, "so")))
    third = read_live(tmp_path)
    assert third is not None
    assert third.cohorts[1].trials == "3"
    assert len(play.told) == 8
    play.reporting.shutdown()
    assert read_live(tmp_path) is None


def test_a_trials_log(tmp_path: Path) -> None:
    play = Play(tmp_path)
    play.submit(0, 1)
    play.turn()
    play.turn((0.0, Noted(0, "a cohort of 2")), (0.0, Failed(0, "no", "Traceback\n  so")))
    play.submit(0, attempt=1)
    play.turn((0.0, Lost(1, "its worker died")), (0.0, Finished(0, 1.0, {})))
    assert play.log(0) == [
        "a cohort of 2", "failed: no", "Traceback", "so", "attempt 2, from another seed"
    ]  # fmt: skip
    assert play.log(1) == ["lost: its worker died"]
    assert not (tmp_path / "logs" / "trial-00002.log").exists()


def test_an_event_of_a_trial_that_has_ended_is_passed_on(tmp_path: Path) -> None:
    play = Play(tmp_path)
    play.submit(0)
    play.turn()
    play.turn((0.0, Finished(0, 1.0, {})), (0.0, Noted(0, "late")))
    assert [type(e) for e in play.told] == [Finished, Noted]
    assert play.log(0) == []
