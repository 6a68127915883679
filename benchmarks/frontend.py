"""The front end's speed, as ratios measured side by side in one run.

    python benchmarks/frontend.py [--nni DIR] [--out benchmarks/results/frontend]

Parsing over `torch.fx.symbolic_trace`, on models that it traces; candidates a second, to the
canonical hash; and what one edit costs as the graph grows, beside NNI's graph (a checkout of
microsoft/nni whose needs are importable; left out where none is given). One core.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from compile import edit_cost, rates, wide
from torch import fx, nn

import retiarii as rt
from retiarii.spaces import nas_bench_201

SIZES = (100, 1_000, 10_000)


class Bottleneck(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width // 4, 1, bias=False),
            nn.BatchNorm2d(width // 4),
            nn.ReLU(),
            nn.Conv2d(width // 4, width // 4, 3, padding=1, bias=False),
            nn.BatchNorm2d(width // 4),
            nn.ReLU(),
            nn.Conv2d(width // 4, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.body(x))


class MixerBlock(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.one, self.two = nn.LayerNorm(width), nn.LayerNorm(width)
        self.across = nn.Sequential(
            nn.Linear(tokens, 2 * tokens), nn.GELU(), nn.Linear(2 * tokens, tokens)
        )
        self.within = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.across(self.one(x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.two(x))


def models() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    residual = nn.Sequential(
        nn.Conv2d(3, 64, 3),
        *(Bottleneck(64) for _ in range(16)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    mixer = nn.Sequential(*(MixerBlock(16, 32) for _ in range(12)), nn.Linear(32, 10))
    mlp = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(30)))
    return {
        "residual network, 16 blocks": (residual, torch.zeros(2, 3, 16, 16)),
        "MLP mixer, 12 blocks": (mixer, torch.zeros(2, 16, 32)),
        "MLP, 30 layers": (mlp, torch.zeros(2, 32)),
    }


def seconds(run: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def parse_ratio(model: nn.Module, example: torch.Tensor) -> dict[str, float]:
    """Medians in milliseconds, the two in turn; and the median ratio."""
    ours, theirs = [], []
    for i in range(9):
        theirs.append(seconds(lambda: fx.symbolic_trace(model)))
        ours.append(seconds(lambda: rt.parse(model, example)))
        if i == 1:
            ours, theirs = [], []  # the first two warm up
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {
        "parse ms": statistics.median(ours) * 1e3,
        "symbolic_trace ms": statistics.median(theirs) * 1e3,
        "ratio": statistics.median(ratios),
    }


def nni_edit_cost(size: int) -> float:
    """Microseconds for one `insert_node_on_edge` of NNI in the middle of a chain."""
    from nni.nas.space.graph import Graph
    from nni.nas.space.pytorch.graph import PytorchGraphModelSpace

    space = PytorchGraphModelSpace(_internal=True)
    graph = Graph(space, 0, "_model", _internal=True)._register()
    space._root_graph_name = "_model"
    before = graph.input_node
    for i in range(size):
        node = graph.add_node(f"n{i}", "__torch__.torch.nn.modules.activation.Tanh")
        graph.add_edge((before, None), (node, None))
        before = node
    graph.add_edge((before, None), (graph.output_node, None))
    middle = graph.get_node_by_name(f"n{size // 2}")
    costs = []
    for i in range(50):
        begin = time.perf_counter()
        (edge,) = middle.incoming_edges
        graph.insert_node_on_edge(edge, f"new{i}", "__torch__.torch.nn.modules.activation.ReLU")
        costs.append(time.perf_counter() - begin)
    return statistics.median(costs) * 1e6


def measure(seconds_each: float, nni: Path | None) -> dict[str, Any]:
    figures: dict[str, Any] = {
        "parse": {name: parse_ratio(*pair) for name, pair in models().items()},
        "candidates a second": {
            "NAS-Bench-201, 3 cells": rates(nas_bench_201(cells=1), seconds_each),
            "NAS-Bench-201, 15 cells": rates(nas_bench_201(), seconds_each),
            "wide, 4^20": rates(wide(), seconds_each),
        },
        "microseconds an edit": {"ours": {n: edit_cost(n) for n in SIZES}},
    }
    if nni is not None:
        sys.path.insert(0, str(nni))
        figures["microseconds an edit"]["NNI"] = {n: nni_edit_cost(n) for n in SIZES}
    return figures


def markdown(figures: dict[str, Any], machine: str) -> str:
    lines = [f"Measured on {machine}; medians.", ""]
    lines += ["| model | parse, ms | symbolic_trace, ms | ratio |", "|---|---|---|---|"]
    for name, row in figures["parse"].items():
        lines.append(f"| {name} | " + " | ".join(f"{v:.1f}" for v in row.values()) + " |")
    lines += ["", "| space | sample/s | to hash/s | to module/s |", "|---|---|---|---|"]
    for name, row in figures["candidates a second"].items():
        lines.append(f"| {name} | " + " | ".join(f"{v:.0f}" for v in row.values()) + " |")
    lines += [
        "",
        f"| one edit, us | {' | '.join(f'{n:,} nodes' for n in SIZES)} |",
        "|---|---|---|---|",
    ]
    for name, row in figures["microseconds an edit"].items():
        lines.append(f"| {name} | " + " | ".join(f"{v:.0f}" for v in row.values()) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="for each rate")
    parser.add_argument("--nni", type=Path, help="a folder from which nni can be imported")
    parser.add_argument("--out", type=Path, help="write OUT.md and OUT.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    figures = measure(options.seconds, options.nni)
    machine = f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one core"
    text = markdown(figures, machine)
    print(text)
    if options.out:
        options.out.with_suffix(".md").write_text(text)
        options.out.with_suffix(".json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
