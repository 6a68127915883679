"""What the controller itself costs: the real one, its store, and workers that are made up."""

from __future__ import annotations

import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import retiarii as rt
from retiarii.dispatch.adaptive import Adaptive
from retiarii.dispatch.dispatcher import Dispatcher
from retiarii.dispatch.fixed import AsGiven
from retiarii.runtime.executor import Deliver, Device, Yielded
from retiarii.runtime.job import Job
from retiarii.runtime.store import Store
from retiarii.search.explorer import Explorer
from retiarii.search.state import Settings
from retiarii.search_space import SearchSpace
from retiarii.strategies.registry import make_strategy
from retiarii.training.events import Finished, Reported, Started

_SEED = 0


@dataclass(frozen=True, slots=True)
class Control:
    """A search whose trials cost nothing.

    Attributes:
        policy, workers, trials, reports: what was run; reports are of each trial.
        milliseconds: of the processor, a trial.
        ask: milliseconds of those in the strategy, which proposes.
        memory: (trials done, MB of this process), as it went on.
        stored: bytes of the store, a trial, all included.
        metrics: bytes of those in metrics: names, numbers, and the rows that hold them.
    """

    policy: str
    workers: int
    trials: int
    reports: int
    milliseconds: float
    ask: float
    memory: tuple[tuple[int, float], ...]
    stored: float
    metrics: float


class _Idle:
    """An executor whose workers answer at once; in rounds, so that all of them are busy."""

    def __init__(self, workers: int, reports: int) -> None:
        self._devices = tuple(Device(f"node-{i // 8}/cuda:{i % 8}", "cuda") for i in range(workers))
        self._reports = reports
        self._jobs: deque[Job] = deque()
        self._leaving: set[int] = set()

    def devices(self) -> tuple[Device, ...]:
        return self._devices

    def submit(self, job: Job, device: str | None = None) -> None:
        del device
        self._jobs.append(job)

    def poll(self, timeout: float, deliver: Deliver) -> None:
        """One job from its start to its end: events come one by one, as from real workers."""
        del timeout
        if not self._jobs:
            return
        job = self._jobs.popleft()
        for trial in job.trials:
            deliver(Started(trial.number))
        for step in range(1, self._reports + 1):
            for trial in job.trials:
                deliver(Reported(trial.number, step, {"score": step + trial.seed % 97 / 97}))
        for trial in job.trials:
            if trial.number in self._leaving:
                self._leaving.discard(trial.number)
                deliver(Yielded(trial.number))
            else:
                score = trial.seed % 9973 / 9973
                deliver(Finished(trial.number, score, {"score": score}, False))

    def leave(self, numbers: Collection[int]) -> None:
        self._leaving.update(numbers)

    def stop(self, number: int) -> None:
        del number

    def abandon(self) -> None:
        self._jobs.clear()

    def shutdown(self) -> None:
        self._jobs.clear()


def control(trials: int, workers: int, reports: int, adapt: bool) -> Control:
    """A whole search: random proposals of six hyper-parameters, one trial for each worker."""
    evaluator = rt.Function(_never, hyperparameters=_hyperparameters())
    space = SearchSpace(None, evaluator.hyperparameters())
    strategy = make_strategy("random")
    strategy.begin(space, _SEED)
    asked = _timed(strategy)
    memory: list[tuple[int, float]] = []
    with tempfile.TemporaryDirectory(prefix="dispatch-") as folder:
        directory = Path(folder)
        store = Store.create(directory)
        policy = Adaptive(first=1) if adapt else AsGiven()
        dispatcher = Dispatcher(_Idle(workers, reports), policy, regroup=adapt)
        settings = Settings(
            trials=trials,
            window=workers,
            cohort=1,
            together=False,
            seed=_SEED,
            retries=1,
            metric="score",
            maximize=True,
            directory=directory,
        )
        every = max(1, trials // 10)

        def watch(progress: object) -> None:
            done = getattr(progress, "done", 0)
            if getattr(progress, "kind", "") == "trial" and done % every == 0:
                memory.append((done, _resident()))

        explorer = Explorer(strategy, store, dispatcher, settings, [watch])
        began = time.process_time()
        explorer.run()
        spent = time.process_time() - began
        store.close()
        stored, metrics = _sizes(directory / "search.db")
    name = "adaptive" if adapt else "as given"
    return Control(
        name,
        workers,
        trials,
        reports,
        1000 * spent / trials,
        1000 * asked[0] / trials,
        tuple(memory),
        stored / trials,
        metrics / trials,
    )


def _never(trial: rt.Trial) -> float:
    raise AssertionError(f"{trial} is evaluated")


def _hyperparameters() -> dict[str, object]:
    return {
        "lr": rt.loguniform(1e-4, 1.0),
        "momentum": rt.uniform(0.0, 0.99),
        "decay": rt.loguniform(1e-6, 1e-2),
        "batch": rt.choice([16, 32, 64, 128]),
        "layers": rt.randint(1, 8),
        "activation": rt.choice(["relu", "gelu", "silu"]),
    }


def _timed(strategy: object) -> list[float]:
    """Has the time of ``ask`` added up, in a list of one number."""
    spent, ask = [0.0], strategy.ask  # type: ignore[attr-defined]

    def timed(number: int) -> object:
        began = time.process_time()
        try:
            return ask(number)
        finally:
            spent[0] += time.process_time() - began

    strategy.ask = timed  # type: ignore[attr-defined]
    return spent


def _resident() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def _sizes(database: Path) -> tuple[int, int]:
    """Bytes of the store, and those of metrics in it."""
    connection = sqlite3.connect(database)
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        metrics = connection.execute("SELECT sum(length(metrics)) FROM trials").fetchone()[0]
        pages = "SELECT sum(pgsize) FROM dbstat WHERE name = 'steps'"
        try:
            metrics += connection.execute(pages).fetchone()[0]
        except sqlite3.OperationalError:  # a SQLite without dbstat
            steps = "SELECT sum(length(metrics) + 8) FROM steps"
            metrics += connection.execute(steps).fetchone()[0] or 0
    finally:
        connection.close()
    return database.stat().st_size, int(metrics)
