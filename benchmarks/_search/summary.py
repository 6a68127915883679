"""What runs come to: numbers for JSON, and tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from _search.crew import Match
from _search.playing import Run
from _search.spaces import Game

Row = dict[str, Any]
MARKS = (1, 2, 5, *range(10, 100, 10), *range(100, 301, 25))
SHOWN = (50, 100, 150, 300)


def summarised(match: Match, run: Run, game: Game) -> Row:
    """One run as JSON: regret at some trials (mean, median, quartiles), and successes."""
    row: Row = {"space": match.game, "strategy": match.strategy, "batch": match.batch}
    if run.refused is not None:
        return row | {"refused": run.refused}
    regrets = np.array(run.regrets)
    marks = [mark for mark in MARKS if mark <= regrets.shape[1]]
    low, middle, high = np.quantile(regrets[:, [m - 1 for m in marks]], [0.25, 0.5, 0.75], axis=0)
    means = regrets[:, [m - 1 for m in marks]].mean(0)
    # A hair more than the limit: the same score, through another sum.
    excellent = float((regrets[:, -1] <= game.excellent + 1e-9).mean())
    return row | {
        "seeds": len(regrets),
        "milliseconds": round(1e3 * run.seconds / regrets.size, 3),
        "excellent": round(excellent, 4),
        "regret": {
            str(mark): {
                "mean": round(float(means[at]), 4),
                "quartiles": [round(float(q[at]), 4) for q in (low, middle, high)],
            }
            for at, mark in enumerate(marks)
        },
    }


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def over_trials(rows: Sequence[Row], game: Game) -> list[str]:
    """Mean (lower quartile, median, upper quartile) of regret, strategies by marks."""
    mine = [r for r in rows if r["space"] == game.name and r["batch"] == 1]
    played = [r for r in mine if "refused" not in r]
    lines = [f"### {game.name}", "", f"Regret in {game.unit}: mean (quartiles).", ""]
    if played:
        marks = [m for m in map(str, SHOWN) if m in played[0]["regret"]]
        header = ["strategy", "seeds", *(f"{m} trials" for m in marks)]
        header.append(f"within {game.excellent:.3g} at the end")
        lines += table(header, [_line(row, marks) for row in played])
    lines += [f"\n`{r['strategy']}`: {r['refused']}" for r in mine if "refused" in r]
    return [*lines, ""]


def _line(row: Row, marks: Sequence[str]) -> list[str]:
    cells = [f"`{row['strategy']}`", str(row["seeds"])]
    for mark in marks:
        regret = row["regret"][mark]
        quartiles = ", ".join(f"{q:.3f}" for q in regret["quartiles"])
        cells.append(f"{regret['mean']:.3f} ({quartiles})")
    return [*cells, f"{100 * row['excellent']:.0f} %"]


def over_batches(rows: Sequence[Row], game: Game, mark: int) -> list[str]:
    """Mean regret after ``mark`` trials, strategies by batch sizes."""
    mine = [r for r in rows if r["space"] == game.name and str(mark) in r.get("regret", {})]
    batches = sorted({r["batch"] for r in mine})
    if len(batches) < 2:
        return []
    found = {(r["strategy"], r["batch"]): r["regret"][str(mark)]["mean"] for r in mine}
    names = list(dict.fromkeys(name for name, batch in found if batch != 1))
    lines = [f"### {game.name}, mean regret after {mark} trials", ""]
    cells = [
        [f"`{name}`", *(f"{found[name, b]:.3f}" if (name, b) in found else "" for b in batches)]
        for name in names
    ]
    return [*lines, *table(["strategy", *(f"batch {b}" for b in batches)], cells), ""]
