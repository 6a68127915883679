"""How good the strategies are: regret over trials, on spaces whose scores are all known.

    python benchmarks/search.py [--quick] [--seeds 200] [--workers 2] [--only tpe local]

Plays every registered strategy, the simple references and Optuna's own samplers on tables of
trained architectures (`../shared/tabular/`; a table that is absent is skipped, which is said), on
the same tables with their operations relabelled or their options shuffled (checks that nothing is
tuned to them), and on two synthetic conditional spaces. Then with results told a batch at a time,
and for the time that a proposal takes. The seeds are none that anything was tuned with.

Regret does not depend on the machine nor on what else runs; times are of the processor. All of it
takes about an hour on two cores: slow strategies have as many seeds as `--limit` allows.
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
from _search.crew import Crew, Match, games
from _search.players import players
from _search.report import Report
from _search.summary import Row, summarised
from _search.tables import TABLES

from retiarii.strategies.registry import DEFAULT_STRATEGY

BATCHES = (4, 16, 64)
FIRST_SEED = 40_000
# What most users get is to be known best.
PATIENCE = {DEFAULT_STRATEGY: 4.0}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=200)
    parser.add_argument("--batch-seeds", type=int, default=60, help="seeds with batches")
    parser.add_argument("--trials", type=int, default=300)
    parser.add_argument(
        "--limit", type=float, default=60.0, help="seconds for a strategy, a space and a batch"
    )
    parser.add_argument("--only", nargs="*", help="these strategies, beside what OUT has")
    parser.add_argument("--workers", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--quick", action="store_true", help="two seeds, few trials: does it run?")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "search")
    given = parser.parse_args()
    if given.quick:
        given.seeds, given.batch_seeds, given.trials, given.limit = 2, 1, 20, 1.0
    for line in games(given.tables)[1]:
        print(line, flush=True)
    began = time.monotonic()
    with Crew(given.workers, given.tables) as crew:
        rows = _played(crew, given)
        overhead = _overheads(crew, given)
    facts = {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "minutes": round((time.monotonic() - began) / 60.0, 1),
        "seeds": given.seeds,
        "first_seed": FIRST_SEED,
        "trials": given.trials,
        "limit_seconds": given.limit,
    }
    kept = given.out.with_suffix(".json")
    if given.only and kept.exists():
        before = json.loads(kept.read_text())
        rows += [row for row in before["runs"] if row["strategy"] not in given.only]
        overhead = before["overhead"] | overhead
    report = Report(facts, *games(given.tables), rows, overhead)
    report.write(given.out)


def _played(crew: Crew, given: argparse.Namespace) -> list[Row]:
    known = {game.name: game for game in games(given.tables)[0]}
    matches = [
        Match(
            game,
            name,
            batch,
            given.seeds if batch == 1 else given.batch_seeds,
            given.limit * PATIENCE.get(name, 1.0) / (1.0 if batch == 1 else 2.0),
        )
        for game in known
        # What a batch costs is measured where nothing is a check.
        for batch in ((1,) if "," in game else (1, *BATCHES))
        for name in _chosen(given.only)
    ]
    rows = []
    for match, run in crew.play(matches, FIRST_SEED, given.trials):
        rows.append(summarised(match, run, known[match.game]))
        print(_short(rows[-1]), flush=True)
    return rows


def _chosen(only: list[str] | None) -> list[str]:
    return [name for name in players() if not only or name in only]


def _short(row: Row) -> str:
    head = f"{row['space']:45} {row['strategy']:22} batch {row['batch']:2}"
    if "refused" in row:
        return f"{head} {row['refused']}"
    marks = [mark for mark in ("50", "100", "150", "300") if mark in row["regret"]]
    means = " ".join(f"@{mark} {row['regret'][mark]['mean']:.3f}" for mark in marks)
    return f"{head} {row['seeds']:4} seeds {means} ({row['milliseconds']} ms)"


def _overheads(crew: Crew, given: argparse.Namespace) -> dict[str, Any]:
    trials = 20 if given.quick else 5_000
    names = [name for name in _chosen(given.only) if not name.startswith("(simple")]
    found: dict[str, Any] = {}
    for name, answer in crew.overheads(names, trials, given.limit).items():
        if isinstance(answer, str):
            found[name] = {"refused": answer}
        else:
            found[name] = {"trials": answer[0], "milliseconds": round(answer[1], 3)}
        print("overhead", name, found[name], flush=True)
    return found


if __name__ == "__main__":
    sys.exit(main())
