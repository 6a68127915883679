"""A whole search, by us and by Optuna with plain PyTorch: the time to the same best score.

    python benchmarks/end_to_end.py [--tasks cells tuning inception] [--minutes 10] [--out FILE]

64 trials on scikit-learn's digits, from the start of the process to its end: ``retiarii run`` as it
comes, with ``--workers 2``, and with ``--fuse off``; and a loop as a good engineer writes it, in
one process (one thread or several, either memory format: the fastest) or several. All train the
same candidates, in turns. None of them is another's twin, as each has a learning rate of its own:
what ours saves where models are equal is not in these numbers.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path

from _end_to_end.contest import Contest, Task, play
from _end_to_end.report import machine, report
from _end_to_end.runs import Runs

TASKS = ("cells", "tuning", "inception")


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--rounds", type=int, default=3, help="searches of each, at most")
    parser.add_argument(
        "--minutes", type=float, default=8, help="after which no further round begins"
    )
    parser.add_argument("--epochs", type=int, default=10, help="of each trial")
    parser.add_argument("--trials", type=int, default=64, help="of each search")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--compile", action="store_true", help="also try torch.compile by hand; takes minutes"
    )
    parser.add_argument("--own", action="store_true", help="also each with its own strategy")
    parser.add_argument(
        "--quick", action="store_true", help="see that it works; times mean nothing"
    )
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results/end_to_end")
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.trials < 2 or given.epochs < 1:
        parser.error("one round, two trials, one epoch at least")
    if given.quick:
        given.tasks, given.rounds, given.trials, given.epochs = ["tuning"], 1, 4, 1
    return given


def main() -> None:
    given = options_of()
    folder = Path(tempfile.mkdtemp(prefix="end-to-end-"))
    tasks: list[Task] = []
    try:
        runs = Runs(folder, given.epochs, given.trials)
        seconds = 60 * given.minutes / len(given.tasks)
        contest = Contest(runs, given.rounds, seconds, given.workers, given.compile)
        for name in given.tasks:
            tasks.append(play(contest, name, own=given.own))
            print("\n".join(report(tasks[-1:])), flush=True)
            _write(given, tasks)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(given: argparse.Namespace, tasks: list[Task]) -> None:
    """After each task, so that what is cut off keeps what it has."""
    where = machine() | {"epochs": given.epochs, "trials": given.trials}
    head = [
        f"Measured on {where['machine']}, {where['cores']} cores, torch {where['torch']}: "
        f"{given.trials} trials of {given.epochs} epochs.",
        "",
    ]
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.with_suffix(".md").write_text("\n".join([*head, *report(tasks)]) + "\n")
    kept = where | {"tasks": [asdict(task) for task in tasks]}
    given.out.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
