"""Merged training against serial training and its peers; scheduling; and the cost of merging.

    python benchmarks/fusion.py [speed] [scheduling] [merging] [--quick] [--out FILE]

Each row trains one workload with K models, ours and all that can compete taking turns in one run:
serial eager (foreach and fused), compiled, CUDA graphs, a process for each model, streams,
`torch.vmap`, and HFTA (``--hfta DIR``, a checkout). Batch 32, SGD with momentum.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from _fusion.merging import Merging, merging
from _fusion.processes import Pool
from _fusion.race import Pace
from _fusion.report import as_json, machine, merging_lines, scheduling_lines, speed_lines
from _fusion.scheduling import Counted, counts
from _fusion.speed import CONTESTANTS, SERIAL, Plan, Row, about, rows
from _fusion.workloads import MOMENTUM, WORKLOADS

from retiarii.optimizer.allocator import keep_memory

PARTS = ("speed", "scheduling", "merging")
QUICK = ("cnn", "hpo", "frozen", "tabular")


def options_of(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS))
    parser.add_argument("--models", nargs="+", type=int, default=[4, 8, 16, 32, 192], help="each K")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=7, help="blocks of each contestant")
    parser.add_argument("--minutes", type=float, default=20.0, help="no row begins after them")
    parser.add_argument(
        "--threads", nargs="+", type=int, help="to try; the fastest counts (1 and all cores)"
    )
    parser.add_argument("--processes", type=int, default=32, help="at most so many")
    parser.add_argument("--compile-at", nargs="*", type=int, help="K for vmap compiled (16)")
    parser.add_argument("--compile-serial", action="store_true", help="compile serial models, too")
    parser.add_argument("--compile-limit", type=float, default=90.0, help="seconds for each")
    parser.add_argument("--hfta", type=Path, help="a checkout of UofT-EcoSystem/hfta")
    parser.add_argument("--without", nargs="+", choices=CONTESTANTS, default=[])
    parser.add_argument("--check-steps", type=int, default=3, help="in float64; 0: no check")
    parser.add_argument("--largest", type=int, default=1000, help="K of the other two parts")
    parser.add_argument(
        "--quick", action="store_true", help="see that it works; times mean nothing"
    )
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    options = parser.parse_args(arguments)
    wrong = [part for part in options.parts if part not in PARTS]
    if wrong:
        parser.error(f"there is no part {wrong[0]!r}: {', '.join(PARTS)}")
    if set(SERIAL) <= set(options.without):
        parser.error("one of the serial ones has to stay: all else is compared with it")
    if options.rounds < 2:
        parser.error("a spread needs two rounds at least")
    return options


def plan_of(options: argparse.Namespace, pool: Pool) -> Plan:
    """What the command line asks for."""
    device = torch.device(options.device)
    threads = tuple(options.threads or (1, os.cpu_count() or 1))
    compile_at = options.compile_at
    if compile_at is None:  # on a CPU it takes half a minute each
        compile_at = options.models if device.type == "cuda" else [16]
    if options.quick:
        return Plan(
            device,
            pool,
            workloads=QUICK,
            models=(2,),
            pace=Pace(rounds=2, block=0.0, threads=(1,)),
            batch=4,
            check_steps=2,
            compile_at=(),
            hfta=options.hfta,
        )
    return Plan(
        device,
        pool,
        workloads=options.workloads,
        models=options.models,
        pace=Pace(options.rounds, threads=threads),
        until=time.monotonic() + 60 * options.minutes,
        check_steps=options.check_steps,
        compile_at=compile_at,
        compile_limit=options.compile_limit,
        compile_serial=options.compile_serial,
        hfta=options.hfta,
        without=options.without,
    )


@dataclass
class Found:
    """What was measured so far.

    Attributes:
        rows: of the race.
        left_out: sentences about rows that were not run.
        scheduled: forests under all scheduling rules.
        merged: seconds of merging.
    """

    rows: list[Row] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    scheduled: list[Counted] = field(default_factory=list)
    merged: Merging | None = None

    def lines(self, plan: Plan) -> list[str]:
        """Everything as Markdown."""
        where = machine(plan.device)
        threads = " or ".join(map(str, dict.fromkeys(plan.pace.threads)))
        lines = [
            f"Measured on {where['machine']}, {where['cores']} cores, torch {where['torch']}; "
            f"batch {plan.batch}, threads {threads}, whichever is faster for each."
        ]
        if self.rows or self.left_out:
            lines += ["", *speed_lines(self.rows, self.left_out)]
        if self.scheduled:
            lines += ["", *scheduling_lines(self.scheduled)]
        if self.merged is not None:
            lines += ["", *merging_lines(self.merged)]
        return lines

    def write(self, out: Path, plan: Plan, keeps: bool) -> None:
        """OUT.md and OUT.json, of what there is by now."""
        settings = {
            "batch": plan.batch,
            "momentum": MOMENTUM,
            "rounds": plan.pace.rounds,
            "threads tried": plan.pace.threads,
            "keeps freed memory": keeps,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".md").write_text("\n".join(self.lines(plan)) + "\n")
        found = as_json(
            machine(plan.device), settings, self.rows, self.left_out, self.scheduled, self.merged
        )
        out.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")


def measure(
    found: Found, parts: Sequence[str], largest: int, plan: Plan, pool: Pool
) -> Iterator[str]:
    """Measures part after part; a line about each thing that is done, once it is in ``found``."""
    # The other parts first: they are short, and the race takes the time that is left.
    if "scheduling" in parts:
        for each in counts(largest):
            found.scheduled.append(each)
            best = min(each.groups.values())
            yield f"scheduling {each.forest} x {each.models}: {best} groups, bound {each.bound}"
    if "merging" in parts:
        sizes = [n for n in (10, 100, 1000) if n <= largest]
        found.merged = merging(sizes if len(sizes) > 1 else (2, 4))
        yield f"merging: {', '.join(f'{s:.2f} s' for s in found.merged.seconds)}"
    if "speed" in parts:
        with closing(pool):
            for row in rows(plan):
                if isinstance(row, Row):
                    found.rows.append(row)
                else:
                    found.left_out.append(row)
                yield about(row)


def main() -> None:
    options = options_of()
    keeps = keep_memory()  # process-wide: for all contestants alike
    torch.set_num_threads(1)  # but for the race, which sets its own
    pool = Pool(keeps, 2 if options.quick else options.processes)
    plan = plan_of(options, pool)
    largest = 4 if options.quick else options.largest
    found, begin, broken = Found(), time.monotonic(), False
    try:
        for line in measure(found, options.parts or PARTS, largest, plan, pool):
            print(f"{time.monotonic() - begin:5.0f} s  {line}", file=sys.stderr, flush=True)
            if options.out:  # whatever happens to the rest
                found.write(options.out, plan, keeps)
    except KeyboardInterrupt:
        broken = True
        found.left_out.append("the rest: interrupted")
        if options.out:
            found.write(options.out, plan, keeps)
    print("\n".join(found.lines(plan)))
    if broken:
        raise SystemExit(130)


if __name__ == "__main__":
    main()
