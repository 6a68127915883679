"""``retiarii show``: what a search has found."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retiarii.commands.common import Debug, Json, score_text, seconds_text, tells_errors
from retiarii.errors import RetiariiError

if TYPE_CHECKING:
    from retiarii.result import Result
    from retiarii.trial_result import TrialResult

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
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Only the trials that no other is better than.")
    ] = False,
    curves: Annotated[
        bool, typer.Option("--curves", help="The learning curves of the best trials.")
    ] = False,
    importance: Annotated[
        bool,
        typer.Option("--importance", help="How much each decision matters for the score."),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write one HTML file with all plots; it opens without a network.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print all trials as CSV.")] = False,
    debug: Debug = False,  # noqa: ARG001 - tells_errors reads it
) -> None:
    """Show a search's trials and the best of them. It may still be running."""
    from retiarii.commands.front import front_object, front_table
    from retiarii.result import open_result

    kinds = {"--json": as_json, "--csv": as_csv, "--html": html is not None}
    chosen = [name for name, wanted in kinds.items() if wanted]
    if len(chosen) > 1:
        raise RetiariiError(
            "two formats are asked for", where=" ".join(chosen), fix="give one of them"
        )
    result = open_result(directory)
    if html is not None:
        _page(result, html)
    elif trial is not None:
        _one(pick(result, trial), as_json, directory)
    elif as_json:
        shown = front_object(result) if pareto else result.to_json()
        typer.echo(json.dumps(shown, indent=2))
    elif as_csv:
        typer.echo(_csv(result), nl=False)
    elif pareto:
        front_table(result, top)
    elif curves or importance:
        _analysis(result, top, curves, importance)
    else:
        _table(result, top)


def _page(result: Result, file: Path) -> None:
    from retiarii.report.page import report, write_page

    write_page(report(result), file)
    typer.echo(f"written: {file}")


def _analysis(result: Result, top: int, curves: bool, importance: bool) -> None:
    from retiarii.report.importance import importance as importance_of
    from retiarii.report.text import curve_lines, importance_lines

    lines = curve_lines(result, top) if curves else []
    if importance:
        lines += importance_lines(importance_of(result), result.metric)
    typer.echo("\n".join(lines))


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

    from retiarii.report.budgets import is_short, longest, remarks
    from retiarii.report.text import confirmed_lines

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    sign = -1 if result.maximize else 1
    # Scores of pruned trials come after all that had their whole training.
    ranked = sorted(
        result.trials,
        key=lambda t: (t.score is None, t.state == "pruned", sign * (t.score or 0.0), t.id),
    )
    most = longest(result)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("trial", result.metric):
        table.add_column(column, justify="right")
    table.add_column("state")
    table.add_column("time", justify="right")
    table.add_column("decisions", overflow="fold")
    for each in ranked[:top]:
        table.add_row(
            str(each.id),
            score_text(each.score) + ("*" if is_short(each, most) else ""),
            _state(each, most),
            seconds_text(each.seconds) if each.seconds else "",
            escape(_brief(each)),
            style="bold" if result.best is not None and each.id == result.best.id else None,
        )
    if result.trials:
        console.print(table, highlight=False)
    if len(ranked) > top:
        typer.echo(f"... and {len(ranked) - top} more (--top {len(ranked)})")
    for text in [*remarks(result), *confirmed_lines(result)]:
        typer.echo(text)
    scheduler = "" if result.scheduler is None else f", scheduler: {result.scheduler}"
    typer.echo(f"{result.summary}\nspace: {result.space}, strategy: {result.strategy}{scheduler}")


def _state(trial: TrialResult, most: int | None) -> str:
    """How a trial stands; a score of less training than others had is marked as such."""
    from retiarii.report.budgets import is_short

    early = ""
    if trial.stopped_at is not None:
        early = f"pruned at {trial.stopped_at}"
    elif trial.state == "complete" and is_short(trial, most):
        early = f"complete, {trial.steps} steps"
    if trial.carried_from is not None:
        return f"{early or trial.state}, from {trial.carried_from} of the earlier search"
    if trial.same_as is not None:
        same = f"same as {trial.same_as}"
        return f"{same}, {early}" if early else same
    return early or trial.state


def _brief(trial: TrialResult) -> str:
    from retiarii.report.text import decided

    decisions = decided(trial.decisions)
    if trial.state == "failed" and trial.error:
        return f"{trial.error.splitlines()[0]} | {decisions}"
    return decisions


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


def _one(trial: TrialResult, as_json: bool, directory: Path) -> None:
    from retiarii.report.text import brief
    from retiarii.runtime.logs import logs_about

    history = trial.history
    logs = [str(path) for path in logs_about(directory, trial.id)]
    if as_json:
        shown = {**trial.to_json(), "history": history, "logs": logs}
        typer.echo(json.dumps(shown, indent=2))
        return
    same = "" if trial.same_as is None else f", the same as trial {trial.same_as}"
    at = "" if trial.stopped_at is None else f" at step {trial.stopped_at}"
    typer.echo(f"trial {trial.id}: {trial.state}{at}{same}")
    typer.echo(f"score: {score_text(trial.score) or 'none'}, after {seconds_text(trial.seconds)}")
    if trial.confirmed is not None:
        typer.echo(f"confirmed: {trial.confirmed}, from {trial.confirmed.wanted} seeds")
    if trial.carried_from is not None:
        typer.echo(f"taken over from trial {trial.carried_from} of the earlier search")
    typer.echo("decisions:")
    for label, value in trial.decisions.items():
        typer.echo(f"  {label} = {brief(value)}")
    for step in history:
        numbers = ", ".join(f"{k} {brief(v)}" for k, v in step.items() if k != "step")
        typer.echo(f"step {step['step']}: {numbers}")
    for log in logs:
        typer.echo(f"log: {log}")
    if trial.error:
        typer.echo(f"error: {trial.error}")
    if trial.traceback:
        typer.echo(trial.traceback)
