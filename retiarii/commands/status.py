"""``retiarii status``: what a search does at the moment, from another terminal."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from retiarii.commands.common import Debug, Json, score_text, seconds_text, tells_errors
from retiarii.errors import StoreError

if TYPE_CHECKING:
    from retiarii.result import Result
    from retiarii.runtime.live import Live

_MOST_ROWS = 40


@tells_errors
def status(
    directory: Annotated[
        Path,
        typer.Argument(
            metavar="DIR", help="What `retiarii run --out` was given.", show_default=False
        ),
    ],
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - tells_errors reads it
) -> None:
    """Show what a search is doing: devices, cohorts, how fast, what is next."""
    from retiarii.result import open_result
    from retiarii.runtime.live import read_live
    from retiarii.runtime.lock import searching

    result = open_result(directory)
    pid = searching(directory)
    live, trouble = None, None
    try:
        live = read_live(directory)
    except StoreError as error:
        trouble = error
    if live is not None and live.pid != pid:
        live = None  # of a search that was killed
    if as_json:
        typer.echo(json.dumps(_object(result, pid, live, trouble), indent=2))
        return
    for line in _standing(result, pid):
        typer.echo(line)
    if live is not None:
        _table(live)
    elif pid is not None and trouble is None:
        typer.echo("it has launched nothing yet")
    if trouble is not None:
        typer.echo(f"{typer.style('what it is doing is not known:', fg='red')} {trouble}", err=True)


def _standing(result: Result, pid: int | None) -> list[str]:
    """Whether it runs, how far it is, and the best so far."""
    if pid is not None:
        running = f"searching, pid {pid}"
    elif result.ended is not None:
        running = f"not running; it ended: {result.ended}"
    else:
        running = "not running, and not at its end; the command that began it goes on with it"
    lines = [running, f"trials: {_progress(result)}"]
    if result.best is not None:
        score = score_text(result.best.score)
        lines.append(f"best:   trial {result.best.id}, {result.metric} {score}")
    return lines


def _progress(result: Result) -> str:
    states = [trial.state for trial in result.trials]
    done = sum(state in ("complete", "pruned", "failed") for state in states)
    failed = states.count("failed")
    return f"{done} of {result.total} are finished" + (f", {failed} failed" if failed else "")


def _table(live: Live) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    busy = {cohort.device for cohort in live.cohorts}
    idle = [name for name, _ in live.devices if name not in busy]
    kinds = dict(live.devices)
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("device", "cohort", "epoch", "trial-epochs/s", "since"):
        table.add_column(column, overflow="fold")
    for cohort in live.cohorts[:_MOST_ROWS]:
        first, last = cohort.epochs
        kind = kinds.get(cohort.device, "")
        named = cohort.device if kind in ("", "cpu", "inline") else f"{cohort.device} ({kind})"
        count = "1 trial" if cohort.count == 1 else f"{cohort.count} trials"
        table.add_row(
            escape(named),
            f"{count}: {escape(cohort.trials)}" + (", leaving" if cohort.leaving else ""),
            str(first) if first == last else f"{first} to {last}",
            "" if cohort.rate is None else f"{cohort.rate:.3g}",
            seconds_text(cohort.seconds),
        )
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, 160)
    if live.cohorts:
        console.print(table, highlight=False)
    if len(live.cohorts) > _MOST_ROWS:
        typer.echo(f"... and {len(live.cohorts) - _MOST_ROWS} more (--json has all)")
    if idle:
        shown = ", ".join(idle[:10]) + (" ..." if len(idle) > 10 else "")
        typer.echo(f"idle:   {shown}")
    if live.waiting:
        shown = ", ".join(map(str, live.next)) + (" ..." if live.waiting > len(live.next) else "")
        typer.echo(f"next:   {live.waiting} wait: trials {shown}")
    if live.phase == "confirm":
        typer.echo("confirming the best: the trials are those of DIR/confirm")
    ago = max(0.0, time.time() - live.updated)
    typer.echo(f"as of {seconds_text(ago)} ago; it runs for {seconds_text(live.seconds)}")


def _object(
    result: Result, pid: int | None, live: Live | None, trouble: StoreError | None
) -> dict[str, Any]:
    states = [trial.state for trial in result.trials]
    best = result.best
    return {
        "running": pid is not None,
        "pid": pid,
        "ended": result.ended,
        "total": result.total,
        "states": {state: states.count(state) for state in sorted(set(states))},
        "best": None if best is None else {"trial": best.id, result.metric: best.score},
        "live": None if live is None else asdict(live),
        "trouble": None if trouble is None else trouble.cause,
    }
