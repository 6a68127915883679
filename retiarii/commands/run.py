"""``retiarii run``: searches a space, or goes on with a search."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from retiarii.commands.common import (
    Debug,
    Json,
    command_line,
    tells_errors,
)
from retiarii.commands.concluding import conclude
from retiarii.commands.placement import EXECUTOR, check_placement
from retiarii.errors import InfeasibleError, RetiariiError, SchedulerError, StrategyError
from retiarii.objectives.wanted import Wanted

if TYPE_CHECKING:
    from retiarii.result import Result
    from retiarii.runtime.source import Loaded

_DEFAULTS: dict[str, Any] = {
    "strategy": None,
    "scheduler": None,
    "budget": None,
    "total_epochs": None,
    "target": None,
    "trials": 64,
    "seed": 0,
    "fuse": "auto",
    "retries": 1,
    "workers": None,
    "cohort": None,
    "executor": None,
    "address": None,
    "cpus_per_worker": None,
    "gpus_per_worker": None,
    "continue_from": None,
    "confirm": 0,
    "enqueue": None,
    "objectives": None,
    "constraints": None,
    "prefilter": None,
    "warm_start": None,
}
# Options that `Experiment` is given in another form.
_ELSEWHERE = frozenset({"enqueue", "cpus_per_worker", "gpus_per_worker"})


@tells_errors
def run(
    space: Annotated[
        Path,
        typer.Argument(
            metavar="SPACE.PY",
            help="A file that defines `space` and `evaluator`.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Where the search is kept. (default: runs/ and the name of the folder)",
            show_default=False,
        ),
    ] = None,
    strategy: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help='predictor, local, random, ... with options: "predictor,initial=20"; or '
            "module:Class for your own. (default: predictor; tpe with --scheduler bohb)",
            show_default=False,
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What stops trials early: asha, hyperband, bohb, median, curve, or module:Class; "
            'with options: "asha,eta=4,grace=2". (default: nothing does)',
            show_default=False,
        ),
    ] = None,
    trials: Annotated[
        int, typer.Option(help="How many trials; a larger number extends a search.")
    ] = _DEFAULTS["trials"],
    budget: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="How long the search may take, such as 2h or 1h30m; a larger one goes on.",
            show_default=False,
        ),
    ] = None,
    total_epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="How many epochs all trials may have together; a larger number goes on.",
            show_default=False,
        ),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE", help="The score at which the search ends.", show_default=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Everything random follows from it.")] = _DEFAULTS[
        "seed"
    ],
    fuse: Annotated[
        Literal["auto", "off"],
        typer.Option(help="Whether trials may be trained as one merged program."),
    ] = "auto",
    retries: Annotated[
        int, typer.Option(help="How often a failed trial is tried again.")
    ] = _DEFAULTS["retries"],
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="How many cohorts (or trials, where none are trained together) run at once. "
            "(default: one on each GPU, or one on the CPU)",
            show_default=False,
        ),
    ] = None,
    cohort: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="How many trials are proposed and trained together; auto trains as many together "
            "as is fastest. (default: 16, or 1 for an evaluator that trains none together)",
            show_default=False,
        ),
    ] = None,
    executor: Annotated[
        Literal["inline", "local", "ray"] | None,
        typer.Option(
            help="In worker processes of this machine, on a Ray cluster, or in this process. "
            f"(default: the variable {EXECUTOR}, or local)",
            show_default=False,
        ),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="Of the Ray cluster. (default: the variable RAY_ADDRESS, or a cluster on this "
            "machine alone)",
            show_default=False,
        ),
    ] = None,
    cpus_per_worker: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="CPUs that a worker takes of a Ray node. (default: an even share)",
            show_default=False,
        ),
    ] = None,
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="GPUs that a worker takes of a Ray node; 0.5 puts two on one. (default: 1 where "
            "there are any)",
            show_default=False,
        ),
    ] = None,
    continue_from: Annotated[
        Path | None,
        typer.Option(
            metavar="OLD",
            help="Begin with what an earlier search in this directory has found.",
            show_default=False,
        ),
    ] = None,
    enqueue: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.json",
            help="Candidates to evaluate first: a list of decisions by label; what they leave out "
            "is drawn.",
            show_default=False,
        ),
    ] = None,
    confirm: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Train the best 5 again from N seeds each, and name the one with the best mean.",
            show_default=False,
        ),
    ] = _DEFAULTS["confirm"],
    objectives: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=max|min,...",
            help="Several objectives: metrics that trials report; params, flops, "
            "activation_memory, model_size, latency, predicted_latency, which are measured "
            "(latency@1:cpu names batch and device); and proxies. (default: the file's "
            "`objectives`, or the metric)",
            show_default=False,
        ),
    ] = None,
    constraints: Annotated[
        str | None,
        typer.Option(
            metavar="LIMIT,...",
            help='What models must keep to before they are trained: "params<=1e6,latency<=0.005". '
            "(default: the file's `constraints`)",
            show_default=False,
        ),
    ] = None,
    prefilter: Annotated[
        str | None,
        typer.Option(
            metavar="PROXY[,times=N]",
            help="Propose N times as many models (4), and train the best by a zero-cost proxy: "
            "synflow, naswot, snip, grad_norm, jacob_cov, zen.",
            show_default=False,
        ),
    ] = None,
    warm_start: Annotated[
        str | None,
        typer.Option(
            metavar="PROXY[,times=N]",
            help="Likewise for the first cohort alone (8 times as many).",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - tells_errors reads it
) -> None:
    """Search a space. The same command on the same directory goes on where it stopped."""
    options = {
        "strategy": strategy,
        "scheduler": scheduler,
        "budget": budget,
        "total_epochs": total_epochs,
        "target": target,
        "trials": trials,
        "seed": seed,
        "fuse": fuse,
        "retries": retries,
        "workers": workers,
        "cohort": cohort,
        "executor": executor,
        "address": address,
        "cpus_per_worker": cpus_per_worker,
        "gpus_per_worker": gpus_per_worker,
        "continue_from": continue_from,
        "confirm": confirm,
        "enqueue": enqueue,
        "objectives": objectives,
        "constraints": constraints,
        "prefilter": prefilter,
        "warm_start": warm_start,
    }
    placed = check_placement(executor, workers, cohort, address, cpus_per_worker, gpus_per_worker)
    _check(trials, retries, strategy, confirm)
    _check_stopping(strategy, scheduler, budget, total_epochs, target)
    Wanted.of(objectives, constraints, prefilter, warm_start)
    directory = out if out is not None else default_directory(space)
    result = _search(space, directory, options, placed)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    conclude(result, space, directory, _again(space, out, options), quiet=as_json)


def default_directory(space: Path) -> Path:
    """``runs/`` and the folder's name, or the file's own where it is not called ``space.py``."""
    name = space.resolve().parent.name if space.stem == "space" else space.stem
    return Path("runs") / (name or "search")


def _check(
    trials: int,
    retries: int,
    strategy: str | None,
    confirm: int,
) -> None:
    """Finds mistakes on the command line before torch is loaded.

    Raises:
        RetiariiError: a number is too small.
        StrategyError: there is no such strategy.
    """
    if confirm < 0:
        raise RetiariiError(
            f"the number of seeds is {confirm}", where=f"--confirm {confirm}", fix="give 2 or more"
        )
    for name, value, least in (
        ("trials", trials, 1),
        ("retries", retries, 0),
    ):
        if value < least:
            raise RetiariiError(
                f"the number of {name} is {value}",
                where=f"--{name} {value}",
                fix=f"give {least} or more",
            )
    if strategy is not None and ":" not in strategy:
        from retiarii.strategies.registry import make_strategy

        try:
            make_strategy(strategy)
        except StrategyError as error:
            raise StrategyError(
                error.cause, where=error.where or f"--strategy {strategy}", fix=error.fix
            ) from error


def _check_stopping(
    strategy: str | None,
    scheduler: str | None,
    budget: str | None,
    total_epochs: int | None,
    target: float | None,
) -> None:
    """Likewise of what ends trials, and the search.

    Raises:
        RetiariiError: a budget that is none.
        SchedulerError: there is no such scheduler, or it has a strategy of its own.
    """
    from retiarii.schedulers.registry import check_strategy, make_scheduler
    from retiarii.search.budget import make_budget

    make_budget(total_epochs, budget, target)
    if scheduler is not None and ":" not in scheduler:
        try:
            check_strategy(strategy, make_scheduler(scheduler))
        except SchedulerError as error:
            raise SchedulerError(
                error.cause, where=error.where or f"--scheduler {scheduler}", fix=error.fix
            ) from error


def _search(
    space: Path, directory: Path, options: dict[str, Any], placed: Mapping[str, Any]
) -> Result:
    # Read when torch is loaded. OpenMP's threads wait for each other by spinning, which makes small
    # models ten times slower on a machine with anything else to do; asleep they cost nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from rich.console import Console

    from retiarii.commands.candidates import enqueue_all, read_candidates
    from retiarii.commands.progress import watching
    from retiarii.experiment import Experiment
    from retiarii.runtime.source import load_space_file

    file: Path | None = options["enqueue"]
    candidates = [] if file is None else read_candidates(file)
    given = {name: value for name, value in options.items() if name not in _ELSEWHERE}
    loaded = load_space_file(space)
    for name in ("objectives", "constraints"):
        given[name] = getattr(loaded, name) if given[name] is None else given[name]
    with watching(loaded.evaluator.metric, Console(stderr=True)) as watcher:
        experiment = Experiment(
            loaded.space,
            loaded.evaluator,
            directory=directory,
            progress=watcher,
            source=loaded,
            **{**given, **placed},
        )
        if file is not None:
            enqueue_all(experiment, candidates, file)
        result = experiment.run()
    if not result.trials and result.skipped:
        _explain_infeasible(loaded)
    return result


def _explain_infeasible(loaded: Loaded) -> None:
    """Says why a space has no models at all.

    Raises:
        InfeasibleError: why the first decisions that were looked at lead to none.
    """
    from retiarii.commands.survey import survey
    from retiarii.search_space import SearchSpace

    seen = survey(SearchSpace(loaded.space, loaded.evaluator.hyperparameters()))
    if seen.reason is not None:
        raise InfeasibleError(
            f"no decisions lead to a model; the first: {seen.reason.cause}",
            where=seen.reason.where,
            fix=seen.reason.fix,
        )


def _again(space: Path, out: Path | None, options: dict[str, Any]) -> str:
    """The command that goes on with this search."""
    words: list[str | Path] = ["run", space]
    if out is not None:
        words += ["--out", out]
    for name, value in options.items():
        if value != _DEFAULTS[name]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return command_line(*words)
