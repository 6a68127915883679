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
import time
from pathlib import Path

import torch
from _fusion.merging import merging
from _fusion.processes import Pool
from _fusion.race import Pace
from _fusion.report import as_json, machine, merging_lines, scheduling_lines, speed_lines
from _fusion.scheduling import counts
from _fusion.speed import CONTESTANTS, SERIAL, Plan, Row, rows, say
from _fusion.workloads import BATCH, MOMENTUM, WORKLOADS

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
    parser.add_argument("--models", nargs="+", type=int, default=[4, 8, 16, 32], help="each K")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=7, help="blocks of each contestant")
    parser.add_argument("--minutes", type=float, default=9.5, help="no row begins after them")
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


def main() -> None:
    options = options_of()
    parts = options.parts or PARTS
    keeps = keep_memory()  # process-wide: for all contestants alike
    torch.set_num_threads(1)  # but for the race, which sets its own
    pool = Pool(keeps, 2 if options.quick else options.processes)
    plan = plan_of(options, pool)
    largest = 4 if options.quick else options.largest
    done: list[Row] = []
    left_out: list[str] = []
    where = machine(plan.device)
    settings = {
        "batch": plan.batch,
        "momentum": MOMENTUM,
        "rounds": plan.pace.rounds,
        "threads tried": plan.pace.threads,
        "keeps freed memory": keeps,
    }
    # The other parts first: they are short, and the race takes the time that is left.
    scheduled = list(counts(largest)) if "scheduling" in parts else []
    sizes = [n for n in (10, 100, 1000) if n <= largest]
    merged = merging(sizes if len(sizes) > 1 else (2, 4)) if "merging" in parts else None
    if "speed" in parts:
        try:
            for row in rows(plan):
                say(row)
                if isinstance(row, Row):
                    done.append(row)
                else:
                    left_out.append(row)
        finally:
            pool.close()
    lines = [
        f"Measured on {where['machine']}, {where['cores']} cores, torch {where['torch']}; "
        f"batch {BATCH if not options.quick else plan.batch}, threads "
        f"{' or '.join(map(str, dict.fromkeys(plan.pace.threads)))}, whichever is faster for each."
    ]
    if "speed" in parts:
        lines += ["", *speed_lines(done, left_out)]
    if scheduled:
        lines += ["", *scheduling_lines(scheduled)]
    if merged is not None:
        lines += ["", *merging_lines(merged)]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        found = as_json(where, settings, done, left_out, scheduled, merged)
        options.out.with_suffix(".md").write_text(text)
        options.out.with_suffix(".json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
