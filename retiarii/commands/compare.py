"""``retiarii compare``: several searches side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retiarii.commands.common import Debug, Json, score_text, seconds_text, tells_errors
from retiarii.errors import RetiariiError

if TYPE_CHECKING:
    from retiarii.report.comparing import Comparison


@tells_errors
def compare(
    directories: Annotated[
        list[Path],
        typer.Argument(
            metavar="DIR DIR...",
            help="What `retiarii run --out` was given, of each search.",
            show_default=False,
        ),
    ],
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write one HTML file with plots; it opens without a network.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
    debug: Debug = False,  # noqa: ARG001 - tells_errors reads it
) -> None:
    """Compare searches: best scores, and the trials and the time they took."""
    from retiarii.report.comparing import compare as compared
    from retiarii.result import open_result

    if len(directories) < 2:
        raise RetiariiError(
            "one search is nothing to compare",
            where=str(directories[0]),
            fix="give two directories or more; one alone: retiarii show",
        )
    if as_json and html is not None:
        raise RetiariiError(
            "two formats are asked for", where="--json --html", fix="give one of them"
        )
    comparison = compared([open_result(directory) for directory in directories])
    if html is not None:
        from retiarii.report.compare_page import compare_page
        from retiarii.report.page import write_page

        write_page(compare_page(comparison), html)
        typer.echo(f"written: {html}")
    elif as_json:
        typer.echo(json.dumps(comparison.to_json(), indent=2))
    else:
        typer.echo("\n".join(_lines(comparison)))


def _lines(comparison: Comparison) -> list[str]:
    searches = comparison.searches
    lines = _columns(
        ["search", "strategy", "trials", "time", "best", "in trial", "after"],
        [
            [
                search.name,
                search.result.strategy,
                str(search.trials),
                seconds_text(search.seconds),
                score_text(search.found[-1].score) if search.found else "",
                str(search.found[-1].trials - 1) if search.found else "",
                seconds_text(search.found[-1].seconds) if search.found else "",
            ]
            for search in searches
        ],
    )
    lines += [f"the spaces differ: {line}" for line in comparison.spaces]
    if comparison.unlike:
        lines += ["", "the scores cannot be compared:"]
        return lines + [f"  {line}" for line in comparison.unlike]
    if comparison.best is None:
        return [*lines, "", "no trial is complete yet"]
    if comparison.target is not None:
        lines += ["", f"to reach {score_text(comparison.target)}, which all have:"]
        for search in searches:
            step = search.reached(comparison.target, comparison.maximize)
            assert step is not None
            lines.append(f"  {search.name}: {step.trials} trials, {seconds_text(step.seconds)}")
    counts, times = comparison.counts(), comparison.times()
    lines += ["", f"regret (distance from {score_text(comparison.best)}, the best of all):"]
    lines += _columns(
        ["after trials", *map(str, counts)],
        [
            [s.name, *(_regret(comparison, s.best(trials=count)) for count in counts)]
            for s in searches
        ],
    )
    if times:
        lines += _columns(
            ["after", *map(seconds_text, times)],
            [
                [s.name, *(_regret(comparison, s.best(seconds=time)) for time in times)]
                for s in searches
            ],
        )
    return lines


def _regret(comparison: Comparison, score: float | None) -> str:
    found = comparison.regret(score)
    return "-" if found is None else f"{found:.4g}"


def _columns(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[at]) for row in [head, *rows]) for at in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in [head, *rows]
    ]
