"""How fast cohorts train, as `benchmarks/fusion.py` measured it on this project's machines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

# Contestants of that benchmark, and what they stand for here.
MERGED, PROCESSES = "cohort", "processes"
# Without a measurement of separate processes on one device: no gain, and no loss.
_NO_GAIN: Mapping[int, float] = {1: 1.0}


def gains(results: Path, workload: str, contestant: str) -> dict[int, float]:
    """Models -> how many times as fast as one after the other; empty where nothing was measured."""
    found = {1: 1.0}
    for row in json.loads(results.read_text())["speed"]:
        entry = row["entries"].get(contestant)
        if row["workload"] == workload and entry is not None:
            found[row["models"]] = entry["ratio"]["median"]
    return found if len(found) > 1 else {}


def merged(results: Path, workload: str) -> dict[int, float]:
    """As `gains`, of cohorts.

    Raises:
        ValueError: the results have none.
    """
    found = gains(results, workload, MERGED)
    if not found:
        raise ValueError(f"{results} has no row of {workload!r}: run benchmarks/fusion.py")
    return found


def separate(results: Path, workload: str) -> dict[int, float]:
    """As `gains`, of processes of their own on one device."""
    return gains(results, workload, PROCESSES) or dict(_NO_GAIN)


def scaled(gain: Mapping[int, float], alone: float) -> dict[int, float]:
    """Trial-epochs a second, where one model alone has ``alone``."""
    return {size: each * alone for size, each in gain.items()}
