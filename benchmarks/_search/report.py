"""The results as files: JSON, a page of tables, and its charts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _search.plots import over_batches_chart, over_trials_chart
from _search.spaces import Game
from _search.summary import Row, over_batches, over_trials, table
from retiarii.strategies.registry import DEFAULT_STRATEGY

_LATE = 150
# What is promised for NAS-Bench-201: successes in so many of the seeds, regret after `_LATE`.
_TABLE, _SUCCESSES, _BEST, _DEFAULT = "NAS-Bench-201", 0.9, 0.02, 0.03


@dataclass(frozen=True)
class Report:
    """All that was played.

    Attributes:
        facts: of the machine, and what was asked for.
        games: in order.
        missing: a line for each table that is not there.
        rows: what came of the matches, in any order.
        overhead: of each strategy.
    """

    facts: Mapping[str, Any]
    games: Sequence[Game]
    missing: Sequence[str]
    rows: Sequence[Row]
    overhead: Mapping[str, Mapping[str, Any]]

    def write(self, out: Path) -> None:
        """Writes ``out``.json, ``out``.md and the charts, ``out``-*.svg."""
        out.parent.mkdir(parents=True, exist_ok=True)
        rows = sorted(self.rows, key=lambda row: (row["space"], row["batch"], row["strategy"]))
        kept = {
            "facts": dict(self.facts),
            "missing": list(self.missing),
            "runs": rows,
            "overhead": dict(sorted(self.overhead.items())),
        }
        out.with_suffix(".json").write_text(_compact(kept))
        out.with_suffix(".md").write_text("\n".join(self._page(rows, out)) + "\n")

    def _page(self, rows: Sequence[Row], out: Path) -> list[str]:
        facts = self.facts
        mark = min(_LATE, facts["trials"])
        lines = [
            "# Search strategies on spaces whose scores are known",
            "",
            "Written by `benchmarks/search.py`: see there for what is played. Names in parentheses",
            "are references: the simple ones, and Optuna's samplers as its users would use them;",
            "they and `random` know nothing of twins (decisions that lead to one model).",
            "`pbt` goes on from weights, which tables have not. A line has up to "
            f"{facts['seeds']} seeds, from {facts['first_seed']} on,",
            f"as many as its time allowed ({facts['limit_seconds']:g} s; the default strategy has "
            "more).",
            f"{facts['machine']}, Python {facts['python']}, {facts['date']}; "
            f"it took {facts['minutes']} minutes.",
            "",
            *(f"{line}.\n" for line in self.missing),
            *self._goals(rows),
            "## Regret over trials, results known at once",
            "",
        ]
        for game in self.games:
            lines += over_trials(rows, game)
            lines += _drawn(out, game.name, over_trials_chart(rows, game))
        lines += ["## Results known a batch at a time", ""]
        for game in self.games:
            found = over_batches(rows, game, mark)
            lines += found
            if found:
                name = f"{game.name} batches"
                lines += _drawn(out, name, over_batches_chart(rows, game, mark))
        lines += [
            "## Time that a proposal takes",
            "",
            "`ask` and `tell` over the last tenth of the trials, 20 decisions of 4 options, in",
            "milliseconds of the processor.",
            "",
        ]
        cells = [
            [f"`{name}`", str(found.get("trials", "")), str(found.get("milliseconds", "refused"))]
            for name, found in sorted(self.overhead.items())
        ]
        return lines + table(["strategy", "trials", "ms a trial"], cells)

    def _goals(self, rows: Sequence[Row]) -> list[str]:
        """What was to be reached on one table, and whether it was."""
        mine = {
            row["strategy"]: row
            for row in rows
            if row["space"] == _TABLE
            and row["batch"] == 1
            and str(_LATE) in row.get("regret", {})
            and not row["strategy"].startswith("(")
        }
        if not mine:
            return []
        found = {name: row["regret"][str(_LATE)]["mean"] for name, row in mine.items()}
        short = [
            f"`{name}` ({100 * row['excellent']:.0f} %)"
            for name, row in mine.items()
            if row["excellent"] < _SUCCESSES and name != "random"
        ]
        best = min(found, key=lambda name: found[name])
        usual = found.get(DEFAULT_STRATEGY)
        reached = "all but `random`" if not short else "all but `random`, " + ", ".join(short)
        lines = [
            f"## Goals on {_TABLE}",
            "",
            f"- A cell of the top 0.1 % within {self.facts['trials']} trials in 9 of 10 seeds: "
            f"{reached}.",
            f"- Mean regret after {_LATE} trials, the best of ours: {found[best]:.3f} "
            f"(`{best}`; goal {_BEST}).",
        ]
        if usual is not None:
            lines.append(
                f"- The default strategy, `{DEFAULT_STRATEGY}`: {usual:.3f} (goal {_DEFAULT})."
            )
        return [*lines, ""]


def _drawn(out: Path, name: str, svg: str | None) -> list[str]:
    """Writes a chart beside the page; the line that shows it there."""
    if svg is None:
        return []
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    path = out.with_name(f"{out.name}-{slug}.svg")
    path.write_text(svg)
    return [f"![{name}]({path.name})", ""]


def _compact(kept: Mapping[str, Any]) -> str:
    """JSON with a line for each run."""
    runs = ",\n".join("  " + json.dumps(row) for row in kept["runs"])
    rest = {key: value for key, value in kept.items() if key != "runs"}
    head = json.dumps(rest, indent=1)
    return f'{head[:-2]},\n "runs": [\n{runs}\n ]\n}}\n'
