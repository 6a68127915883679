"""How good the strategies are: regret over trials, on spaces whose scores are all known.

    python benchmarks/search.py [--seeds 200] [--limit SECONDS] [--out benchmarks/results/search]

Plays every registered strategy, and the simple references, on tables of trained architectures
(`../shared/tabular/`; a table that is absent is skipped, which is said), on NAS-Bench-201 with its
options shuffled and with its operations relabelled (checks that nothing is tuned to it), and on
two synthetic conditional spaces. Then with results told a batch at a time, and for the time that a
proposal takes. One core.
"""

# ruff: noqa: E402 - the number of threads must be known before the libraries are loaded
from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import torch
from _search.overhead import milliseconds
from _search.players import players
from _search.playing import play_seeds
from _search.spaces import Game
from _search.summary import Row, over_batches, over_trials, summarised, table
from _search.synthetic import LayersGame, TuningGame
from _search.tables import TABLES, table_games

BATCHES = (4, 16, 64)
LATE = 150


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds a strategy and space")
    parser.add_argument("--only", nargs="*", help="these strategies, beside what OUT has")
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--quick", action="store_true", help="two seeds, few trials: does it run?")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "search")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.trials, given.limit = 2, 50, 5.0
    torch.set_num_threads(1)
    games, missing = table_games(given.tables)
    games += [LayersGame(), TuningGame()]
    for line in missing:
        print(line, flush=True)
    rows = _played(games, given)
    overhead = _overheads(given)
    _write(given.out, games, missing, rows, overhead, given)


def _played(games: list[Game], given: argparse.Namespace) -> list[Row]:
    rows = []
    for game in games:
        # What a batch costs is measured where nothing is a check.
        checks = "," in game.name
        for batch in (1,) if checks else (1, *BATCHES):
            for name, make in _chosen(given.only).items():
                run = play_seeds(
                    name,
                    make,
                    game,
                    seeds=given.seeds,
                    trials=given.trials,
                    batch=batch,
                    limit=given.limit,
                )
                rows.append(summarised(run, game))
                print(_short(rows[-1]), flush=True)
    return rows


def _chosen(only: list[str] | None) -> dict[str, Any]:
    return {name: make for name, make in players().items() if not only or name in only}


def _short(row: Row) -> str:
    head = f"{row['space']:45} {row['strategy']:22} batch {row['batch']:2}"
    if "refused" in row:
        return f"{head} {row['refused']}"
    means = " ".join(f"@{mark} {regret['mean']:.3f}" for mark, regret in row["regret"].items())
    return f"{head} {row['seeds']:4} seeds {means} ({row['milliseconds']} ms)"


def _overheads(given: argparse.Namespace) -> dict[str, Any]:
    trials = 60 if given.quick else 5_000
    found: dict[str, Any] = {}
    for name, make in _chosen(given.only).items():
        if name.startswith("("):
            continue
        answer = milliseconds(make, trials, trials // 10, min(given.limit, 60.0))
        if isinstance(answer, str):
            found[name] = {"refused": answer}
        else:
            found[name] = {"trials": answer[0], "milliseconds": round(answer[1], 3)}
        print("overhead", name, found[name], flush=True)
    return found


def _write(
    out: Path,
    games: list[Game],
    missing: list[str],
    rows: list[Row],
    overhead: dict[str, Any],
    given: argparse.Namespace,
) -> None:
    machine = {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    asked = {"seeds": given.seeds, "trials": given.trials, "limit_seconds": given.limit}
    if given.only and out.with_suffix(".json").exists():
        before = json.loads(out.with_suffix(".json").read_text())
        rows = sorted(
            [*rows, *(row for row in before["runs"] if row["strategy"] not in given.only)],
            key=lambda row: str(row["strategy"]),
        )
        overhead = dict(sorted((before["overhead"] | overhead).items()))
    kept = {"machine": machine, "asked": asked, "missing": missing, "runs": rows}
    lines = [
        "# Search strategies on spaces whose scores are known",
        "",
        "Written by `benchmarks/search.py`: see there for what is played. Names in parentheses",
        "are the simple references: they and `random` know nothing of twins (decisions that lead",
        f"to one model). A line has up to {given.seeds} seeds, as many as its time allowed;",
        f"{machine['machine']}, one core, Python {machine['python']}.",
        "",
        *(f"{line}.\n" for line in missing),
        "## Regret over trials, results known at once",
        "",
    ]
    for game in games:
        lines += over_trials(rows, game)
    lines += ["## Results known a batch at a time", ""]
    for game in games:
        lines += over_batches(rows, game, min(LATE, given.trials))
    lines += ["## Time that a proposal takes", "", "`ask` and `tell`, over the last tenth.", ""]
    lines += table(
        ["strategy", "trials", "ms a trial"],
        [
            [f"`{name}`", str(found.get("trials", "")), str(found.get("milliseconds", "refused"))]
            for name, found in overhead.items()
        ],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.with_suffix(".json").write_text(json.dumps(kept | {"overhead": overhead}, indent=1) + "\n")
    out.with_suffix(".md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
