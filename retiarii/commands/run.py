"""``retiarii run``: searches a space, or goes on with a search."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from retiarii.commands.common import (
    INTERRUPTED,
    Debug,
    Json,
    command_line,
    score_text,
    tells_errors,
)
from retiarii.errors import InfeasibleError, RetiariiError, StrategyError

if TYPE_CHECKING:
    from retiarii.result import Result
    from retiarii.runtime.source import Loaded

_NO_COMPLETE_TRIAL = 1
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
    "workers": 1,
    "cohort": None,
    "executor": None,
}


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
            help="random, grid, evolution, or module:Class for your own. "
            "(default: evolution; tpe with --scheduler bohb)",
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
        int, typer.Option(help="How many trials, or cohorts, run at once.")
    ] = _DEFAULTS["workers"],
    cohort: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="How many trials are proposed and trained together. (default: 16, or 1 for an "
            "evaluator that trains none together)",
            show_default=False,
        ),
    ] = None,
    executor: Annotated[
        Literal["inline", "local"] | None,
        typer.Option(
            help="In this process, or in worker processes. (default: local if workers > 1)",
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
    }
    _check(trials, retries, workers, cohort, strategy)
    _check_stopping(strategy, scheduler, budget, total_epochs, target)
    directory = out if out is not None else default_directory(space)
    result = _search(space, directory, options)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    _conclude(result, space, directory, out, options, quiet=as_json)


def default_directory(space: Path) -> Path:
    """``runs/`` and the folder's name, or the file's own where it is not called ``space.py``."""
    name = space.resolve().parent.name if space.stem == "space" else space.stem
    return Path("runs") / (name or "search")


def _check(
    trials: int, retries: int, workers: int, cohort: int | None, strategy: str | None
) -> None:
    """Finds mistakes on the command line before torch is loaded.

    Raises:
        RetiariiError: a number is too small.
        StrategyError: there is no such strategy.
    """
    if cohort is not None and cohort < 1:
        raise RetiariiError(
            f"the size of a cohort is {cohort}", where=f"--cohort {cohort}", fix="give 1 or more"
        )
    for name, value, least in (
        ("trials", trials, 1),
        ("retries", retries, 0),
        ("workers", workers, 1),
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
    from retiarii.budget import make_budget
    from retiarii.schedulers.registry import check_strategy, make_scheduler

    make_budget(total_epochs, budget, target)
    if scheduler is not None and ":" not in scheduler:
        check_strategy(strategy, make_scheduler(scheduler))


def _search(space: Path, directory: Path, options: dict[str, Any]) -> Result:
    # Read when torch is loaded. OpenMP's threads wait for each other by spinning, which makes small
    # models ten times slower on a machine with anything else to do; asleep they cost nothing.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from rich.console import Console

    from retiarii.commands.progress import watching
    from retiarii.experiment import Experiment
    from retiarii.runtime.source import load_space_file

    executor = options["executor"] or ("local" if options["workers"] > 1 else "inline")
    loaded = load_space_file(space)
    with watching(loaded.evaluator.metric, Console(stderr=True)) as watcher:
        experiment = Experiment(
            loaded.space,
            loaded.evaluator,
            directory=directory,
            progress=watcher,
            source=loaded,
            **{**options, "executor": executor},
        )
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


def _conclude(
    result: Result,
    space: Path,
    directory: Path,
    out: Path | None,
    options: dict[str, Any],
    quiet: bool,
) -> None:
    """Says what was found and what to type next, and ends with the exit code.

    With ``quiet`` nothing but what went wrong is said, on stderr.
    """
    if result.ended == "interrupted":
        done = sum(t.state in ("complete", "pruned", "failed") for t in result.trials)
        typer.echo(
            f"interrupted: {done} of {result.total} trials are finished, and kept in {directory}\n"
            f"to go on: {_again(space, out, options)}",
            err=True,
        )
        raise typer.Exit(INTERRUPTED)
    best = result.best
    if best is None:
        typer.echo(f"no trial is complete; {result.summary}", err=True)
        failed = next((t for t in result.trials if t.error), None)
        if failed is not None:
            typer.echo(f"trial {failed.id} failed: {failed.error}", err=True)
            if failed.traceback is not None:
                shown = command_line("show", directory, "--trial", str(failed.id))
                typer.echo(f"its traceback: {shown}", err=True)
        typer.echo(f"see all: {command_line('show', directory)}", err=True)
        raise typer.Exit(_NO_COMPLETE_TRIAL)
    if quiet:
        return
    typer.echo(result.summary)
    typer.echo(f"\nbest: trial {best.id}, {result.metric} {score_text(best.score)}")
    width = max((len(label) for label in best.decisions), default=0)
    for label, value in best.decisions.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        typer.echo(f"  {label:<{width}}  {shown}")
    typer.echo(f"\nsee all trials:       {command_line('show', directory)}")
    if result.skipped:
        typer.echo(f"why some do not fit:  {command_line('inspect', space)}")
    typer.echo(f"take the best model:  {command_line('export', directory, '--to', 'best')}")


def _again(space: Path, out: Path | None, options: dict[str, Any]) -> str:
    """The command that goes on with this search."""
    words: list[str | Path] = ["run", space]
    if out is not None:
        words += ["--out", out]
    for name, value in options.items():
        if value != _DEFAULTS[name]:
            words += [f"--{name.replace('_', '-')}", str(value)]
    return command_line(*words)
