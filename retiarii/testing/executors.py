"""What every executor must do, as a test suite to subclass."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, TypeVar

import pytest

from retiarii.runtime.executor import Executor, Lost, Yielded
from retiarii.runtime.inline import InlineExecutor
from retiarii.runtime.job import Job, JobTrial
from retiarii.runtime.source import load_space_file
from retiarii.search_space import SearchSpace
from retiarii.training.events import Failed, Finished, Reported, Started, TrialEvent

# An evaluator that trains nothing, keeps checkpoints, and notes each epoch that it runs. What
# it computes follows from the trial's seed and decisions, and from the checkpoint before.
_SPACE = """
import json, os, time
from pathlib import Path
from retiarii.mutators.choice import choice
from retiarii.seeding import derive
from retiarii.training.checkpoint import write_atomic
from retiarii.training.evaluator import Evaluator

EPOCHS = 5
PAUSE = 0.02


class Epochs(Evaluator):
    metric = "accuracy"
    maximize = True
    merges = True
    pauses = True

    def hyperparameters(self):
        return {
            "op": choice(["add", "break", "die", "print"], "op"),
            "width": choice(list(range(9)), "width"),
        }

    def describe(self):
        return {"kind": "epochs", "epochs": EPOCHS}

    def run(self, cohort):
        running = [self.train(trial) for trial in cohort]
        while running:
            running = [each for each in running if next(each, "done") != "done"]

    def train(self, trial):
        trial.start()
        file = trial.directory / "state.json"
        begun = file if file.exists() or trial.parent is None else trial.parent / "state.json"
        history = json.loads(begun.read_text()) if begun.exists() else []
        for epoch, value in enumerate(history, 1):
            trial.report(epoch, accuracy=value)
        op = trial.decisions["op"]
        while len(history) < EPOCHS:
            if history and trial.should_stop():
                trial.finish(history[-1], stopped=True)
                return
            time.sleep(PAUSE)
            epoch = len(history) + 1
            if epoch == 3 and op == "break":
                trial.fail("ValueError: as decided", "the trace")
                return
            if epoch == 3 and op == "die":
                os._exit(7)
            if op == "print":
                print("to nobody")
            gain = derive(trial.seed, epoch, trial.decisions["width"]) % 1000 / 4000
            history.append(gain + (history[-1] if history else 0.0))
            write_atomic(file, json.dumps(history).encode())
            trial.report(epoch, accuracy=history[-1])
            yield
        trial.finish(history[-1], {"accuracy": history[-1]})


space = None
evaluator = Epochs()
"""
_OPS = ("add", "break", "die", "print")
_EPOCHS = 5
_PATIENCE_SECONDS = 120.0

Event = TypeVar("Event", bound=TrialEvent)


class _Told:
    """An executor, and the events that it has delivered."""

    def __init__(self, executor: Executor, directory: Path) -> None:
        self.executor = executor
        self.directory = directory
        self.events: list[TrialEvent] = []

    def job(self, *numbers: int, op: str = "add", asks: bool = False) -> Job:
        """A job of trials, whose widths are their numbers."""
        return Job(
            tuple(
                JobTrial(
                    n,
                    seed=n,
                    attempt=0,
                    raws=(("op", _OPS.index(op)), ("width", n)),
                    directory=self.directory / "trials" / str(n),
                )
                for n in numbers
            ),
            search_seed=0,
            asks=asks,
        )

    def until(self, fits: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not fits():
            assert time.monotonic() < deadline, f"waited in vain; so far: {self.events}"
            self.executor.poll(0.2, self.events.append)

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def ended(self, *numbers: int) -> None:
        """Waits until these trials have a score, or failed."""
        self.until(lambda: {e.number for e in self.events if _ends(e)} >= set(numbers))

    def score(self, number: int) -> float:
        return next(e.score for e in self.of(Finished) if e.number == number)


class ExecutorConformance:
    """Subclass it, and give the executor::

        class TestMine(ExecutorConformance):
            @classmethod
            def make(cls, space_file, directory):
                return MyExecutor(space_file, directory)

    Attributes:
        works_in_poll: whether ``poll`` runs a job to its end in this thread, so that nothing can
            be asked of it meanwhile but from what is delivered.
        survives: whether a trial that ends its process leaves the executor alive.
    """

    works_in_poll: ClassVar[bool] = False
    survives: ClassVar[bool] = True

    @classmethod
    def make(cls, space_file: Path, directory: Path) -> Executor:
        """An executor with at least one device for what ``space_file`` holds."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def home(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder with a space file, ``project/space.py``, and the search's, ``search``."""
        home = tmp_path_factory.mktemp("executor")
        (home / "search").mkdir()
        file = home / "project" / "space.py"
        file.parent.mkdir()
        file.write_text(_SPACE)
        return home

    @pytest.fixture(scope="class")
    @classmethod
    def executor(cls, home: Path) -> Iterator[Executor]:
        """The executor under test; its tests share it, since workers take a while to start."""
        executor = cls.make(home / "project" / "space.py", home / "search")
        yield executor
        executor.shutdown()

    @pytest.fixture
    def told(self, executor: Executor, home: Path) -> _Told:
        """The executor, with a directory for this test's trials."""
        return _Told(executor, Path(tempfile.mkdtemp(dir=home / "search")))

    def test_devices_have_names_of_their_own(self, told: _Told) -> None:
        names = [device.name for device in told.executor.devices()]
        assert names
        assert len(names) == len(set(names))

    def test_a_trial_from_its_start_to_its_end(self, told: _Told) -> None:
        told.executor.submit(told.job(3))
        told.ended(3)
        assert [type(e) for e in told.events] == [Started, *[Reported] * _EPOCHS, Finished]
        assert [e.step for e in told.of(Reported)] == list(range(1, _EPOCHS + 1))
        assert told.score(3) == told.of(Reported)[-1].metrics["accuracy"]
        assert (told.directory / "trials" / "3" / "state.json").is_file()

    def test_jobs_one_after_the_other_on_a_named_device(self, told: _Told) -> None:
        name = told.executor.devices()[-1].name
        for number in range(3):
            told.executor.submit(told.job(number), name)
        told.executor.submit(told.job(3), "a device that has gone")
        told.ended(0, 1, 2, 3)
        first = [e.number for e in told.of(Finished) if e.number < 3]
        assert first == [0, 1, 2]

    def test_failures_are_of_one_trial(self, told: _Told) -> None:
        told.executor.submit(told.job(0, 1))
        told.executor.submit(told.job(2, op="break"))
        told.executor.submit(Job((JobTrial(4, 0, 0, (("nonsense", 0),), told.directory / "4"),), 0))
        told.executor.submit(told.job(5, op="print"))
        told.ended(0, 1, 2, 4, 5)
        assert {e.number for e in told.of(Failed)} == {2, 4}
        failed = {e.number: e for e in told.of(Failed)}
        assert "as decided" in failed[2].message
        assert failed[2].traceback == "the trace"
        assert "nonsense" in failed[4].message

    def test_a_trial_that_was_begun_goes_on(self, told: _Told) -> None:
        """From its checkpoint; what it had reported is reported again, equal."""
        told.executor.submit(told.job(1))
        told.ended(1)
        whole = told.score(1)
        place = told.directory / "trials" / "1" / "state.json"
        values = [e.metrics["accuracy"] for e in told.of(Reported)]
        place.write_text(repr(values[:2]))
        told.events.clear()
        told.executor.submit(told.job(1))
        told.ended(1)
        assert [e.metrics["accuracy"] for e in told.of(Reported)] == values
        assert told.score(1) == whole
        assert place.read_text() == repr(values)

    def test_a_trial_goes_on_from_the_checkpoint_of_another(self, told: _Told) -> None:
        told.executor.submit(told.job(1))
        told.ended(1)
        begun = told.directory / "trials" / "1" / "state.json"
        values = [e.metrics["accuracy"] for e in told.of(Reported)]
        begun.write_text(repr(values[:4]))
        told.events.clear()
        job = told.job(2)
        told.executor.submit(
            replace(job, trials=(replace(job.trials[0], parent=begun.parent),)), None
        )
        told.ended(2)
        assert [e.metrics["accuracy"] for e in told.of(Reported)][:4] == values[:4]
        assert (told.directory / "trials" / "2" / "state.json").is_file()
        assert begun.read_text() == repr(values[:4])

    def test_stop(self, told: _Told) -> None:
        """A trial that is asked before it begins, and the others of its job, which are not."""
        told.executor.submit(told.job(0, 1))
        told.executor.stop(1)
        told.ended(0, 1)
        stopped = {e.number: e.stopped for e in told.of(Finished)}
        assert stopped == {0: False, 1: True}
        # Given again, it is not stopped any more.
        told.events.clear()
        told.executor.submit(told.job(1))
        told.ended(1)
        assert [e.stopped for e in told.of(Finished)] == [False]

    def test_a_trial_that_asks_waits_for_the_answer(self, told: _Told) -> None:
        """What is decided on a report holds for the very next epoch."""
        told.executor.submit(told.job(0, 1, asks=True))

        def deliver(event: TrialEvent) -> None:
            told.events.append(event)
            if isinstance(event, Reported) and (event.number, event.step) == (1, 2):
                told.executor.stop(1)

        deadline = time.monotonic() + _PATIENCE_SECONDS
        while len(told.of(Finished)) < 2:
            assert time.monotonic() < deadline
            told.executor.poll(0.2, deliver)
        assert [e.step for e in told.of(Reported) if e.number == 1] == [1, 2]
        assert {e.number: e.stopped for e in told.of(Finished)} == {0: False, 1: True}

    def test_a_job_gives_its_device_back(self, told: _Told) -> None:
        """Then its trials go on in other jobs; no epoch is run twice, no score is another."""
        told.executor.submit(told.job(0, 1, 2))

        def deliver(event: TrialEvent) -> None:
            told.events.append(event)
            if len(told.of(Reported)) == 4:
                told.executor.leave({1})

        deadline = time.monotonic() + _PATIENCE_SECONDS
        while len(told.of(Yielded)) < 3:
            assert time.monotonic() < deadline, told.events
            told.executor.poll(0.2, deliver)
        assert {e.number for e in told.of(Yielded)} == {0, 1, 2}
        assert not told.of(Finished)
        before = {(e.number, e.step): e.metrics["accuracy"] for e in told.of(Reported)}
        told.executor.submit(told.job(1))
        told.executor.submit(told.job(2, 0))
        told.ended(0, 1, 2)
        after: dict[tuple[int, int], float] = {}
        for event in told.of(Reported):
            value = event.metrics["accuracy"]
            assert after.setdefault((event.number, event.step), value) == value
        assert before.items() <= after.items()
        assert len(after) == 3 * _EPOCHS

    def test_a_job_that_gives_its_device_back_before_it_begins(self, told: _Told) -> None:
        """Nothing of it is evaluated; the job before it, which was not asked, ends as usual."""
        name = told.executor.devices()[0].name
        told.executor.submit(told.job(0), name)
        told.executor.submit(told.job(1, 2), name)
        told.executor.leave({2})
        told.until(lambda: len(told.of(Yielded)) == 2)
        told.ended(0)
        assert {e.number for e in told.of(Yielded)} == {1, 2}
        assert {e.number for e in told.of(Started)} == {0}
        told.executor.submit(told.job(1, 2), name)
        told.ended(1, 2)

    def test_a_worker_that_dies(self, told: _Told) -> None:
        """Its trials are lost, not ended; the next job finds another worker."""
        if not self.survives:
            pytest.skip("trials run in this process")
        told.executor.submit(told.job(0, op="die"))
        told.until(lambda: bool(told.of(Lost)))
        assert [e.number for e in told.of(Lost)] == [0]
        assert not told.of(Finished)
        assert [e.step for e in told.of(Reported)] == [1, 2]
        told.executor.submit(told.job(1))
        told.ended(1)

    def test_scores_are_those_of_this_process(
        self, told: _Told, home: Path, tmp_path: Path
    ) -> None:
        """Scores do not depend on which executor gave them."""
        told.executor.submit(told.job(2, 4))
        told.ended(2, 4)
        loaded = load_space_file(home / "project" / "space.py")
        space = SearchSpace(loaded.space, loaded.evaluator.hyperparameters())
        other = _Told(InlineExecutor(space, loaded.evaluator), tmp_path)
        other.executor.submit(other.job(2, 4))
        other.ended(2, 4)
        assert [other.score(n) for n in (2, 4)] == [told.score(n) for n in (2, 4)]

    def test_the_end(self, told: _Told) -> None:
        """Nothing more is delivered; what was checkpointed is still there. It is the last test."""
        told.executor.submit(told.job(0, 1))
        told.executor.submit(told.job(2))

        def deliver(event: TrialEvent) -> None:
            told.events.append(event)
            if len(told.of(Reported)) == 3:
                told.executor.abandon()

        deadline = time.monotonic() + _PATIENCE_SECONDS
        while len(told.of(Reported)) < 3:
            assert time.monotonic() < deadline
            told.executor.poll(0.2, deliver)
        told.executor.shutdown()
        count = len(told.events)
        told.executor.poll(0.0, told.events.append)
        assert len(told.events) == count
        assert not [e for e in told.of(Finished) if e.number == 0]
        assert (told.directory / "trials" / "0" / "state.json").is_file()


def _ends(event: TrialEvent) -> bool:
    return isinstance(event, Finished | Failed)
