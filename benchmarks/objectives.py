"""Several objectives: fronts that strategies find, what proxies tell, how latency is predicted.

    python benchmarks/objectives.py [--seeds 20] [--cells 96] [--tables DIR]

Three parts, on NAS-Bench-201:

1. Accuracy against parameters, on the table of trained cells (`../shared/tabular/`; skipped, which
   is said, where it is absent): the part of all cells' hypervolume after 50 and 150 trials.
2. Proxies of random cells in a small network, on noise: Kendall's rank correlation with the table's
   accuracies, and seconds for a cohort of 16 in one merged pass against one by one.
3. Latency of random cells, measured; the predictor is fitted to 32 and tried on the others.

Times are of this machine, and depend on what else runs.
"""

# ruff: noqa: E402 - the number of threads must be known before the libraries are loaded
from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, cast

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import torch
from _search.tables import NB201, TABLES, Models, TableSpace
from torch import nn

from retiarii.objectives.pareto import hypervolume
from retiarii.objectives.predictor import LatencyPredictor, features, kendall
from retiarii.objectives.standing import Standing
from retiarii.proxies.base import Sample
from retiarii.proxies.passes import run
from retiarii.proxies.registry import REGISTERED, make_proxy
from retiarii.search_space import SearchSpace
from retiarii.spaces import nas_bench_201
from retiarii.spaces.nas_bench_201 import decisions_201
from retiarii.strategies.registry import make_strategy

STRATEGIES = ("random", "evolution", "local", "predictor", "reinforce", "tpe", "nsga2", "nsga3")
TRIALS = 150
EARLY = 50
COHORT = 16
BATCH = 32
FITTED = 32
# Percent of accuracy, and no parameters saved: what a front is measured from.
REFERENCE = (80.0, 0.0)

Row = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--cells", type=int, default=96, help="random cells of parts 2 and 3")
    parser.add_argument("--tables", type=Path, default=TABLES)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/objectives")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found: Row = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    }
    scores: dict[tuple[int, ...], float] = {}
    if (given.tables / NB201.file).is_file():
        scores = NB201.scores(given.tables)
        found["fronts"] = fronts(given.tables, scores, given.seeds)
    else:
        print(f"skipped: {given.tables / NB201.file} is not there")
    found["proxies"] = proxies(scores, given.cells)
    found["latency"] = predicted(given.cells)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


def say(title: str, rows: Sequence[Row]) -> None:
    print(f"\n{title}")
    names = list(rows[0])
    print("  ".join(f"{name:>16}" for name in names))
    for row in rows:
        cells = [f"{v:.3f}" if isinstance(v, float) else str(v) for v in row.values()]
        print("  ".join(f"{cell:>16}" for cell in cells), flush=True)


# --- 1: fronts ---------------------------------------------------------------------------------


def fronts(tables: Path, scores: dict[tuple[int, ...], float], seeds: int) -> list[Row]:
    models = Models(nas_bench_201())
    identity = tuple(range(NB201.options))
    space = TableSpace(
        NB201, models, scores, max(scores.values()), (identity,) * len(NB201.labels), identity
    )
    most = models.point(NB201.labels, (3,) * 6).candidate
    assert most is not None
    largest = float(most.cost().params)

    def values(point: Any) -> tuple[float, float]:
        return space.score(point), largest - point.candidate.cost().params

    with (tables / NB201.file).open() as rows:
        next(rows)
        table = [(float(a), largest - int(p)) for _, p, a in (row.split(",") for row in rows)]
    whole = hypervolume(table, REFERENCE)
    made = []
    for name in STRATEGIES:
        parts = [_play(name, space, values, seed) for seed in range(seeds)]
        shares = [[hypervolume(p[:n], REFERENCE) / whole for p in parts] for n in (EARLY, TRIALS)]
        made.append(
            {
                "strategy": name,
                f"after {EARLY}": statistics.mean(shares[0]),
                f"after {TRIALS}": statistics.mean(shares[1]),
                "worst seed": min(shares[1]),
            }
        )
    say(f"1. part of the hypervolume of all cells, mean of {seeds} seeds, one at a time", made)
    return made


def _play(name: str, space: TableSpace, values: Any, seed: int) -> list[tuple[float, float]]:
    strategy = make_strategy(name)
    strategy.objectives = 2 if strategy.several else 1
    strategy.begin(cast(SearchSpace, space), seed)
    standing = Standing()
    found = []
    for number in range(TRIALS):
        if number and not strategy.several:
            strategy.rescore(standing.scores())
        point = strategy.ask(number)
        assert point is not None
        found.append(values(point))
        if strategy.several:
            strategy.tell_all(number, found[-1])
        else:
            standing.add(number, found[-1])
            strategy.tell(number, standing.scores()[number])
    return found


# --- 2: proxies --------------------------------------------------------------------------------


def _cells(count: int) -> list[str]:
    rng = Random(0)
    return ["".join(rng.choice("01234") for _ in range(6)) for _ in range(count)]


def proxies(scores: dict[tuple[int, ...], float], count: int) -> list[Row]:
    space = nas_bench_201(channels=8, cells=1, input_size=16)
    cells = _cells(count)
    candidates = [space.freeze(decisions_201(cell)) for cell in cells]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(BATCH, 3, 16, 16, generator=generator, dtype=torch.float64)
    sample = Sample((x,), {}, torch.arange(BATCH) % 10, nn.CrossEntropyLoss())
    made = []
    for name in REGISTERED:
        took = {True: 0.0, False: 0.0}
        values: dict[bool, list[float]] = {True: [], False: []}
        for start in range(0, count, COHORT):
            for merge in (True, False):
                modules = [c.build(0) for c in candidates[start : start + COHORT]]
                began = time.perf_counter()
                values[merge] += run(make_proxy(name), modules, sample, 0, merge=merge)
                took[merge] += time.perf_counter() - began
        finite = [i for i, v in enumerate(values[True]) if abs(v) < float("inf")]
        off = max(
            abs(a / b - 1) for i in finite for a, b in [(values[True][i], values[False][i])] if b
        )
        row: Row = {"proxy": name, "finite": f"{len(finite)}/{count}"}
        if scores:
            truth = [scores[tuple(map(int, cells[i]))] for i in finite]
            row["kendall"] = kendall([values[True][i] for i in finite], truth)
        cohorts = -(-count // COHORT)
        row |= {"merged s": took[True] / cohorts, "alone s": took[False] / cohorts}
        made.append(row | {"largest difference": f"{off:.0e}"})
    say(f"2. proxies of {count} random cells, cohorts of {COHORT}, {BATCH} samples", made)
    return made


# --- 3: latency --------------------------------------------------------------------------------


def predicted(count: int) -> list[Row]:
    space = nas_bench_201(channels=8, cells=2, input_size=16)
    cells = list(dict.fromkeys(_cells(count)))
    measured = []
    for cell in cells:
        graph = space.freeze(decisions_201(cell)).graph
        seconds = graph.latency(batch=8, fresh=True).seconds
        measured.append((features(graph.cost(batch=8)), seconds))
    predictor = LatencyPredictor.fit(measured[:FITTED])
    rest = measured[FITTED:]
    guesses = [predictor.predict(known) for known, _ in rest]
    truth = [seconds for _, seconds in rest]
    errors = [abs(g / t - 1) for g, t in zip(guesses, truth, strict=True)]
    row = {
        "fitted to": FITTED,
        "said error": predictor.error,
        "said rank": predictor.rank,
        "tried on": len(rest),
        "error": statistics.median(errors),
        "rank": kendall(guesses, truth),
    }
    say("3. latency predicted, as the predictor says and on other models", [row])
    return [row]


if __name__ == "__main__":
    main()
