"""What ``retiarii run`` says when a search has ended, and its exit code."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from retiarii.commands.common import INTERRUPTED, command_line, score_text

if TYPE_CHECKING:
    from retiarii.result import Result

_NO_COMPLETE_TRIAL = 1


def conclude(
    result: Result,
    space: Path,
    directory: Path,
    again: str,
    quiet: bool,
) -> None:
    """Says what was found and what to type next, and ends with the exit code.

    Args:
        result: what was found.
        space: the space file.
        directory: where the search is kept.
        again: the command that goes on with it.
        quiet: whether nothing but what went wrong is said, on stderr.

    Raises:
        typer.Exit: the search was interrupted, or no trial is complete.
    """
    if result.ended == "interrupted":
        done = sum(t.state in ("complete", "pruned", "failed") for t in result.trials)
        typer.echo(
            f"interrupted: {done} of {result.total} trials are finished, and kept in {directory}\n"
            f"to go on: {again}",
            err=True,
        )
        raise typer.Exit(INTERRUPTED)
    best = result.best
    if best is None:
        typer.echo(f"no trial is complete; {result.summary}", err=True)
        if result.trials and all(trial.state == "pruned" for trial in result.trials):
            typer.echo(
                "none had all of its training: a larger --trials goes on (pbt trains a trial for "
                "each interval of a member)",
                err=True,
            )
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
    from retiarii.report.budgets import remarks
    from retiarii.report.text import brief, confirmed_lines

    for line in [result.summary, *remarks(result), *confirmed_lines(result)]:
        typer.echo(line)
    typer.echo(f"\nbest: trial {best.id}, {result.metric} {score_text(best.score)}")
    width = max((len(label) for label in best.decisions), default=0)
    for label, value in best.decisions.items():
        typer.echo(f"  {label:<{width}}  {brief(value)}")
    typer.echo(f"\nsee all trials:       {command_line('show', directory)}")
    if result.objectives:
        typer.echo(f"see the best trades:  {command_line('show', directory, '--pareto')}")
    if result.skipped:
        typer.echo(f"why some do not fit:  {command_line('inspect', space)}")
    if result.identity["space"]["model"] is not None:
        typer.echo(f"take the best model:  {command_line('export', directory, '--to', 'best')}")
