"""What was measured, as Markdown and as JSON."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from _fusion.merging import Merging
from _fusion.scheduling import RULES, Counted
from _fusion.speed import CONTESTANTS, OURS, Entry, Row
from _fusion.workloads import WORKLOADS

MIB = 2**20


def machine(device: torch.device) -> dict[str, Any]:
    """Where it ran."""
    cuda = device.type == "cuda"
    name = torch.cuda.get_device_name(device) if cuda else _processor()
    return {
        "machine": name,
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device.type,
    }


def _processor() -> str:
    file = Path("/proc/cpuinfo")
    if file.exists():
        for line in file.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; numbers, which is all but the first column, to the right."""
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return lines + [f"| {' | '.join(cells)} |" for cells in body]


def speed_lines(rows: Sequence[Row], left_out: Sequence[str]) -> list[str]:
    """The table of the race, and what did not take part."""
    if not rows:
        return [f"- {text}" for text in left_out]
    order = list(WORKLOADS)
    rows = sorted(rows, key=lambda r: (order.index(r.workload), r.models))
    present = [n for n in CONTESTANTS if any(n in r.entries for r in rows)]
    ours = [n for n in ("rt.merge", "cohort") if n in present]
    head = ["workload", "K", "serial, ms", *present]
    head += [f"calls: serial / {' / '.join(ours)}", f"MiB: serial / {' / '.join(ours)}"]
    head += ["merge, s", "repaid after", "difference"]
    body = [_cells(row, present, ours) for row in rows]
    lines = [
        "Times faster than serial eager (the better of foreach and fused SGD): the median of the "
        "rounds, in brackets the quartiles. Calls of kernels and the peak of memory are of one "
        "step of all models; merging is repaid after so many steps; the difference is the largest "
        "of any tensor from training alone, in float64.",
        "",
        *table(head, body),
        "",
        *(f"- {name}: {WORKLOADS[name].about}" for name in order if _has(rows, name)),
    ]
    compiling = [
        f"- {name}, {row.workload} x {row.models}: {entry.setup:.0f} s, repaid after {_even(entry)}"
        for row in rows
        for name, entry in row.entries.items()
        if name not in OURS and entry.setup > 0
    ]
    if compiling:
        lines += ["", "Compiling, and steps that repay it:", "", *compiling]
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, why in row.skipped.items():
            reasons.setdefault((name, why), []).append(f"{row.workload} x {row.models}")
    if reasons or left_out:
        lines += ["", "Not there:", ""]
        for (name, why), where in reasons.items():
            every = len(where) == len(rows)
            lines.append(f"- {name}: {why}" + ("" if every else f" ({', '.join(where)})"))
        lines += [f"- {text}" for text in left_out]
    return lines


def _has(rows: Sequence[Row], name: str) -> bool:
    return any(row.workload == name for row in rows)


def _cells(row: Row, present: Sequence[str], ours: Sequence[str]) -> list[str]:
    entries = row.entries
    ratios = [str(entries[n].ratio) if n in entries else "" for n in present]
    columns = [row.baseline, *(n for n in ours if n in entries)]
    calls = " / ".join(_shown(entries[n].calls, 1, 0) for n in columns)
    peaks = " / ".join(_shown(entries[n].peak, MIB, 1) for n in columns)
    merged = entries.get(ours[-1]) if ours else None
    last = ["", ""]
    if merged is not None:
        last = [f"{merged.setup:.2f}", _even(merged)]
    worst = f"{max(row.differences.values()):.0e}" if row.differences else ""
    base = f"{entries[row.baseline].ms:.1f}"
    return [row.workload, str(row.models), base, *ratios, calls, peaks, *last, worst]


def _even(entry: Entry) -> str:
    return "never" if entry.even is None else f"{entry.even:,.0f}"


def _shown(value: float | None, unit: float, digits: int) -> str:
    return "?" if value is None else f"{value / unit:,.{digits}f}"


def scheduling_lines(found: Sequence[Counted]) -> list[str]:
    """Groups that each rule launches."""
    head = ["forest", "K", "nodes", *RULES, "optimum", "bound", "frontier, ms"]
    body = [
        [
            each.forest,
            f"{each.models:,}",
            f"{each.nodes:,}",
            *(str(each.groups[rule]) for rule in RULES),
            "?" if each.optimum is None else str(each.optimum),
            str(each.bound),
            f"{each.seconds['frontier'] * 1e3:.0f}",
        ]
        for each in found
    ]
    about = "Groups launched by each scheduling rule; the optimum, where a search for it ended."
    return [about, "", *table(head, body)]


def merging_lines(found: Merging) -> list[str]:
    """Seconds to merge."""
    head = ["`rt.merge`", *(f"{n:,} models" for n in found.models), "exponent"]
    body = ["seconds", *(f"{s:.2f}" for s in found.seconds), f"{found.exponent:.2f}"]
    return [*table(head, [body]), "", f"The last: {found.stats}."]


def as_json(
    where: dict[str, Any],
    settings: dict[str, Any],
    rows: Sequence[Row],
    left_out: Sequence[str],
    scheduled: Sequence[Counted],
    merged: Merging | None,
) -> dict[str, Any]:
    """Everything."""
    return {
        **where,
        "settings": settings,
        "speed": [asdict(row) for row in rows],
        "left out": list(left_out),
        "scheduling": [asdict(each) for each in scheduled],
        "merging": None if merged is None else asdict(merged),
    }
