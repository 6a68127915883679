"""What was measured, as lines of Markdown."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from _end_to_end.contest import INLINE, PLAIN, Task
from _end_to_end.runs import Run

ABOUT = {
    "cells": "NAS-Bench-201's cells, one a stage, 8 channels, and the learning rate",
    "tuning": "one small CNN: learning rate, momentum, weight decay",
    "inception": "the README's space, two to five branches, and the learning rate",
}


def machine() -> dict[str, Any]:
    """Where it ran."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "machine": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def report(tasks: Sequence[Task]) -> list[str]:
    """The tables of all tasks."""
    lines: list[str] = []
    for task in tasks:
        lines += [f"## {task.name}: {ABOUT[task.name]}", ""]
        lines += _race(task.runs, _fastest_plain(task.runs))
        if task.own:
            lines += ["", "Each with its own TPE, and so with other candidates:", ""]
            lines += _race(task.own, _fastest_plain(task.own))
        tried = ", ".join(
            f"{name} {seconds:.0f} s" if isinstance(seconds, float) else f"{name}: {seconds}"
            for name, seconds in task.variants.items()
        )
        lines += ["", f"The plain loop in one process, by its first trials: {tried}."]
        lines += ["", *_phases(task), ""]
    return lines


def _fastest_plain(runs: dict[str, list[Run]]) -> str:
    plain = [name for name in runs if name.startswith(PLAIN)]
    return min(plain, key=lambda name: statistics.median(run.seconds for run in runs[name]))


def _race(runs: dict[str, list[Run]], fastest: str) -> list[str]:
    """A line a contestant; ratios are of the same round."""
    loop = next(name for name in runs if name.startswith(PLAIN))  # in one process
    head = "| contestant | seconds | times as fast as the loop | as the fastest by hand |"
    lines = [f"{head} to the same best, s | times as fast as the loop | best | mean |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|---:|")
    for name, own in runs.items():
        pairs = list(zip(own, runs[loop], strict=False))
        hands = [b.seconds / a.seconds for a, b in zip(own, runs[fastest], strict=False)]
        # What both have: the lower of the two best scores.
        targets = [min(a.best, b.best) for a, b in pairs]
        reached = [a.reached(t) for (a, _), t in zip(pairs, targets, strict=True)]
        sooner = [b.reached(t) / a.reached(t) for (a, b), t in zip(pairs, targets, strict=True)]
        cells = [
            name,
            _spread([run.seconds for run in own], 1),
            _spread([b.seconds / a.seconds for a, b in pairs], 2),
            _spread(hands, 2),
            _spread(reached, 1),
            _spread(sooner, 2),
            f"{max(run.best for run in own):.4f}",
            f"{statistics.mean(run.mean for run in own):.4f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _spread(values: Sequence[float], digits: int) -> str:
    middle = f"{statistics.median(values):.{digits}f}"
    if len(values) == 1:
        return middle
    return f"{middle} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _phases(task: Task) -> list[str]:
    """Where the time of ours goes, where it trains in the process itself."""
    (run,) = task.runs[INLINE]
    lines = ["| phase | seconds |", "|---|---:|"]
    rest = run.seconds - sum(run.phases.values())
    found = {**run.phases, "the process's own start and end": rest}
    for phase, seconds in sorted(found.items(), key=lambda pair: -pair[1]):
        lines.append(f"| {phase} | {seconds:.1f} |")
    return lines
