"""How fast candidates are made: sample -> graph -> canonical hash -> module.

    python benchmarks/compile.py [--seconds 3] [--json FILE] [--profile]

Workloads: NAS-Bench-201 with one cell a stage (as in the fusion notes) and with its published five,
single path one-shot as published, and a wide space of 4^20 made by a mutator; and what one edit
costs on graphs of 100 and of 10,000 nodes. One core.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import platform
import pstats
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

import retiarii as rt
from retiarii.spaces import nas_bench_201, spos


class OneOfFour(rt.Mutator):
    def mutate(self, graph: rt.Graph, target: rt.Node) -> None:
        kind = self.choice(["conv", "depthwise", "max", "skip"], label="kind")
        (x,) = target.inputs
        if kind == "conv":
            new = graph.insert(nn.Conv2d, x, out_channels=16, kernel_size=3, padding=1)
        elif kind == "depthwise":
            new = graph.insert(nn.Conv2d, x, out_channels=16, kernel_size=3, padding=1, groups=16)
        elif kind == "max":
            new = graph.insert(nn.MaxPool2d, x, kernel_size=3, stride=1, padding=1)
        else:
            new = graph.insert(nn.Identity, x)
        graph.replace(target, new)


def wide() -> rt.ModelSpace:
    body = [nn.Identity() for _ in range(20)]
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        *body,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )
    space = rt.ModelSpace(net, torch.zeros(2, 3, 16, 16))
    space.apply_mutator([str(i) for i in range(1, 21)], OneOfFour())
    return space


def rate(step: Callable[[int], object], seconds: float) -> float:
    """The median rate over five windows, per second."""
    for i in range(50):
        step(i)
    rates, i = [], 50
    for _ in range(5):
        begin, done = time.perf_counter(), 0
        while (spent := time.perf_counter() - begin) < seconds / 5:
            step(i)
            i, done = i + 1, done + 1
        rates.append(done / spent)
    return statistics.median(rates)


def rates(space: rt.ModelSpace, seconds: float) -> dict[str, float]:
    """Candidates a second, up to each stage."""
    return {
        "sample": rate(lambda i: space.sample(i), seconds),
        "hash": rate(lambda i: space.sample(i).canonical_hash(), seconds),
        "module": rate(lambda i: space.sample(i).build(i), seconds),
    }


def edit_cost(size: int) -> float:
    """Microseconds for one insert and one replace in the middle of a chain of ``size`` layers."""
    net = nn.Sequential(*(nn.Tanh() for _ in range(size)))
    graph = rt.parse(net, torch.zeros(2, 8))
    costs = []
    new: rt.Node | None = None
    for i in range(300):
        target = new or graph.node(str(size // 2))
        begin = time.perf_counter()
        with graph.edits():
            new = graph.insert(nn.ReLU if i % 2 else nn.Tanh, target.inputs[0])
            graph.replace(target, new)
        costs.append(time.perf_counter() - begin)
    return statistics.median(costs[50:]) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each figure")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    parser.add_argument("--profile", action="store_true", help="say where the time goes")
    options = parser.parse_args()
    torch.set_num_threads(1)
    spaces = {
        "NAS-Bench-201, 3 cells": nas_bench_201(cells=1),
        "NAS-Bench-201, 15 cells": nas_bench_201(),
        "single path one-shot, 4^20": spos(),
        "wide, 4^20": wide(),
    }
    table = Table("space", "nodes", "sample/s", "to hash/s", "to module/s")
    figures: dict[str, object] = {}
    for name, space in spaces.items():
        size = statistics.mean(len(space.sample(i).graph) for i in range(20))
        row = {"nodes": size} | rates(space, options.seconds)
        figures[name] = row
        table.add_row(name, *(f"{v:.0f}" for v in row.values()))
    edits = {size: edit_cost(size) for size in (100, 1_000, 10_000)}
    figures["microseconds an edit"] = edits
    console = Console()
    console.print(table)
    console.print("one insert and replace:", {k: f"{v:.0f} us" for k, v in edits.items()})
    if options.profile:
        profile = cProfile.Profile()
        space = spaces["NAS-Bench-201, 15 cells"]
        with profile:
            for i in range(200):
                space.sample(i).canonical_hash()
        pstats.Stats(profile).sort_stats("tottime").print_stats(20)
    if options.json:
        machine = {
            "machine": platform.processor() or platform.machine(),
            "torch": torch.__version__,
        }
        options.json.write_text(json.dumps({**machine, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
