"""`Experiment`: a search, from what the user gives to a `Result`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

from retiarii.dispatch.start import EXECUTORS, Ground, Hardware, make_dispatcher
from retiarii.errors import (
    ObjectiveError,
)
from retiarii.objectives.wanted import Aimed, Wanted
from retiarii.result import Result, memory_result, stored_result
from retiarii.runtime.cluster.need import Need
from retiarii.runtime.helpers import evaluator_helpers
from retiarii.runtime.identity import check_same, normal
from retiarii.runtime.lock import DirectoryLock
from retiarii.runtime.place import DATABASE, make_directory
from retiarii.runtime.progress import Watcher
from retiarii.runtime.source import Loaded
from retiarii.runtime.store import Store
from retiarii.schedulers.base import Scheduler, Setting
from retiarii.schedulers.registry import check_strategy
from retiarii.search.arguments import check_type, one_of, scheduler_of, strategy_of, whole
from retiarii.search.beginning import Beginning, Wish, make_wish, read_beginning
from retiarii.search.budget import make_budget
from retiarii.search.confirming import confirm
from retiarii.search.continuing import Asked, begin
from retiarii.search.explorer import Explorer
from retiarii.search.preparing import prepare
from retiarii.search.state import Settings
from retiarii.search.undo import Undo
from retiarii.search_space import SearchSpace
from retiarii.space import ModelSpace
from retiarii.strategies.base import Strategy
from retiarii.strategies.registry import DEFAULT_STRATEGY
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
        strategy: a name with options (``"random"``, ``"predictor,initial=20"``), or a strategy;
            ``None`` is ``predictor``, unless the scheduler has its own (``bohb`` has ``tpe``).
        trials: how many trials, those included that turn out to be the same model as an earlier
            one. A larger number extends a stored search.
        directory: where the search is kept; ``None`` keeps nothing beyond the `Result`.
        executor: ``inline`` (in this process, breakpoints work), ``local`` (worker processes of
            this machine, one a GPU) or ``ray`` (a cluster; see ``address``). A search may go on
            with another one.
        fuse: ``auto`` or ``off``: whether trials may be trained as one merged program. It makes no
            difference to which trials there are, and none but rounding to their scores.
        seed: everything random follows from it.
        retries: how often a trial that failed is tried again, with another seed.
        workers: how many cohorts are under way at once; ``None``: as many as the executor has
            devices when the search begins. Part of what a search is, as ``cohort`` is: proposals
            depend on how many results are known by then.
        cohort: how many trials are proposed, and where the evaluator can do so trained, together;
            ``None`` is 16 for an evaluator that trains merged programs, and 1 for others.
            ``"auto"`` proposes as many, and trains as many together as is fastest by what is
            measured: the trials are the same, their scores so up to rounding.
        scheduler: what stops trials early, a name with options (``"asha"``, ``"asha,eta=4"``,
            ``hyperband``, ``bohb``, ``median``, ``curve``), or a scheduler; ``None`` stops none.
        budget: how long the search may take, earlier runs on its directory included: seconds, or
            ``"2h"``, ``"1h30m"``. What is under way then stays as it is, and a larger budget goes
            on from there; so with the next two.
        total_epochs: how many epochs all trials may have together (reports, of a function).
        target: the score at which the search ends.
        continue_from: the directory of an earlier search. Its finished trials come first: those of
            the same model, hyper-parameters and evaluator keep their scores and are not trained
            again, beside the ``trials`` of this search; of the others, the best are evaluated
            first. Read once: a search that resumes does not look there again.
        confirm: after the search, the best few are trained so often again, each time from another
            seed, and the best is the one with the best mean. 0 takes the best score as it is.
        objectives: name -> ``"max"`` or ``"min"``: metrics that trials report, and ``params``,
            ``flops``, ``activation_memory``, ``model_size``, ``latency`` and zero-cost proxies,
            which are measured. ``Result.pareto`` has the trials that no other is better than.
        constraints: what models must keep to, before they are trained: ``["params <= 1e6"]``.
        prefilter: a zero-cost proxy, such as ``"naswot,times=4"``: so many times as many points
            are proposed, and the best by the proxy are trained.
        warm_start: likewise, of the first cohort alone.
        address: of a Ray cluster, such as ``"10.0.0.1:6379"``; ``None`` is what RAY_ADDRESS says,
            or a cluster on this machine alone.
        need: what each worker takes of a cluster's node.
        progress: called with a `Progress` at each step of the search; one, or several.
        source: the file that ``space`` and ``evaluator`` were loaded from, so that workers load
            it too.

    Raises:
        RetiariiError: an argument is of the wrong type or out of range.
        StrategyError: no such strategy.
        SchedulerError: no such scheduler.
        ObjectiveError: objectives, constraints or proxies that are not written right.
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
        workers: int | None = None,
        cohort: int | Literal["auto"] | None = None,
        *,
        scheduler: str | Scheduler | None = None,
        budget: str | float | None = None,
        total_epochs: int | None = None,
        target: float | None = None,
        continue_from: str | Path | None = None,
        confirm: int = 0,
        objectives: Mapping[str, str] | str | None = None,
        constraints: Sequence[str] | str | None = None,
        prefilter: str | None = None,
        warm_start: str | None = None,
        address: str | None = None,
        need: Need | None = None,
        progress: Watcher | Sequence[Watcher] | None = None,
        source: Loaded | None = None,
    ) -> None:
        check_type("space", space, (ModelSpace, type(None)), "rt.ModelSpace(...), or None")
        check_type("evaluator", evaluator, (Evaluator,), "rt.Supervised(...) or rt.Function(...)")
        self._model = space
        self._evaluator = evaluator
        check_type("directory", directory, (str, Path, type(None)), "a path, or None")
        self._scheduler = None if scheduler is None else scheduler_of(scheduler)
        self._strategy = strategy_of(check_strategy(strategy, self._scheduler) or DEFAULT_STRATEGY)
        self._budget = make_budget(total_epochs, budget, target)
        check_type("continue_from", continue_from, (str, Path, type(None)), "a path, or None")
        self._earlier = None if continue_from is None else Path(continue_from)
        self._confirm = whole("confirm", confirm, 0)
        self._wishes: list[Wish] = []
        self._wanted = Wanted.of(objectives, constraints, prefilter, warm_start)
        self._trials = whole("trials", trials, 1)
        self._directory = None if directory is None else Path(directory)
        self._executor = one_of("executor", executor, list(EXECUTORS))
        self._fuse = one_of("fuse", fuse, ["auto", "off"])
        self._seed = whole("seed", seed, None)
        self._retries = whole("retries", retries, 0)
        self._workers = None if workers is None else whole("workers", workers, 1)
        usual = _COHORT if evaluator.merges else 1
        self._cohort = usual if cohort in (None, "auto") else whole("cohort", cohort, 1)
        self._on = Hardware(
            self._executor,
            self._workers,
            self._cohort,
            adapt=cohort == "auto",
            address=address,
            need=need,
        )
        watchers = () if progress is None else progress
        if not callable(watchers):
            check_type("progress", watchers, (Sequence,), "a function of one Progress, or several")
        self._watchers = (watchers,) if callable(watchers) else tuple(watchers)
        self._source = source

    def enqueue(self, decisions: Mapping[str, Any]) -> None:
        """Has a candidate evaluated before all that the strategy proposes.

        Decisions that are left out are drawn. Enqueued again on the same directory, it is not
        evaluated again; enqueued for a search that has begun, it is the next trial.

        Args:
            decisions: label -> value, of the model and of hyper-parameters, as in
                `TrialResult.decisions`.

        Raises:
            SpaceError: a value is none of the options, or nothing asks for a label.
            InfeasibleError: no model follows from them.
        """
        space = SearchSpace(self._model, self._evaluator.hyperparameters())
        self._wishes.append(make_wish(space, decisions, self._seed, self._wishes))

    def run(self) -> Result:
        """Searches, and answers what was found. Ctrl-C ends it early, with what is finished.

        Raises:
            InfeasibleError: no decisions were found that lead to a model.
            EvaluatorError: data, loss, metric or optimizer cannot be used as given.
            StoreError: the directory is in use, not writable, full, or of another search.
            StrategyError: the strategy cannot search this space.
            SchedulerError: the scheduler lacks what it goes by.
            ObjectiveError: an objective that nothing measures and no trial reports.
            RetiariiError: worker processes cannot be started.
        """
        aimed = self._aimed = Aimed(
            self._wanted,
            self._evaluator,
            modelled=self._model is not None,
            cohort=self._cohort,
            seed=self._seed,
        )
        space = SearchSpace(self._model, self._evaluator.hyperparameters(), aimed.limits)
        self._evaluator.validate(self._model)
        if self._model is not None:
            self._model.sample(self._seed)
        aimed.probe(space, self._directory)
        self._prepare(self._workers or 1)
        strategy = self._proposing = aimed.strategy(self._strategy)
        strategy.begin(space, self._seed)
        if self._scheduler is not None:
            evaluator = self._evaluator
            self._scheduler.begin(Setting(self._cohort, evaluator.longest, evaluator.pauses))
        with ExitStack() as stack:
            store, directory, lock = self._open(stack)
            aimed.attach(store)
            held = None if lock is None else lock.fileno()
            ground = Ground(self._model, space, self._evaluator, self._source, directory, held)
            make = partial(make_dispatcher, self._on, ground)
            # A search that goes on keeps its window, whatever it runs on now.
            window = self._workers or store.meta("window")
            dispatcher = None
            if window is None:
                dispatcher = make()
                stack.callback(dispatcher.shutdown)
                window = max(1, len(dispatcher.devices()))
            if window != (self._workers or 1):
                self._prepare(window)
            beginning = self._remember(store, space, directory, window)
            dispatcher = dispatcher or make()
            settings = Settings(
                trials=beginning.carried + self._trials,
                window=window,
                cohort=self._cohort,
                together=self._fuse == "auto" and self._evaluator.merges,
                seed=self._seed,
                retries=self._retries,
                metric=self._evaluator.metric,
                maximize=self._evaluator.maximize,
                directory=directory,
                scheduler=self._scheduler,
                pauses=self._evaluator.pauses,
                gentle=self._evaluator.pauses,
                budget=self._budget,
                beginning=beginning,
                aims=aimed.aims,
            )
            try:
                ended = Explorer(strategy, store, dispatcher, settings, self._watchers).run()
            except ObjectiveError:  # found with the first trial: the search has not begun
                store.forget()
                raise
            if self._confirm and ended != "interrupted":
                again = confirm(
                    store,
                    space,
                    settings,
                    self._confirm,
                    partial(make, "confirm"),
                    self._watchers,
                )
                if again == "interrupted":
                    store.set_meta(ended=again)
            if lock is not None:
                return stored_result(directory, store, space)
            kept = stack.pop_all()
            return memory_result(directory, store, space, kept.close)

    # -- inside

    def _prepare(self, window: int) -> None:
        asked = {
            "confirm": self._confirm,
            "prefilter": self._wanted.prefilter,
            "warm_start": self._wanted.warm_start,
        }
        together = (self._cohort, window)
        prepare(self._strategy, self._evaluator, self._scheduler, together, asked)

    def _open(self, stack: ExitStack) -> tuple[Store, Path, DirectoryLock | None]:
        if self._directory is None:
            place = Path(tempfile.mkdtemp(prefix="retiarii-"))
            stack.callback(shutil.rmtree, place, ignore_errors=True)
            store = Store.memory()
            stack.callback(store.close)
            return store, place, None
        made = not self._directory.exists()
        directory = make_directory(self._directory)
        lock = DirectoryLock(directory)
        stack.callback(lock.release)
        new = not (directory / DATABASE).exists()
        store = Store.create(directory)
        stack.callback(store.close)
        if new:
            stack.push(Undo(directory, made, store))
        return store, directory, lock

    def _remember(
        self, store: Store, space: SearchSpace, directory: Path, window: int
    ) -> Beginning:
        """Writes down what the search is, or checks that it is what was written down.

        Raises:
            StoreError: the directory holds another search.
            RetiariiError: it cannot begin as it is asked to.
        """
        facts = normal(self._facts(space, window))
        before = store.meta("identity")
        if before is not None and store.count():
            check_same(before, facts, str(directory))
        begin(store, space, self._asked(), directory)
        beginning = read_beginning(store, space)
        source = self._source
        store.set_meta(
            identity=facts,
            trials=max(beginning.carried + self._trials, store.meta("trials", 0)),
            space=self._space_name(),
            file=None if source is None else str(source.path),
            strategy=self._strategy.name,
            scheduler=None if self._scheduler is None else self._scheduler.name,
            metric=self._evaluator.metric,
            maximize=self._evaluator.maximize,
            window=window,
            ended=None,
            **self._aimed.facts(),
        )
        return beginning

    def _asked(self) -> Asked:
        definitions = {} if self._source is None else self._source.definitions
        helpers: frozenset[str] = frozenset()
        if self._source is not None and self._earlier is not None:
            helpers = evaluator_helpers(self._source.path, self._evaluator.describe())
        return Asked(
            self._wishes,
            self._earlier,
            self._evaluator,
            definitions,
            helpers,
            self._trials,
            self._seed,
        )

    def _facts(self, space: SearchSpace, window: int) -> dict[str, Any]:
        # Without one it is left out: earlier versions knew of none.
        stops = {} if self._scheduler is None else {"scheduler": self._scheduler.describe()}
        return {
            "seed": self._seed,
            "strategy": self._proposing.describe(),
            **stops,
            **self._aimed.describe(),
            "workers": window,
            "cohort": self._cohort,
            "retries": self._retries,
            "fuse": self._fuse,
            "evaluator": self._evaluator.describe(),
            "space": space.describe(),
            "file": {} if self._source is None else self._source.definitions,
        }

    def _space_name(self) -> str:
        if self._source is not None:
            return str(self._source.path)
        return "hyper-parameters" if self._model is None else type(self._model).__name__
