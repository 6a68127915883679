"""A model's parts and what they cost, as `inspect` shows them: what is the same is folded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from retiarii.ir.analysis.cost import total
from retiarii.ir.analysis.regions import Region, folded

if TYPE_CHECKING:
    from retiarii.ir.analysis.cost import Cost, NodeCost
    from retiarii.ir.graph import Graph

# Longer tables are cut: `--json` has all.
_ROWS_SHOWN = 80
_HELD = frozenset({"parameter", "buffer", "constant"})
_STEPS = ("", "k", "M", "G", "T", "P")


@dataclass(frozen=True, slots=True)
class Anatomy:
    """A graph's cost and its regions, worked out together.

    Attributes:
        cost: of the graph.
        tree: its regions.
        order: node name -> place in topological order.
        rows: node name -> its part of the cost.
    """

    cost: Cost
    tree: Region
    order: dict[str, int]
    rows: dict[str, NodeCost]

    @staticmethod
    def of(graph: Graph, device: str | None) -> Anatomy:
        """Counts a graph, and measures it where a device is given."""
        cost = graph.cost() if device is None else graph.cost(latency=True, device=device)
        order = {row.name: i for i, row in enumerate(cost.nodes)}
        return Anatomy(cost, graph.regions(), order, {row.name: row for row in cost.nodes})

    def as_json(self) -> dict[str, Any]:
        """``cost`` and ``regions``, whole."""
        return {"cost": asdict(self.cost), "regions": asdict(self.tree)}

    def totals(self) -> list[tuple[str, str]]:
        """(name, text) of what the whole model costs, but for its parameters."""
        cost = self.cost
        samples = "1 sample" if cost.batch == 1 else f"{cost.batch} samples"
        rows = [
            ("FLOPs", f"{scaled(cost.flops)} ({samples}, forward)"),
            ("activations", f"{in_bytes(cost.activations)} ({samples})"),
            ("weights", in_bytes(cost.size)),
        ]
        if cost.latency is not None:
            rows.append(("latency", f"{1e3 * cost.latency:.3f} ms ({samples}, forward)"))
        return rows

    def table(self) -> list[str]:
        """Lines, with a head: the regions, and in them the layers that cost something."""
        rows = [("", *self._head()), *self._rows(self.tree, 0)]
        cut = len(rows) - 1 - _ROWS_SHOWN
        rows = rows[: _ROWS_SHOWN + 1]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(map(str.rjust, row[1:], widths[1:]))]).rstrip()
            for row in rows
        ]
        return [*lines, f"... and {cut} more rows: see --json"] if cut > 0 else lines

    def _head(self) -> tuple[str, ...]:
        measured = ("ms alone",) if self.cost.latency is not None else ()
        return ("params", "FLOPs", "activations", *measured)

    def _cells(self, names: tuple[str, ...]) -> tuple[str, ...]:
        part = total(tuple([self.rows[name] for name in names]), self.cost.batch)
        cells = [f"{part.params:,}", scaled(part.flops), in_bytes(part.activations)]
        if self.cost.latency is not None:
            cells.append(f"{1e3 * sum(row.seconds or 0.0 for row in part.nodes):.3f}")
        return tuple(cells)

    def _rows(self, region: Region, depth: int) -> Iterator[tuple[str, ...]]:
        indent = "  " * depth
        parts: list[tuple[int, str | tuple[Region, ...]]] = [
            (self.order[name], name) for name in region.nodes if self._shows(name)
        ]
        parts += [(self._place(run[0]), run) for run in region.runs()]
        for _, part in sorted(parts, key=lambda each: each[0]):
            if isinstance(part, str):
                row = self.rows[part]
                yield (f"{indent}{part}: {row.op}", *self._cells((part,)))
                continue
            names = tuple(name for each in part for name in each.all_nodes)
            yield (indent + folded(part), *self._cells(names))
            yield from self._rows(part[0], depth + 1)

    def _place(self, region: Region) -> int:
        """Where its first operation is; parameters stand at the top of a graph."""
        places = {name: self.order[name] for name in region.all_nodes}
        working = [at for name, at in places.items() if self.rows[name].op not in _HELD]
        return min(working or places.values())

    def _shows(self, name: str) -> bool:
        row = self.rows[name]
        return bool(row.params or row.flops or row.op == "opaque")


def scaled(number: int) -> str:
    """``12.3 M``; small numbers as they are."""
    if number < 10_000:
        return f"{number:,}"
    value, step = float(number), 0
    while value >= 1000 and step < len(_STEPS) - 1:
        value, step = value / 1000, step + 1
    return f"{value:.3g} {_STEPS[step]}"


def in_bytes(number: int) -> str:
    """``12.3 KiB``."""
    if number < 1024:
        return f"{number} B"
    value, step = float(number), 0
    while value >= 1024 and step < len(_STEPS) - 1:
        value, step = value / 1024, step + 1
    shown = f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
    return f"{shown} {_STEPS[step].upper()}iB"
