"""How long `rt.merge` takes as the number of models grows."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import retiarii as rt
from _fusion.workloads import nas_bench_201, samples


@dataclass(frozen=True)
class Merging:
    """Seconds for each number of models.

    Attributes:
        models: how many.
        seconds: to merge them, building them included.
        exponent: e of the c * K^e that fits best.
        stats: of the largest merge.
    """

    models: tuple[int, ...]
    seconds: tuple[float, ...]
    exponent: float
    stats: str


def merging(sizes: Sequence[int]) -> Merging:
    """Merges samples of NAS-Bench-201, 8 channels; the best of three where that is short."""
    candidates = samples([partial(nas_bench_201, 8, 8)], max(sizes))
    rt.merge(candidates[:2])
    seconds, stats = [], ""
    for size in sizes:
        tries = []
        for _ in range(3 if size < 500 else 1):
            gc.collect()
            begin = time.perf_counter()
            merged = rt.merge(candidates[:size])
            tries.append(time.perf_counter() - begin)
            stats = str(merged.stats)
            del merged
        seconds.append(min(tries))
    return Merging(tuple(sizes), tuple(seconds), exponent(sizes, seconds), stats)


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The slope of the line that fits best where both axes are logarithmic."""
    xs, ys = [math.log(s) for s in sizes], [math.log(v) for v in values]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True))
    return slope / sum((a - x) ** 2 for a in xs)
