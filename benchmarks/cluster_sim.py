"""Searches on 1 to 1,000 devices, played event by event: how good the dispatch policies are.

    retiarii bench cluster_sim [--quick] [--out benchmarks/results/cluster_sim]

The policies, and the dispatcher that carries them out, are the product's own; devices and trials
are made up, with the speeds of cohorts that `benchmarks/fusion.py` measured. Half of the trials
stop early, devices fail, and one in four is half as fast. Against: one model a device (as in NNI),
as many models a device without merging, merging of equal architectures alone (HFTA), and cohorts
just as they were proposed, first in, first out. Then the simulation is checked against real
searches on this machine, and the dispatcher's own time is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from _cluster.real import Check, check
from _cluster.searches import Outcome, Search, play
from _cluster.simulated import Machine
from _cluster.speeds import merged, scaled, separate
from rich.console import Console
from rich.table import Table

from retiarii.dispatch.adaptive import Adaptive
from retiarii.dispatch.fixed import AsGiven
from retiarii.dispatch.state import Policy

RESULTS = Path(__file__).parent / "results"
# Of one model alone on a device of full speed, in trial-epochs a second.
ALONE = 0.1
HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class Contestant:
    """A way to use devices.

    Attributes:
        policy: who decides.
        equal: whether only equal architectures are merged.
        merges: whether models are merged at all.
        regroup: whether trials of different proposals may be trained together.
    """

    policy: Policy
    equal: bool = False
    merges: bool = True
    regroup: bool = True


CONTESTANTS: Mapping[str, Contestant] = {
    "one model a device": Contestant(AsGiven(most=1), merges=False),
    "16 a device, not merged": Contestant(AsGiven(most=16), merges=False),
    "equal models merged": Contestant(AsGiven(most=32), equal=True),
    "as proposed (default)": Contestant(AsGiven(), regroup=False),
    "adaptive (--cohort auto)": Contestant(Adaptive()),
}


def cluster(
    count: int, gain: Mapping[int, float], merging: tuple[float, float], mtbf: float
) -> list[tuple[Machine, int]]:
    """``count`` devices, a quarter of them half as fast."""
    slow = count // 4
    fast = Machine("fast", scaled(gain, ALONE), merging, mtbf=mtbf)
    old = Machine("slow", scaled(gain, ALONE / 2), merging, mtbf=mtbf)
    return [(fast, count - slow), *([(old, slow)] if slow else [])]


def compare(
    devices: int,
    search: Search,
    speeds: tuple[Mapping[int, float], Mapping[int, float]],
    mtbf: float,
) -> dict[str, Outcome]:
    """The outcome of each contestant."""
    found = {}
    for name, each in CONTESTANTS.items():
        gain = speeds[0] if each.merges else speeds[1]
        # A model of its own needs no merging, but a process and the data all the same.
        merging = (2.0, 0.02) if each.merges else (2.0, 0.0)
        machines = cluster(devices, gain, merging, mtbf)
        found[name] = play(search, machines, each.policy, equal=each.equal, regroup=each.regroup)
    return found


def shown(title: str, outcomes: Mapping[str, Outcome], console: Console) -> list[str]:
    """A table, printed and as Markdown."""
    base = outcomes["one model a device"]
    columns = ["", "makespan", "speed-up", "time to the best", "utilisation", "lost work"]
    rows = [
        [
            name,
            f"{o.makespan / HOUR:.2f} h",
            f"{base.makespan / o.makespan:.2f}",
            f"{o.best / HOUR:.2f} h",
            f"{o.utilisation:.0%}",
            f"{o.wasted:.1%}",
        ]
        for name, o in outcomes.items()
    ]
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    lines = [f"### {title}", "", _line(columns), _line(["---"] * len(columns))]
    return [*lines, *map(_line, rows), ""]


def checked(checks: Sequence[Check], console: Console) -> list[str]:
    """How far the simulation is off, printed and as Markdown."""
    columns = ["cohort", "trials", "real", "simulated", "error"]
    rows = [
        [str(c.cohort), str(c.trials), f"{c.real:.1f} s", f"{c.played:.1f} s", f"{c.error:+.1%}"]
        for c in checks
    ]
    table = Table(*columns, title="Against real searches on this machine")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    lines = ["## Against real searches on this machine", "", _line(columns)]
    return [*lines, _line(["---"] * len(columns)), *map(_line, rows), ""]


def control(trials: int, devices: int) -> Outcome:
    """Many trials on many devices, all at once: what the dispatcher itself costs."""
    machines = [(Machine("fast", {1: 0.1, 16: 0.4}, mtbf=50 * HOUR), devices)]
    return play(Search(trials, window=2 * devices // 16), machines, Adaptive())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--devices", type=int, nargs="*", default=[1, 8, 64, 1000])
    parser.add_argument("--mtbf", type=float, default=24.0, help="hours between failures of one")
    parser.add_argument("--workload", default="nb201-8", help="of benchmarks/results/fusion.json")
    parser.add_argument("--fusion", type=Path, default=RESULTS / "fusion.json")
    parser.add_argument("--no-real", action="store_true", help="no check against real searches")
    parser.add_argument("--quick", action="store_true", help="few trials: does it run?")
    parser.add_argument("--out", type=Path, help="also write OUT.json and OUT.md")
    given = parser.parse_args()
    if given.quick:
        given.trials, given.devices = 200, [1, 8]
    console = Console()
    speeds = merged(given.fusion, given.workload), separate(given.fusion, given.workload)
    kept: dict[str, Any] = {"machine": machine(), "speeds": speeds, "played": {}}
    text = ["# Dispatch policies, simulated", "", _about(given, speeds), ""]
    for devices in given.devices:
        outcomes = compare(devices, Search(given.trials), speeds, given.mtbf * HOUR)
        kept["played"][devices] = {name: asdict(o) for name, o in outcomes.items()}
        assert not any(o.twice for o in outcomes.values())
        text += shown(f"{given.trials:,} trials, {devices:,} devices", outcomes, console)
    cost = control(given.trials, 1000)
    line = (
        f"{given.trials:,} trials on 1,000 devices: {1000 * cost.control:.2f} ms of this machine a "
        "trial, for the dispatcher, the policy and the simulation together."
    )
    console.print(line)
    kept["control_ms"] = 1000 * cost.control
    text += ["## What it costs", "", line, ""]
    if not given.no_real:
        sizes = [(4, 8)] if given.quick else [(4, 32), (16, 64)]
        checks = [check(cohort, trials, console.print) for cohort, trials in sizes]
        kept["checks"] = [asdict(c) for c in checks]
        text += checked(checks, console)
    if given.out is not None:
        given.out.with_suffix(".json").write_text(json.dumps(kept, indent=1) + "\n")
        given.out.with_suffix(".md").write_text("\n".join(text))


def machine() -> dict[str, Any]:
    """Where this runs."""
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "when": time.strftime("%Y-%m-%d"),
    }


def _about(given: argparse.Namespace, speeds: tuple[Mapping[int, float], ...]) -> str:
    gains = ", ".join(f"{ratio:.1f} at {size}" for size, ratio in speeds[0].items())
    apart = ", ".join(f"{ratio:.1f} at {size}" for size, ratio in speeds[1].items())
    return (
        f"Cohorts train at the speeds measured for `{given.workload}` ({gains}); models in "
        f"processes of their own at {apart}. A device fails every {given.mtbf:g} hours, for a "
        "minute; one in four is half as fast; half of the trials stop early; of 1,000 "
        "architectures some are drawn much more often than others."
    )


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
