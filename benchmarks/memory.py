"""How well the memory of merged training is estimated before anything is built.

    python benchmarks/memory.py [--json FILE]

For each workload: the estimate (`retiarii.optimizer.memory`), and the peak of the third training
step, added up from every allocation that torch's profiler reports, with what lived before. SGD with
momentum. CPU only.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import retiarii as rt
from retiarii.optimizer.lift import Model
from retiarii.optimizer.memory import Memory, estimate, mib

BATCH = 32
Workload = Callable[[], tuple[Sequence[Any], Tensor]]


def nas_bench(count: int, channels: int, size: int) -> tuple[Sequence[Any], Tensor]:
    space = rt.spaces.nas_bench_201(channels=channels, cells=1, input_size=size)
    return [space.sample(i) for i in range(count)], torch.randn(BATCH, 3, size, size)


def cnn(channels: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, channels, 3, padding=1),
        nn.BatchNorm2d(channels),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(channels, 2 * channels, 3, padding=1),
        nn.BatchNorm2d(2 * channels),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(2 * channels, 10),
    )


def mlp(width: int = 256) -> nn.Module:
    layers: list[nn.Module] = [nn.Flatten(), nn.Linear(3 * 16 * 16, width), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))


class Transformer(nn.Module):
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, batch_first=True)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x).mean(1))


def images(models: Sequence[nn.Module]) -> tuple[Sequence[Any], Tensor]:
    return models, torch.randn(BATCH, 3, 16, 16)


WORKLOADS: Mapping[str, Workload] = {
    "NAS-Bench-201 x 16, 8 channels, 8x8": lambda: nas_bench(16, 8, 8),
    "NAS-Bench-201 x 32, 16 channels, 16x16": lambda: nas_bench(32, 16, 16),
    "CNN x 16": lambda: images([cnn() for _ in range(16)]),
    "MLP x 32": lambda: images([mlp() for _ in range(32)]),
    "transformer x 8": lambda: (
        [Transformer() for _ in range(8)],
        torch.randn(BATCH, 16, 32),
    ),
    "CNNs of three widths and MLPs x 16": lambda: images(
        [cnn(c) for c in (8, 16, 24) * 4] + [mlp() for _ in range(4)]
    ),
}


def measured(models: Sequence[Any], x: Tensor) -> int:
    """The most bytes that live in one training step."""
    y = torch.randint(0, 10, (len(x),))
    merged = rt.merge(models, x, fuse="on").train()
    optimizer = torch.optim.SGD(merged.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        outputs = merged(x)
        sum(nn.functional.cross_entropy(out, y) for out in outputs).backward()
        optimizer.step()

    step()
    step()
    optimizer.zero_grad()
    states = [s["momentum_buffer"] for s in optimizer.state.values() if "momentum_buffer" in s]
    held = [*merged.parameters(), *merged.buffers(), *states, x, y]
    before = sum(
        {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in held}.values()
    )
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    events = found.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    live = peak = before
    for _, change in changes:
        live += change
        peak = max(peak, live)
    return peak


def estimated(models: Sequence[Any], x: Tensor) -> tuple[Memory, float]:
    """The estimate, and how many seconds it took."""
    made = []
    for model in models:
        graph = rt.parse(model, x) if isinstance(model, nn.Module) else model.graph
        module = model if isinstance(model, nn.Module) else model.build(0)
        made.append(Model.of(graph, module))
    start = time.perf_counter()
    return estimate(made, batch=len(x), states=1.0), time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.manual_seed(0)
    table = Table(
        "workload", "parameters", "activations", "estimated", "measured", "off by", "took"
    )
    rows = []
    for name, make in WORKLOADS.items():
        models, x = make()
        memory, seconds = estimated(models, x)
        peak = measured(models, x)
        off = memory.peak / peak - 1
        rows.append({"workload": name, "estimated": memory.peak, "measured": peak, "off": off})
        table.add_row(
            name,
            mib(memory.parameters),
            mib(memory.activations),
            mib(memory.peak),
            mib(peak),
            f"{off:+.1%}",
            f"{seconds:.2f} s",
        )
    Console().print(table)
    if options.json is not None:
        head = {"machine": platform.node(), "torch": torch.__version__}
        options.json.write_text(json.dumps({**head, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
