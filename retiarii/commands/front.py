"""The Pareto front of a search, as a table and as JSON: ``retiarii show --pareto``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from retiarii.result import Result
    from retiarii.trial_result import TrialResult


def front_object(result: Result) -> dict[str, Any]:
    """The object that ``--pareto --json`` prints: objectives, trials in full, hypervolume."""
    shown = result.front_to_json()
    return {**shown, "pareto": [trial.to_json() for trial in result.pareto]}


def front_table(result: Result, top: int) -> None:
    """Prints the trials that no other is better than, the best in the first objective first."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from retiarii.report.text import decided

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("trial", justify="right")
    for name, direction in result.front_to_json()["objectives"].items():
        table.add_column(f"{name} ({direction})", justify="right")
    table.add_column("decisions", overflow="fold")
    for trial in result.pareto[:top]:
        row = [str(trial.id), *_values(result, trial), escape(decided(trial.decisions))]
        table.add_row(*row)
    if result.pareto:
        console.print(table, highlight=False)
    if len(result.pareto) > top:
        typer.echo(f"... and {len(result.pareto) - top} more (--top {len(result.pareto)})")
    if result.hypervolume:
        typer.echo(f"hypervolume: {result.hypervolume[-1][1]:.4f} of the box around all trials")
    typer.echo(result.summary)


def _values(result: Result, trial: TrialResult) -> list[str]:
    if not result.objectives:
        return [f"{trial.score:.5g}"]
    return [f"{trial.metrics[each.name]:.5g}" for each in result.objectives]
