"""What dispatch costs: executors, more workers, suspending a cohort, and the controller.

    python benchmarks/dispatch.py [--quick] [--only costs scaling suspending control] [--out FILE]

Leave the machine alone meanwhile. It takes three minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from _dispatch.controlling import Control, control
from _dispatch.executors import EXECUTORS, Cost, Scaling, costs, scaling
from _dispatch.suspending import Suspension, suspend

PARTS = ("costs", "scaling", "suspending", "control")


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--cohorts", type=int, default=12, help="of each executor")
    parser.add_argument("--seconds", type=float, default=1.0, help="that a cohort takes")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="to scale over")
    parser.add_argument("--trials", type=int, default=10_000, help="of the controller's search")
    parser.add_argument("--quick", action="store_true", help="does it run? times mean nothing")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/dispatch")
    given = parser.parse_args(arguments)
    if given.quick:
        given.cohorts, given.seconds, given.trials = 2, 0.2, 300
    return given


def main() -> None:
    given = options_of()
    # As `retiarii run` has it; workers read it when they load torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    kept: dict[str, Any] = {"machine": machine()}
    text = ["# Dispatch", "", _about(kept["machine"]), ""]
    for part in PARTS:
        if part in given.only:
            found, lines = _RUN[part](given)
            kept[part] = found
            text += lines
            print("\n".join(lines), flush=True)
            given.out.parent.mkdir(parents=True, exist_ok=True)
            given.out.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")
            given.out.with_suffix(".md").write_text("\n".join(text))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _costs(given: argparse.Namespace) -> tuple[list[Any], list[str]]:
    names = [n for n in EXECUTORS if n != "ray" or find_spec("ray") is not None]
    found: list[Cost] = costs(names, given.cohorts, given.seconds)
    rows = [
        [
            c.executor,
            f"{c.start:.2f} s",
            f"{1000 * (sorted(c.seconds)[len(c.seconds) // 2] - c.asked):.1f} ms",
            "" if c.over is None else f"{c.over:+.2%}",
        ]
        for c in found
    ]
    head = ["executor", "start", f"beyond {given.seconds:g} s a cohort", "over inline"]
    return [asdict(c) for c in found], _table(
        "Executors",
        f"{given.cohorts} cohorts of 16 trials, one after the other, each {given.seconds:g} s long "
        "with five reports of every trial. Start: from making the executor to the first trial's "
        "start, libraries included where a process loads them.",
        head,
        rows,
    )


def _scaling(given: argparse.Namespace) -> tuple[list[Any], list[str]]:
    trials, rounds = (4, 200_000) if given.quick else (16, 10_000_000)
    found: list[Scaling] = scaling(given.workers, trials, rounds)
    rows = [[str(s.workers), f"{s.seconds:.2f} s", f"{s.speedup:.2f}"] for s in found]
    return [asdict(s) for s in found], _table(
        "Workers",
        f"{trials} trials that compute on one core, in worker processes of this machine.",
        ["workers", "time", "times as fast"],
        rows,
    )


def _suspending(given: argparse.Namespace) -> tuple[list[Any], list[str]]:
    sizes = [2] if given.quick else [1, 16]
    found: list[Suspension] = [suspend(size) for size in sizes]
    rows = [
        [
            str(s.trials),
            f"{s.epoch:.2f} s",
            f"{s.leave:.2f} s",
            f"{s.back:.2f} s",
            f"{s.suspending + s.resuming:.2f} s",
        ]
        for s in found
    ]
    return [asdict(s) for s in found], _table(
        "Suspending a cohort",
        "The digits example, in a worker. Leaving: from the request to the last trial handed back. "
        "Going on: from the launch to the first report of a new epoch; the models are merged anew, "
        "and their checkpoints read. Each may include an epoch; what is beyond that is the price.",
        ["trials", "an epoch", "leaving", "going on", "both, beyond an epoch each"],
        rows,
    )


def _control(given: argparse.Namespace) -> tuple[list[Any], list[str]]:
    workers = 30 if given.quick else 1000
    found: list[Control] = []
    # Each in a process of its own: what one has freed would hide what the next takes.
    spawn = multiprocessing.get_context("spawn")
    for reports, adapt in ((1, False), (10, False), (1, True)):
        with ProcessPoolExecutor(1, mp_context=spawn) as alone:
            c = alone.submit(control, given.trials, workers, reports, adapt).result()
        _say(f"controller, {c.policy}, {c.reports} reports: {c.milliseconds:.2f} ms a trial")
        found.append(c)
    rows = [
        [
            c.policy,
            str(c.reports),
            f"{c.milliseconds:.2f} ms",
            f"{c.ask:.2f} ms",
            f"{c.memory[-1][1] - c.memory[0][1]:.0f} MB",
            f"{c.stored:.0f} B",
            f"{c.stored - c.metrics:.0f} B",
        ]
        for c in found
    ]
    return [asdict(c) for c in found], _table(
        "The controller",
        f"{given.trials:,} trials of six hyper-parameters on {workers:,} workers that are made up "
        "and answer at once; the loop, dispatcher and SQLite store are the real ones. Times are of "
        "the processor; growth is that of the process from its first tenth on.",
        ["policy", "reports", "a trial", "of it proposing", "growth", "store", "without metrics"],
        rows,
    )


_RUN: dict[str, Callable[[argparse.Namespace], tuple[list[Any], list[str]]]] = {
    "costs": _costs,
    "scaling": _scaling,
    "suspending": _suspending,
    "control": _control,
}


def _table(title: str, about: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"## {title}", "", about, "", *(f"| {' | '.join(line)} |" for line in lines), ""]


def machine() -> dict[str, Any]:
    """Where this runs, and what else ran there when it began."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "when": time.strftime("%Y-%m-%d"),
        "load": round(os.getloadavg()[0], 1),
    }


def _about(where: dict[str, Any]) -> str:
    return (
        f"{where['cores']} cores, Python {where['python']}, {where['when']}; "
        f"load {where['load']} when it began."
    )


if __name__ == "__main__":
    main()
