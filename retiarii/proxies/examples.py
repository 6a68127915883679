"""The batches that proxies are computed on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from retiarii.ir.analysis.latency import example_inputs
from retiarii.ir.graph import Graph
from retiarii.proxies.base import Sample
from retiarii.training.structure import place

if TYPE_CHECKING:
    from retiarii.space import Candidate
    from retiarii.training.evaluator import Examples


def drawn(graph: Graph, size: int, device: torch.device) -> Sample:
    """Normal numbers, and zeros for whole ones; no targets."""
    args, named = example_inputs(graph, size, device, torch.float64)
    return Sample(args, named)


def of_examples(batch: Examples, candidate: Candidate, device: torch.device) -> Sample:
    """An evaluator's batch: as its model takes the inputs, in float64."""
    inputs, targets = place((batch.inputs, batch.targets), device, torch.float64)
    args, named = _spread(inputs, candidate.graph)
    return Sample(args, named, targets, batch.loss(device, torch.float64))


def _spread(inputs: object, graph: Graph) -> tuple[tuple[object, ...], Mapping[str, object]]:
    """As `retiarii.training.structure.caller` calls a model, by the parameters of its graph."""
    names = [name for name, _ in graph.context.forward.params]
    if isinstance(inputs, Mapping) and set(inputs) <= set(names):
        return (), inputs
    if isinstance(inputs, tuple | list) and len(inputs) == len(names):
        return tuple(inputs), {}
    return (inputs,), {}
