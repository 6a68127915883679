"""What a model of scores sees of a point: its decisions, and the graph that follows from them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from retiarii.mutators.choice import Categorical
from retiarii.strategies.sampling import size, to_unit
from retiarii.strategies.tried import Step

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph
    from retiarii.search_space import Point

Array = np.ndarray[Any, np.dtype[np.float64]]
Features = Mapping[Any, float]

# Two options are one apart, whatever they are called. Both ends of a range are further apart: a
# score may rise and fall in between.
_HALF = math.sqrt(0.5)
_RANGE = 3.0
# How far around each term its surroundings are told apart.
_HOPS = 2


def decision_features(steps: Iterable[Step]) -> dict[Any, float]:
    """One column an option that was chosen, one a number, and one that a number was asked."""
    found: dict[Any, float] = {}
    for label, domain, raw in steps:
        if size(domain) == 1:
            continue
        if isinstance(domain, Categorical):
            found[label, domain, raw] = _HALF
        else:
            found[label, domain] = _RANGE * to_unit(domain, raw)
            found[label, "asked"] = _HALF
    return found


def graph_features(graph: Graph) -> dict[Any, float]:
    """How often each operation occurs in each surrounding, how deep the graph is, what it costs.

    The terms are those of the canonical form, so that what has no effect counts in the costs only,
    and equal models differ in nothing else. Surroundings are told apart as by Weisfeiler and
    Lehman: a term's colour is its label, then its label with the colours of what it reads, and
    once more. Counts and costs are logarithms. As features of architectures: Ru et al.,
    "Interpretable neural architecture search via Bayesian optimisation with Weisfeiler-Lehman
    kernels" (ICLR 2021).
    """
    # Brings torch along, which a search without models does not need.
    from retiarii.ir.canonical.form import canonical_terms

    labels, children = canonical_terms(graph)
    colours = labels
    counts: Counter[Any] = Counter((0, colour) for colour in colours)
    for hop in range(1, _HOPS + 1):
        colours = [
            blake2b(label + b"".join(sorted(colours[c] for c in reads)), digest_size=8).digest()
            for label, reads in zip(labels, children, strict=True)
        ]
        counts.update((hop, colour) for colour in colours)
    depths: list[int] = []
    for reads in children:
        depths.append(1 + max((depths[c] for c in reads), default=0))
    cost = graph.cost()
    found: dict[Any, float] = {key: math.log1p(count) for key, count in counts.items()}
    return found | {
        "depth": math.log1p(max(depths)),
        "params": math.log1p(cost.params),
        "flops": math.log1p(cost.flops),
    }


class GraphFeatures:
    """`graph_features` of points, worked out once for each graph that somebody keeps."""

    def __init__(self) -> None:
        self._known: WeakKeyDictionary[Graph, Features] = WeakKeyDictionary()

    def of(self, point: Point) -> Features:
        """The features of the point's graph; none where it has no model."""
        if point.candidate is None:
            return {}
        graph = point.candidate.graph
        found = self._known.get(graph)
        if found is None:
            found = self._known[graph] = graph_features(graph)
        return found


class Columns:
    """Gives each feature a column of a matrix, the first time it is seen."""

    def __init__(self) -> None:
        self._places: dict[Any, int] = {}

    def row(self, features: Features) -> Array:
        """One row, as wide as is known so far."""
        places = self._places
        at = [places.setdefault(key, len(places)) for key in features]
        row = np.zeros(len(places))
        row[at] = list(features.values())
        return row


def stacked(rows: Sequence[Array]) -> Array:
    """The rows as a matrix; what an older row did not know of is 0 there."""
    matrix = np.zeros((len(rows), max((len(row) for row in rows), default=0)))
    for at, row in enumerate(rows):
        matrix[at, : len(row)] = row
    return matrix
