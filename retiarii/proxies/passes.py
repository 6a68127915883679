"""Models run for a proxy: each alone, or all of a cohort as one merged program."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from retiarii.ir.graph import Graph
from retiarii.ir.parse import parse_with
from retiarii.ir.tracing.memory import Memory
from retiarii.ir.types import Ref, Result
from retiarii.optimizer.compile import Options
from retiarii.optimizer.lift import Model
from retiarii.optimizer.merge import check_mergeable
from retiarii.optimizer.merged import MergedModel
from retiarii.proxies.base import Pass, Proxy, Sample, Seen, Weight


class Ready(NamedTuple):
    """A model that a proxy has prepared.

    Attributes:
        model: its graph, which returns what is tapped too, and its tensors.
        taps: what is tapped -> how many tensors that are, in the order returned.
    """

    model: Model
    taps: Mapping[str, int]


def ready(
    proxy: Proxy, module: nn.Module, batch: Sample, seed: int, memory: Memory | None = None
) -> Ready:
    """A module, which is changed, as `Alone` and `Together` run it.

    Args:
        memory: of parses of similar modules.
    """
    prepared = proxy.prepare(module.double(), batch, seed).train(proxy.training)
    inputs = dict(batch.named) if batch.named else batch.args
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        graph = parse_with(memory or Memory(), prepared, inputs)
    taps = {what: list(refs) for what, refs in proxy.taps(graph).items()}
    tapped = _tapped(graph, [ref for refs in taps.values() for ref in refs])
    return Ready(Model.of(tapped, prepared), {what: len(refs) for what, refs in taps.items()})


class Alone:
    """One model after the other."""

    def __init__(self, models: Sequence[Ready], batch: Sample, seed: int) -> None:
        self.sample, self.seed = batch, seed
        self._models = models
        self._modules = [each.model.graph.to_module() for each in models]
        for module, each in zip(self._modules, models, strict=True):
            module.load_state_dict(each.model.module.state_dict())
            module.train(each.model.module.training)

    def forward(self, sample: Sample) -> list[Seen]:
        found = []
        for module, each in zip(self._modules, self._models, strict=True):
            with _seeded(self.seed):
                found.append(_seen(module(*sample.args, **sample.named), each.taps))
        return found

    def gradients(self, total: Tensor) -> list[dict[str, Weight]]:
        named = [dict(module.named_parameters()) for module in self._modules]
        found = _gradients(total, [p for own in named for p in own.values()])
        return [
            {key: Weight(p.detach(), found[id(p)]) for key, p in own.items() if id(p) in found}
            for own in named
        ]


class Together:
    """All models as one merged program."""

    def __init__(self, models: Sequence[Ready], batch: Sample, seed: int) -> None:
        self.sample, self.seed = batch, seed
        self._models = models
        given = [each.model for each in models]
        check_mergeable(given)
        # Run once or twice: measuring what pays would take longer than it could save.
        self._merged = MergedModel(given, [None] * len(given), Options(fuse="on"))
        self._merged.train(given[0].module.training)

    def forward(self, sample: Sample) -> list[Seen]:
        self._merged.seed([self.seed % 2**63] * len(self._models))
        outputs = self._merged(*sample.args, **sample.named)
        return [_seen(out, each.taps) for out, each in zip(outputs, self._models, strict=True)]

    def gradients(self, total: Tensor) -> list[dict[str, Weight]]:
        storage = self._merged.storage
        stacks = [getattr(self._merged, stack.name) for stack in storage.stacks]
        found = _gradients(total, [p for p in stacks if isinstance(p, nn.Parameter)])
        every = []
        for number, each in enumerate(self._models):
            own = {}
            for key, _ in each.model.module.named_parameters():
                place = storage.places.get((number, key))
                if place is None or id(stacks[place[0]]) not in found:
                    continue
                value, gradient = stacks[place[0]].detach(), found[id(stacks[place[0]])]
                if not storage.stacks[place[0]].plain:
                    value, gradient = value[place[1]], gradient[place[1]]
                own[key] = Weight(value, gradient)
            every.append(own)
        return every


def run(
    proxy: Proxy, modules: Sequence[nn.Module], sample: Sample, seed: int, *, merge: bool = True
) -> list[float]:
    """The proxy's scores of modules, which are used up.

    Args:
        proxy: which.
        modules: they take the sample's inputs; each is changed.
        sample: a batch in float64, on the modules' device.
        seed: of what is drawn.
        merge: whether they are computed as one merged program, which makes no difference to the
            scores but rounding.
    """
    batch, memory = proxy.batch(sample, seed), Memory()
    models = [ready(proxy, module, batch, seed, memory) for module in modules]
    kind: type[Together] | type[Alone] = Together if merge and len(models) > 1 else Alone
    made: Pass = kind(models, batch, seed)
    return proxy.scores(made)


def _tapped(graph: Graph, refs: Sequence[Ref]) -> Graph:
    """The graph, returning ``(what it returns, tapped tensors)``."""
    outputs = list(graph._outputs)
    structure = (graph.output_structure, tuple(Result(len(outputs) + i) for i in range(len(refs))))
    context = replace(graph.context, sizes=graph.sizes)
    return Graph.build(list(graph.records()), [*outputs, *refs], structure, context)


def _seen(returned: Any, counts: Mapping[str, int]) -> Seen:
    outputs, tapped = returned
    taps, at = {}, 0
    for what, count in counts.items():
        taps[what] = tuple(tapped[at : at + count])
        at += count
    return Seen(outputs, taps)


def _gradients(total: Tensor, parameters: Sequence[nn.Parameter]) -> dict[int, Tensor]:
    """id -> gradient, of those that are trained; zeros where nothing depends on it."""
    trained = [p for p in parameters if p.requires_grad]
    found = torch.autograd.grad(total, trained, allow_unused=True)
    return {
        id(p): torch.zeros_like(p) if g is None else g.detach()
        for p, g in zip(trained, found, strict=True)
    }


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed % 2**63)
        yield
