"""The race: each workload at each number of models, ours against serial training and peers."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor

from _fusion.contestant import Contestant, SkippedError
from _fusion.exact import differences
from _fusion.graphs import CohortGraph, MergedGraph, SerialGraphs, Streams
from _fusion.hfta import Hfta
from _fusion.ours import CohortLoop, Merged
from _fusion.processes import Pool, Processes
from _fusion.race import Lap, Pace, Ratio, race
from _fusion.serial import Compiled, Features, Serial
from _fusion.vmapped import VmapCompiled, Vmapped
from _fusion.watching import watched_step
from _fusion.workloads import BATCH, WORKLOADS, Cohort

# Losses of the first step may differ by rounding alone.
CLOSE = 1e-3
SERIAL = ("foreach", "fused")
# The numbers of models that the goals are about; what is trained in larger numbers, for its memory.
MAIN, LARGE = (16, 32), ("cnn",)
OURS = ("rt.merge", "rt.merge, fused", "cohort")


@dataclass(frozen=True)
class Plan:
    """What to run.

    Attributes:
        device: where.
        pool: processes.
        workloads: by name.
        models: numbers of models.
        pace: how long to measure.
        until: by `time.monotonic`: no row begins after it.
        batch: samples a step.
        check_steps: steps of the check in float64; 0 leaves it out.
        compile_at: numbers of models at which vmap is compiled.
        compile_limit: seconds that a contestant may compile.
        compile_serial: whether serial models are compiled, too.
        hfta: a checkout.
        without: contestants that stay away.
    """

    device: torch.device
    pool: Pool
    workloads: Sequence[str] = tuple(WORKLOADS)
    models: Sequence[int] = (4, 8, 16, 32)
    pace: Pace = field(default_factory=Pace)
    until: float = float("inf")
    batch: int = BATCH
    check_steps: int = 3
    compile_at: Sequence[int] = (16,)
    compile_limit: float = 90.0
    compile_serial: bool = False
    hfta: Path | None = None
    without: Sequence[str] = ()


@dataclass(frozen=True)
class Entry:
    """One contestant in one row.

    Attributes:
        ms: of a step of all models, the median of the rounds.
        ratio: over serial eager.
        threads: that it was fastest with.
        calls: of kernels in a step; ``None`` where they cannot be counted.
        peak: bytes; ``None`` where they cannot be seen.
        setup: seconds of merging or compiling.
        even: steps after which ``setup`` is repaid; ``None`` for never.
    """

    ms: float
    ratio: Ratio
    threads: int
    calls: int | None
    peak: int | None
    setup: float
    even: float | None


@dataclass(frozen=True)
class Row:
    """One workload at one number of models.

    Attributes:
        workload: its name.
        models: how many.
        baseline: the faster of the serial eager ones.
        entries: by contestant.
        skipped: contestants that did not take part, and why.
        differences: of ours in float64, relative.
        merged: what merging did.
        seconds: that the row took in all.
    """

    workload: str
    models: int
    baseline: str
    entries: Mapping[str, Entry]
    skipped: Mapping[str, str]
    differences: Mapping[str, float]
    merged: str
    seconds: float


def _compiled(cohort: Cohort, plan: Plan) -> Contestant:
    if not plan.compile_serial:
        raise SkippedError("takes minutes, and is an option (--compile-serial)")
    return Compiled(cohort, plan.compile_limit)


def _vmap_compiled(cohort: Cohort, plan: Plan) -> Contestant:
    count = len(cohort.makers)
    if cohort.equal is not None and count not in plan.compile_at:
        raise SkippedError("compiling takes long, and is left out here (--compile-at)")
    return VmapCompiled(cohort, plan.compile_limit)


def _features(cohort: Cohort, plan: Plan) -> Contestant:
    del plan
    if cohort.equal != "frozen":
        raise SkippedError("there is no frozen backbone")
    return Features(cohort)


CONTESTANTS: Mapping[str, Callable[[Cohort, Plan], Contestant]] = MappingProxyType(
    {
        "foreach": lambda cohort, _: Serial(cohort, "foreach"),
        "fused": lambda cohort, _: Serial(cohort, "fused"),
        "rt.merge": lambda cohort, _: Merged(cohort),
        "rt.merge, fused": lambda cohort, _: Merged(cohort, "fused"),
        "cohort": lambda cohort, _: CohortLoop(cohort),
        "rt.merge, graph": lambda cohort, _: MergedGraph(cohort),
        "cohort, graph": lambda cohort, _: CohortGraph(cohort),
        "by hand": _features,
        "compiled": _compiled,
        "CUDA graphs": lambda cohort, _: SerialGraphs(cohort),
        "streams": lambda cohort, _: Streams(cohort),
        "processes": lambda cohort, plan: Processes(cohort, plan.pool),
        "vmap": lambda cohort, _: Vmapped(cohort),
        "vmap compiled": _vmap_compiled,
        "HFTA": lambda cohort, plan: Hfta(cohort, plan.hfta),
    }
)


def rows(plan: Plan) -> Iterator[Row | str]:
    """Each row as it is done; or, for what was left out, a sentence about it."""
    for models in sorted(plan.models, key=lambda k: (k not in MAIN, k <= max(MAIN), -k)):
        for name in plan.workloads:
            if models > max(MAIN) and name not in LARGE:
                continue
            if time.monotonic() > plan.until:
                yield f"{name} x {models}: left out, time was up (--minutes)"
                continue
            cohort = WORKLOADS[name].cohort(models, plan.device, plan.batch)
            yield _row(name, cohort, plan)
            gc.collect()


def _row(name: str, cohort: Cohort, plan: Plan) -> Row:
    begin = time.perf_counter()
    skipped: dict[str, str] = {}
    found: dict[str, Contestant] = {}
    first: Tensor | None = None
    with ExitStack() as stack:
        for each, make in CONTESTANTS.items():
            if each in plan.without:
                skipped[each] = "not wanted (--without)"
                continue
            try:
                made = make(cohort, plan)
                losses = made.first if made.first is not None else made.step()
            except SkippedError as reason:
                skipped[each] = str(reason)
                continue
            except Exception as error:
                if each in (*SERIAL, *OURS):
                    raise
                skipped[each] = f"failed: {type(error).__name__}: {str(error).splitlines()[0]}"
                continue
            stack.callback(made.close)
            losses = losses.detach().cpu()
            first = losses if first is None else first
            if not cohort.random and not torch.allclose(
                losses.float(), first, rtol=CLOSE, atol=CLOSE
            ):
                skipped[each] = f"another loss in the first step: {losses[:3]}, not {first[:3]}"
                continue
            found[each] = made
        laps = race(found, plan.pace, plan.device)
        baseline = min((n for n in SERIAL if n in laps), key=lambda n: laps[n].median)
        entries = {
            each: _entry(found[each], laps[each], laps[baseline], plan.device) for each in found
        }
        merged = found.get("rt.merge")
        stats = str(merged.merged.stats) if isinstance(merged, Merged) else ""
    found.clear()
    checked = differences(cohort, plan.check_steps) if plan.check_steps else {}
    seconds = time.perf_counter() - begin
    return Row(name, len(cohort.makers), baseline, entries, skipped, checked, stats, seconds)


def _entry(each: Contestant, lap: Lap, serial: Lap, device: torch.device) -> Entry:
    calls, peak = watched_step(each, device)
    saved = serial.median - lap.median
    even = each.setup / saved if saved > 0 else None
    if each.setup == 0:
        even = 0.0
    return Entry(lap.median * 1e3, lap.over(serial), lap.threads, calls, peak, each.setup, even)


def about(row: Row | str) -> str:
    """A line about a row, while others still run."""
    if isinstance(row, str):
        return row
    parts = [f"{name} {entry.ratio.median:.2f}" for name, entry in row.entries.items()]
    return f"{row.workload} x {row.models}, {row.seconds:.0f} s: {', '.join(parts)}"
