"""``retiarii show``: what a search has found."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retiarii.commands.common import Debug, Json, score_text, seconds_text, tells_errors
from retiarii.errors import RetiariiError

if TYPE_CHECKING:
    from retiarii.result import Result, TrialResult

Directory = Annotated[
    Path,
    typer.Argument(metavar="DIR", help="What `retiarii run --out` was given.", show_default=False),
]


@tells_errors
def show(
    directory: Directory,
    trial: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="One trial in full: its history, its error.", show_default=False
        ),
    ] = None,
    top: Annotated[
        int, typer.Option(min=1, help="How many trials the table has, best first.")
    ] = 20,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all trials as CSV.")] = False,
    debug: Debug = False,  # noqa: ARG001 - tells_errors reads it
) -> None:
    """Show a search's trials and the best of them. It may still be running."""
    from retiarii.result import open_result

    if as_json and as_csv:
        raise RetiariiError(
            "two formats are asked for", where="--json --csv", fix="give one of them"
        )
    result = open_result(directory)
    if trial is not None:
        _one(pick(result, trial), as_json)
    elif as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    elif as_csv:
        typer.echo(_csv(result), nl=False)
    else:
        _table(result, top)


def pick(result: Result, number: int) -> TrialResult:
    """The trial of that number.

    Raises:
        RetiariiError: there is none.
    """
    if 0 <= number < len(result.trials):
        return result.trials[number]
    raise RetiariiError(
        f"there is no trial {number}",
        where=str(result.directory),
        fix=f"give a number from 0 to {len(result.trials) - 1}"
        if result.trials
        else "wait for the first trial",
    )


def _table(result: Result, top: int) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    sign = -1 if result.maximize else 1
    # Scores of pruned trials come after all that had their whole training.
    ranked = sorted(
        result.trials,
        key=lambda t: (t.score is None, t.state == "pruned", sign * (t.score or 0.0), t.id),
    )
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("trial", result.metric):
        table.add_column(column, justify="right")
    table.add_column("state")
    table.add_column("time", justify="right")
    table.add_column("decisions", overflow="fold")
    for each in ranked[:top]:
        table.add_row(
            str(each.id),
            score_text(each.score),
            _state(each),
            seconds_text(each.seconds) if each.seconds else "",
            escape(_brief(each)),
            style="bold" if result.best is not None and each.id == result.best.id else None,
        )
    if result.trials:
        console.print(table, highlight=False)
    if len(ranked) > top:
        typer.echo(f"... and {len(ranked) - top} more (--top {len(ranked)})")
    scheduler = "" if result.scheduler is None else f", scheduler: {result.scheduler}"
    typer.echo(f"{result.summary}\nspace: {result.space}, strategy: {result.strategy}{scheduler}")


def _state(trial: TrialResult) -> str:
    """How a trial stands; a score of less training than others had is marked as such."""
    at = trial.stopped_at
    early = "" if at is None else f"pruned at {at}"
    if trial.same_as is not None:
        same = f"same as {trial.same_as}"
        return f"{same}, {early}" if early else same
    return early or trial.state


def _brief(trial: TrialResult) -> str:
    decisions = ", ".join(f"{label}={_number(v)}" for label, v in trial.decisions.items())
    if trial.state == "failed" and trial.error:
        return f"{trial.error.splitlines()[0]} | {decisions}"
    return decisions


def _number(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def _csv(result: Result) -> str:
    labels = list(dict.fromkeys(label for t in result.trials for label in t.decisions))
    metrics = list(dict.fromkeys(name for t in result.trials for name in t.metrics))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    fixed = ["id", "state", "score", "stopped_at", "seconds", "same_as", "error"]
    writer.writerow(
        [*fixed, *(f"decisions.{label}" for label in labels), *(f"metrics.{m}" for m in metrics)]
    )
    for trial in result.trials:
        writer.writerow(
            [getattr(trial, name) for name in fixed]
            + [trial.decisions.get(label) for label in labels]
            + [trial.metrics.get(name) for name in metrics]
        )
    return text.getvalue()


def _one(trial: TrialResult, as_json: bool) -> None:
    history = trial.history
    if as_json:
        typer.echo(json.dumps({**trial.to_json(), "history": history}, indent=2))
        return
    same = "" if trial.same_as is None else f", the same as trial {trial.same_as}"
    at = "" if trial.stopped_at is None else f" at step {trial.stopped_at}"
    typer.echo(f"trial {trial.id}: {trial.state}{at}{same}")
    typer.echo(f"score: {score_text(trial.score) or 'none'}, after {seconds_text(trial.seconds)}")
    typer.echo("decisions:")
    for label, value in trial.decisions.items():
        typer.echo(f"  {label} = {_number(value)}")
    for step in history:
        numbers = ", ".join(f"{k} {_number(v)}" for k, v in step.items() if k != "step")
        typer.echo(f"step {step['step']}: {numbers}")
    if trial.error:
        typer.echo(f"error: {trial.error}")
    if trial.traceback:
        typer.echo(trial.traceback)
