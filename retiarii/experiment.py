"""`Experiment`: a search, from what the user gives to a `Result`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from retiarii.budget import make_budget
from retiarii.errors import RetiariiError, SchedulerError, StrategyError, nearest
from retiarii.explorer import Explorer
from retiarii.result import Result, memory_result, stored_result
from retiarii.runtime.executor import Executor
from retiarii.runtime.identity import check_same, normal
from retiarii.runtime.lock import DirectoryLock
from retiarii.runtime.place import make_directory
from retiarii.runtime.progress import Watcher
from retiarii.runtime.source import FileSource, Loaded
from retiarii.runtime.store import Store
from retiarii.schedulers.base import Scheduler, Setting
from retiarii.schedulers.registry import check_strategy, make_scheduler
from retiarii.search_space import SearchSpace
from retiarii.search_state import Settings
from retiarii.space import ModelSpace
from retiarii.strategies.base import Strategy
from retiarii.strategies.registry import make_strategy
from retiarii.training.evaluator import Evaluator

# How many trials are proposed together, where they can be trained together.
_COHORT = 16


class Experiment:
    """A search.

    The same experiment on the same directory resumes: what is finished is kept, what was running
    goes on from its checkpoint, and the outcome is that of a search that was never stopped.

    Args:
        space: the models; ``None`` to search the evaluator's hyper-parameters alone.
        evaluator: how a candidate is scored.
        strategy: a name (``random``, ``grid``, ``evolution``), or a strategy; ``None`` is
            ``evolution``, unless the scheduler has its own (``bohb`` has ``tpe``).
        trials: how many trials, those included that turn out to be the same model as an earlier
            one. A larger number extends a stored search.
        directory: where the search is kept; ``None`` keeps nothing beyond the `Result`.
        executor: ``inline`` (in this process, breakpoints work) or ``local`` (worker processes).
        fuse: ``auto`` or ``off``: whether trials may be trained as one merged program. It makes no
            difference to which trials there are, and none but rounding to their scores.
        seed: everything random follows from it.
        retries: how often a trial that failed is tried again, with another seed.
        workers: how many cohorts are under way at once. Part of what a search is, as ``cohort`` is:
            proposals depend on how many results are known by then.
        cohort: how many trials are proposed, and where the evaluator can do so trained, together;
            ``None`` is 16 for an evaluator that trains merged programs, and 1 for others.
        scheduler: what stops trials early, a name with options (``"asha"``, ``"asha,eta=4"``,
            ``hyperband``, ``bohb``, ``median``, ``curve``), or a scheduler; ``None`` stops none.
        budget: how long the search may take, earlier runs on its directory included: seconds, or
            ``"2h"``, ``"1h30m"``. What is under way then stays as it is, and a larger budget goes
            on from there; so with the next two.
        total_epochs: how many epochs all trials may have together (reports, of a function).
        target: the score at which the search ends.
        progress: called with a `Progress` at each step of the search; one, or several.
        source: the file that ``space`` and ``evaluator`` were loaded from, so that workers load
            it too.

    Raises:
        RetiariiError: an argument is of the wrong type or out of range.
        StrategyError: no such strategy.
        SchedulerError: no such scheduler.
    """

    def __init__(
        self,
        space: ModelSpace | None,
        evaluator: Evaluator,
        strategy: str | Strategy | None = None,
        trials: int = 64,
        directory: str | Path | None = None,
        executor: str = "inline",
        fuse: str = "auto",
        seed: int = 0,
        retries: int = 1,
        workers: int = 1,
        cohort: int | None = None,
        *,
        scheduler: str | Scheduler | None = None,
        budget: str | float | None = None,
        total_epochs: int | None = None,
        target: float | None = None,
        progress: Watcher | Sequence[Watcher] | None = None,
        source: Loaded | None = None,
    ) -> None:
        _check_type("space", space, (ModelSpace, type(None)), "rt.ModelSpace(...), or None")
        _check_type("evaluator", evaluator, (Evaluator,), "rt.Supervised(...) or rt.Function(...)")
        self._model = space
        self._evaluator = evaluator
        _check_type("directory", directory, (str, Path, type(None)), "a path, or None")
        self._scheduler = None if scheduler is None else _scheduler(scheduler)
        self._strategy = _strategy(check_strategy(strategy, self._scheduler) or "evolution")
        self._budget = make_budget(total_epochs, budget, target)
        self._trials = _whole("trials", trials, 1)
        self._directory = None if directory is None else Path(directory)
        self._executor = _one_of("executor", executor, list(_Executors.table))
        self._fuse = _one_of("fuse", fuse, ["auto", "off"])
        self._seed = _whole("seed", seed, None)
        self._retries = _whole("retries", retries, 0)
        self._workers = _whole("workers", workers, 1)
        usual = _COHORT if evaluator.merges else 1
        self._cohort = usual if cohort is None else _whole("cohort", cohort, 1)
        watchers = () if progress is None else progress
        if not callable(watchers):
            _check_type("progress", watchers, (Sequence,), "a function of one Progress, or several")
        self._watchers = (watchers,) if callable(watchers) else tuple(watchers)
        self._source = source

    def run(self) -> Result:
        """Searches, and answers what was found. Ctrl-C ends it early, with what is finished.

        Raises:
            InfeasibleError: no decisions were found that lead to a model.
            EvaluatorError: data, loss, metric or optimizer cannot be used as given.
            StoreError: the directory is in use, not writable, full, or of another search.
            StrategyError: the strategy cannot search this space.
            SchedulerError: the scheduler lacks what it goes by.
            RetiariiError: worker processes cannot be started.
        """
        space = SearchSpace(self._model, self._evaluator.hyperparameters())
        self._evaluator.validate(self._model)
        if self._model is not None:
            self._model.sample(self._seed)
        self._strategy.begin(space, self._seed)
        if self._scheduler is not None:
            evaluator = self._evaluator
            self._scheduler.begin(Setting(self._cohort, evaluator.longest, evaluator.pauses))
        with ExitStack() as stack:
            store, directory, lock = self._open(stack)
            self._remember(store, space, directory)
            executor = _Executors.table[self._executor](self, space, lock)
            settings = Settings(
                trials=self._trials,
                window=self._workers,
                cohort=self._cohort,
                together=self._fuse == "auto" and self._evaluator.merges,
                seed=self._seed,
                retries=self._retries,
                metric=self._evaluator.metric,
                maximize=self._evaluator.maximize,
                directory=directory,
                scheduler=self._scheduler,
                pauses=self._evaluator.pauses,
                budget=self._budget,
            )
            Explorer(self._strategy, store, executor, settings, self._watchers).run()
            if lock is not None:
                return stored_result(directory, store, space)
            kept = stack.pop_all()
            return memory_result(directory, store, space, kept.close)

    # -- inside

    def _open(self, stack: ExitStack) -> tuple[Store, Path, DirectoryLock | None]:
        if self._directory is None:
            place = Path(tempfile.mkdtemp(prefix="retiarii-"))
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            store = Store.memory()
            stack.callback(store.close)
            return store, place, None
        directory = make_directory(self._directory)
        lock = DirectoryLock(directory)
        stack.callback(lock.release)
        store = Store.create(directory)
        stack.callback(store.close)
        return store, directory, lock

    def _remember(self, store: Store, space: SearchSpace, directory: Path) -> None:
        """Writes down what the search is, or checks that it is what was written down.

        Raises:
            StoreError: the directory holds another search.
        """
        facts = normal(self._facts(space))
        before = store.meta("identity")
        if before is not None and store.count():
            check_same(before, facts, str(directory))
        source = self._source
        store.set_meta(
            identity=facts,
            trials=max(self._trials, store.meta("trials", 0)),
            space=self._space_name(),
            file=None if source is None else str(source.path),
            strategy=self._strategy.name,
            scheduler=None if self._scheduler is None else self._scheduler.name,
            metric=self._evaluator.metric,
            maximize=self._evaluator.maximize,
            ended=None,
        )

    def _facts(self, space: SearchSpace) -> dict[str, Any]:
        # Without one it is left out: earlier versions knew of none.
        stops = {} if self._scheduler is None else {"scheduler": self._scheduler.describe()}
        return {
            "seed": self._seed,
            "strategy": self._strategy.describe(),
            **stops,
            "workers": self._workers,
            "cohort": self._cohort,
            "retries": self._retries,
            "fuse": self._fuse,
            "executor": self._executor,
            "evaluator": self._evaluator.describe(),
            "space": space.describe(),
            "file": {} if self._source is None else self._source.definitions,
        }

    def _space_name(self) -> str:
        if self._source is not None:
            return str(self._source.path)
        return "hyper-parameters" if self._model is None else type(self._model).__name__

    def _inline(self, space: SearchSpace, lock: DirectoryLock | None) -> Executor:
        from retiarii.runtime.inline import InlineExecutor

        del lock
        return InlineExecutor(space, self._evaluator)

    def _local(self, space: SearchSpace, lock: DirectoryLock | None) -> Executor:
        from retiarii.runtime.local import LocalExecutor
        from retiarii.runtime.packing import memory_source

        del space
        held = None if lock is None else lock.fileno()
        if self._source is not None:
            source = FileSource(self._source.path, self._source.digest)
            return LocalExecutor(source, self._workers, held)
        return LocalExecutor(memory_source(self._model, self._evaluator), self._workers, held)


class _Executors:
    table: ClassVar[
        Mapping[str, Callable[[Experiment, SearchSpace, DirectoryLock | None], Executor]]
    ] = MappingProxyType({"inline": Experiment._inline, "local": Experiment._local})


def _check_type(name: str, value: Any, kinds: tuple[type, ...], make: str) -> None:
    if not isinstance(value, kinds):
        raise RetiariiError(
            f"{name} is a {type(value).__name__}",
            where=f"Experiment({name}=...)",
            fix=f"use {make}",
        )


def _strategy(spec: str | Strategy) -> Strategy:
    try:
        return make_strategy(spec)
    except StrategyError as error:
        where = error.where or "Experiment(strategy=...)"
        raise StrategyError(error.cause, where=where, fix=error.fix) from error


def _scheduler(spec: str | Scheduler) -> Scheduler:
    try:
        return make_scheduler(spec)
    except SchedulerError as error:
        where = error.where or "Experiment(scheduler=...)"
        raise SchedulerError(error.cause, where=where, fix=error.fix) from error


def _whole(name: str, value: Any, least: int | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        problem = "must be a whole number"
    elif least is not None and value < least:
        problem = f"must be at least {least}"
    else:
        return value
    raise RetiariiError(
        f"{name} {problem}, not {value!r}",
        where=f"Experiment({name}=...)",
        fix=f"give {least} or more" if least is not None else "give a whole number",
    )


def _one_of(name: str, value: Any, known: list[str]) -> str:
    if isinstance(value, str) and value in known:
        return value
    raise RetiariiError(
        f"{name}={value!r} is unknown",
        where=f"Experiment({name}=...)",
        fix=f"use one of {', '.join(known)}"
        + (f"; nearest: {nearest(value, known)}" if isinstance(value, str) else ""),
    )
