"""Trains the best few of a search again, from other seeds, before one of them is called the best.

The best of many scores is in part the luckiest. These trainings are a search of their own, in
``DIR/confirm``, over a list of trials instead of a strategy's proposals: so they are trained in
cohorts, resumed and retried as all others are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from retiarii.runtime.executor import Runner
from retiarii.runtime.job import point_of
from retiarii.runtime.place import make_directory
from retiarii.runtime.progress import Progress, Watcher
from retiarii.runtime.rows import TrialRow
from retiarii.runtime.schema import TERMINAL
from retiarii.runtime.store import Store
from retiarii.search.budget import Budget, Ended
from retiarii.search.confirmed import RUNS, SCORES, SEEDS, leaders
from retiarii.search.explorer import Explorer
from retiarii.search.state import Settings
from retiarii.seeding import derive
from retiarii.strategies.base import Strategy

if TYPE_CHECKING:
    from retiarii.search_space import Point, SearchSpace

FOLDER = "confirm"


class _Again(Strategy):
    """Proposes trials of a search once more."""

    name: ClassVar[str] = "confirm"

    def __init__(self, points: Callable[[int], Point | None]) -> None:
        self._points = points

    def ask(self, number: int) -> Point | None:
        return self._points(number)


def confirm(
    store: Store,
    space: SearchSpace,
    settings: Settings,
    seeds: int,
    executor: Callable[[], Runner],
    watchers: Sequence[Watcher],
) -> Ended:
    """Trains the best few trials of a finished search, each from ``seeds`` other seeds.

    What was trained before is kept. All see the same batches in the same order, which is not that
    of the search, so that they are trained together and compared on equal terms.

    Args:
        store: of the search; holds its trials, and takes the scores.
        settings: of the search.
        executor: makes what runs the trials.

    Returns:
        ``interrupted`` after Ctrl-C, else ``trials``.

    Raises:
        RetiariiError: as `Explorer.run`.
    """
    top = leaders(store.rows(), settings.maximize)
    if not top:
        return "trials"
    runs = [(int(trial), int(run)) for trial, run in store.meta(RUNS, [])]
    listed = set(runs)
    runs += [(n, run) for n in top for run in range(seeds) if (n, run) not in listed]
    store.set_meta(**{RUNS: runs, SEEDS: seeds})
    points: dict[int, Point] = {}

    def point(number: int) -> Point | None:
        if number >= len(runs):
            return None
        trial = runs[number][0]
        if trial not in points:
            row = store.row(trial)
            assert row is not None
            points[trial] = point_of(space, row.raws)
        return points[trial]

    def seed(own: int, number: int, attempt: int) -> int:
        trial, run = runs[number]
        return derive(own, "trial", trial, run, attempt)

    directory = settings.directory / FOLDER
    again = replace(
        settings,
        trials=len(runs),
        seed=derive(settings.seed, "confirm"),
        directory=directory,
        scheduler=None,
        pauses=False,
        budget=Budget(),
        beginning=None,
        aims=None,
        seeds=seed,
        repeats=True,
    )
    told = _Telling(store, runs, seeds, settings.metric, watchers)
    told.note(f"confirming: the best {len(top)} are trained from {seeds} seeds each")
    with closing(_store(store, directory)) as own:
        for row in own.rows():
            told.take(row)
        return Explorer(_Again(point), own, executor(), again, [told]).run()


def _store(store: Store, directory: Path) -> Store:
    if store.in_memory:
        return Store.memory()
    return Store.create(make_directory(directory))


class _Telling:
    """Writes down how trainings end, and tells it to whoever watches the search."""

    def __init__(
        self,
        store: Store,
        runs: Sequence[tuple[int, int]],
        seeds: int,
        metric: str,
        watchers: Sequence[Watcher],
    ) -> None:
        self._store = store
        self._runs = runs
        self._seeds = seeds
        self._metric = metric
        self._watchers = watchers
        self._ended: dict[int, float | None] = {}

    def take(self, row: TrialRow) -> None:
        """Takes note of a training, if it has ended."""
        if row.state in TERMINAL:
            self._ended[row.id] = row.score if row.state == "complete" else None

    def __call__(self, progress: Progress) -> None:
        row = progress.trial
        if progress.kind == "trial" and row is not None:
            self.take(row)
            self._store.set_meta(**{SCORES: self._ended})
            trial, run = self._runs[row.id]
            how = f"failed: {row.error}" if row.score is None else f"{self._metric} {row.score:.5g}"
            self.note(f"confirming trial {trial}, seed {run + 1} of {self._seeds}: {how}")

    def note(self, text: str) -> None:
        for watcher in self._watchers:
            watcher(Progress("note", 0, 0, 0, 0, 0.0, note=text))
