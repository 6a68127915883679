"""Which models lower, how far, and how fast: timm's families, torchvision and transformers.

    RETIARII_ZOO=FOLDER python benchmarks/parse_families.py [timm torchvision transformers]
        [--only WORD] [--compare MILLIONS] [--out benchmarks/results]

``FOLDER`` has the packages (``pip install --no-deps --target FOLDER timm==1.0.31 torchvision
transformers ...``); without it they are taken from where Python finds them. One thread; times are
the least of ``--repeats`` runs, ours and those of ``torch.fx.symbolic_trace`` side by side. With
``--compare``, models of at most so many million parameters are also built from their graphs and run
beside the originals, in double precision: outputs, gradients, buffers and ``state_dict`` keys, in
training and evaluation mode.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import time
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import fx, nn

from retiarii.ir.parse import parse
from retiarii.testing.parsing import assert_same_run, doubled
from retiarii.testing.zoo import SAMPLES, Sample


def seconds(run: Callable[[], object], repeats: int) -> float:
    """The least processor time of some runs."""
    times = []
    for _ in range(repeats):
        gc.collect()
        start = time.process_time()
        run()
        times.append(time.process_time() - start)
    return min(times)


def by_fx(model: nn.Module, repeats: int) -> float | None:
    """How long ``torch.fx.symbolic_trace`` takes; ``None`` if it fails."""
    try:
        return seconds(lambda: fx.symbolic_trace(model), repeats)
    except Exception:
        return None


def differs(sample: Sample) -> str:
    """What the built module does in another way than the model; empty if nothing."""
    torch.manual_seed(0)
    model, inputs = sample.make().double(), doubled(sample.inputs())
    built = parse(model, inputs).to_module()
    if list(built.state_dict()) != list(model.state_dict()):
        return "other state_dict keys"
    model.load_state_dict(built.state_dict(), strict=True)
    start = {key: value.clone() for key, value in model.state_dict().items()}
    for training in (True, False):
        try:
            assert_same_run(model.train(training), built.train(training), inputs)
        except AssertionError as error:
            mode = "training" if training else "evaluation"
            return f"{mode}: {(str(error).splitlines() or ['other structure'])[0]}"
        model.load_state_dict(start)
        built.load_state_dict(start)
    return ""


def measure(sample: Sample, repeats: int, compared: float) -> dict[str, Any]:
    """One row of the table."""
    torch.manual_seed(0)
    row: dict[str, Any] = {"name": sample.name}
    try:
        model, inputs = sample.make(), sample.inputs()
        graph = parse(model, inputs)
        row["nodes"] = len(graph.nodes)
        row["opaque"] = len(graph.opaque)
        row["why"] = [
            f"{reason} ({count}x, {where})"
            for (reason, where), count in Counter(
                (str(n.attrs["reason"]), _short(n.where)) for n in graph.opaque
            ).most_common()
        ]
        row["parse"] = seconds(lambda: parse(model, inputs), repeats)
        row["fx"] = by_fx(model, repeats)
        if sum(p.numel() for p in model.parameters()) <= compared * 1e6:
            del model, graph
            row["differs"] = differs(sample)
    except Exception as error:
        row["error"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return row


def _short(where: str | None) -> str:
    return "/".join((where or "").split("/")[-3:])


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the rows say together."""
    found: dict[str, Any] = {}
    for package in dict.fromkeys(row["name"].partition(":")[0] for row in rows):
        own = [row for row in rows if row["name"].startswith(package + ":")]
        ratios = [r["parse"] / r["fx"] for r in own if r.get("fx")]
        found[package] = {
            "models": len(own),
            "failed": sum("error" in row for row in own),
            "without opaque nodes": sum(row.get("opaque") == 0 for row in own),
            "fx fails": sum("error" not in row and row["fx"] is None for row in own),
            "compared": sum("differs" in row for row in own),
            "compute the same": sum(row.get("differs") == "" for row in own),
            "parse over fx, median": round(statistics.median(ratios), 2) if ratios else None,
            "parse over fx, worst": round(max(ratios), 2) if ratios else None,
            "within 3x": f"{sum(ratio <= 3 for ratio in ratios)} of {len(ratios)}",
        }
    return found


def cells(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return [row["name"], "", "", "", "", "", row["error"]]
    traced = "fails" if row["fx"] is None else f"{row['fx'] * 1000:.0f}"
    why = "; ".join(row["why"])
    return [
        row["name"],
        str(row["nodes"]),
        str(row["opaque"]),
        f"{row['parse'] * 1000:.0f}",
        traced,
        {None: "not compared", "": "yes"}.get(row.get("differs"), "no"),
        "; ".join(filter(None, (why, row.get("differs")))),
    ]


HEAD = ["model", "nodes", "opaque", "parse ms", "fx ms", "same", "why opaque"]


def write(folder: Path, rows: list[dict[str, Any]]) -> None:
    machine = f"{platform.processor() or platform.machine()}, Python {platform.python_version()}"
    machine += f", torch {torch.__version__}, one thread"
    found = summary(rows)
    lines = ["# Parsing: timm families, torchvision, transformers", "", machine, ""]
    for package, facts in found.items():
        lines.append(f"- {package}: " + ", ".join(f"{k} {v}" for k, v in facts.items()))
    lines += ["", f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    lines += [f"| {' | '.join(c.replace('|', '/') for c in cells(row))} |" for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "parse_families.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = {"machine": machine, "summary": found, "rows": rows}
    text = json.dumps(data, indent=1) + "\n"
    (folder / "parse_families.json").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("packages", nargs="*", default=list(SAMPLES), help=", ".join(SAMPLES))
    parser.add_argument("--only", default="", help="a part of the model's name")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--compare", type=float, default=0, help="millions of parameters")
    parser.add_argument("--out", type=Path, help="folder for parse_families.md and .json")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    console = Console()
    rows: list[dict[str, Any]] = []
    for package in given.packages:
        try:
            samples = SAMPLES[package]()
        except ImportError as error:
            console.print(f"{package} is left out: {error}")
            continue
        for sample in samples:
            if given.only in sample.name:
                rows.append(measure(sample, given.repeats, given.compare))
                console.print("  ".join(cells(rows[-1])), style="dim", highlight=False)
                gc.collect()
    table = Table(*HEAD)
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
    console.print(summary(rows))
    if given.out is not None:
        write(given.out, rows)


if __name__ == "__main__":
    main()
