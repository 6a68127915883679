"""Growth that keeps the function: wider and deeper layers, with exact weight transfer.

Chen, Goodfellow and Shlens, "Net2Net: accelerating learning via knowledge transfer" (ICLR 2016).
The weights are kept with the graph: ``graph.to_module()`` and the candidates of a
``ModelSpace(..., weights="inherit")`` start from them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from math import lcm
from typing import Any, Final

import torch
from torch import nn

from retiarii.errors import GraphError
from retiarii.ir.edit.coupling import Coupling, Place, couple, spread_from
from retiarii.ir.edit.editing import own_name
from retiarii.ir.graph import Graph
from retiarii.ir.node import Node
from retiarii.ir.transfer import Transfer
from retiarii.mutators.mutator import Mutator
from retiarii.mutators.resample import Shares, group_count, put_transfer, resample

_CONVS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS: Final = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
# Applied twice they do what they do once, so that a layer that changes nothing fits between.
_IDEMPOTENT: Final = frozenset({"ReLU", "relu", "ReLU6", "relu6", "Hardtanh", "hardtanh"})

Statistics = tuple[torch.Tensor, torch.Tensor]


def widen(graph: Graph, node: Node, width: int, *, seed: int = 0, noise: float = 0.0) -> None:
    """Net2Wider: gives a layer more channels, and the model the same function.

    Some channels are repeated; what reads them divides its weights among the copies. This goes
    through activations, pooling, flattening, BatchNorm (parameters and statistics), depthwise
    convolutions, concatenation, and residual sums, whose other producers are widened alike.

    Args:
        graph: the graph.
        node: a convolution, a Linear, a Bilinear, an embedding, or a recurrent layer (its hidden
            size, in all of its layers and directions).
        width: its channels afterwards, more than now; where channels can only change together (of a
            head, of the two halves of a gate), more by whole such parts.
        seed: which channels are repeated.
        noise: how unevenly the readers' weights are divided. Evenly (0), copies get equal
            gradients and stay copies; unevenly, they part, and the function is kept all the same.

    Raises:
        GraphError: it cannot be exact: through LayerNorm and its like, tied weights, an output of
            the model, groups that would differ in size, or an operation that is not known.
    """
    name = own_name(graph, node)
    grow(graph, name, couple(graph, name), width, seed=seed, noise=noise)


def grow(
    graph: Graph, name: str, coupling: Coupling, width: int, *, seed: int, noise: float
) -> None:
    """Widens all that is coupled. See `widen`."""
    if width <= coupling.size:
        raise GraphError(
            f"{name!r} has {coupling.size} channels already, and {width} are no more",
            where=f"node {name!r}",
            fix="give a larger width; prune_channels makes it smaller",
        )
    if coupling.mixers:
        mixer = next(iter(coupling.mixers))
        raise GraphError(
            f"{name!r} cannot be widened exactly: {mixer!r} ({graph.record(mixer).op}) depends on "
            "all channels at once",
            where=f"node {mixer!r}",
            fix="graph.update(node, ...) widens it with fresh weights",
        )
    if not 0 <= noise < 1:
        raise GraphError(f"noise={noise} could leave a copy no part", fix="give 0 <= noise < 1")
    _refuse_ties(graph, coupling)
    _refuse_other_uses(graph, coupling)
    shares = _repeated(graph, name, coupling, width, random.Random(seed), noise)
    with graph.edits():
        resample(graph, coupling, shares)
        _check_copies(graph, coupling, shares)


def _refuse_ties(graph: Graph, coupling: Coupling) -> None:
    ties = graph.context.ties
    tied = {*ties, *ties.values()}
    for name in (*coupling.makers, *coupling.readers):
        path = graph.record(name).path
        if path is not None and any(k == path or k.startswith(path + ".") for k in tied):
            raise GraphError(
                f"{name!r} shares its weights with another layer",
                where=f"node {name!r}",
                fix="widen a layer whose weights are its own",
            )


def _refuse_other_uses(graph: Graph, coupling: Coupling) -> None:
    """A raw weight whose columns are divided must be read in products only."""
    for _, place in coupling.products:
        for user in graph.users_of(place.node):
            if (user, place) not in coupling.products:
                raise GraphError(
                    f"{place.node!r} is multiplied with all channels, and read by {user!r} too",
                    where=f"node {user!r}",
                    fix="graph.update(node, ...) widens it with fresh weights",
                )


def _check_copies(graph: Graph, coupling: Coupling, shares: Shares) -> None:
    """Each copy is where the operations on the way look for it."""
    ids: dict[tuple[int, int], int] = {}
    wanted: dict[Place, tuple[int, ...]] = {}
    for place, channels in coupling.channels.items():
        copies = shares.layout(channels).copies
        wanted[place] = tuple(
            ids.setdefault(copy, len(ids)) if copy[0] >= 0 else -1 for copy in copies
        )
    found = spread_from(graph, coupling.start, wanted[coupling.start])
    plain = len(set(found.units)) == len(found.units)
    if not plain or any(found.channels.get(p) != _renumbered(found, w) for p, w in wanted.items()):
        raise GraphError(
            f"{coupling.start.node!r} cannot be widened exactly: its copies would be in another "
            "order than they are read in",
            where=f"node {coupling.start.node!r}",
            fix="graph.update(node, ...) widens it with fresh weights",
        )


def _renumbered(found: Coupling, channels: Sequence[int]) -> tuple[int, ...]:
    return tuple(found.units[c] if c >= 0 else -1 for c in channels)


def _repeated(
    graph: Graph, name: str, coupling: Coupling, width: int, rng: random.Random, noise: float
) -> Shares:
    size = max(coupling.units) + 1
    together = coupling.size // size
    more, rest = divmod(width - coupling.size, together)
    sizes = {coupling.units.count(unit) for unit in range(size)}
    if rest or len(sizes) > 1:
        raise GraphError(
            f"{name!r} has {coupling.size} channels in {size} parts that stay whole, and cannot "
            f"have {width}",
            where=f"node {name!r}",
            fix=f"add a multiple of {together} channels",
        )
    layers = [graph.record(n) for n in (*coupling.makers, *coupling.readers)]
    groups = lcm(*(group_count(record) for record in layers))
    if size % groups or more % groups:
        groups = 1  # what does not divide is refused where the groups are
    copies = [1] * size
    each = size // groups
    for group in range(groups):
        for _ in range(more // groups):
            copies[group * each + rng.randrange(each)] += 1
    return Shares(tuple(_divided(n, rng, noise) for n in copies))


def _divided(copies: int, rng: random.Random, noise: float) -> tuple[float, ...]:
    if copies == 1:
        return (1.0,)
    parts = [1.0 + noise * rng.uniform(-1.0, 1.0) for _ in range(copies)]
    return tuple(part / sum(parts) for part in parts)


def deepen(
    graph: Graph,
    node: Node,
    *,
    kernel_size: int = 3,
    norm: bool = False,
    statistics: Statistics | None = None,
    name: str = "deeper",
) -> Node:
    """Net2Deeper: inserts a layer behind a node that computes the identity, to be trained on.

    A convolution for (batch, channels, ...) of three dimensions or more, a Linear for two. Behind
    a ReLU (or what else changes nothing the second time) the same activation follows, so that the
    new layer is one that can learn something.

    Args:
        graph: the graph.
        node: what it goes behind; all that reads it reads the new layer instead.
        kernel_size: of a convolution, odd.
        norm: also a BatchNorm, which undoes itself: exact in evaluation mode; in training as far
            as the statistics of a batch are those given.
        statistics: (mean, variance) of each channel where the norm goes, measured on data; the
            norm starts from them. ``None``: mean 0 and variance 1.
        name: path of what is inserted; parts are ``conv`` (or ``linear``), ``norm``, ``act``.

    Returns:
        The last node inserted.

    Raises:
        GraphError: an even kernel; a node that makes no floating-point tensor with channels.
    """
    own_name(graph, node)
    kind = node.type
    if kernel_size % 2 == 0 or kernel_size < 1:
        raise GraphError(
            f"no convolution of size {kernel_size} is the identity", fix="give an odd kernel_size"
        )
    if not 2 <= len(kind.shape) <= 5 or not kind.dtype.is_floating_point:
        raise GraphError(
            f"{node._name!r} makes {kind}, which has no channels to put a layer on",
            where=f"node {node._name!r}",
            fix="name a node of shape (batch, channels, ...)",
        )
    dtype = {} if kind.dtype == torch.get_default_dtype() else {"dtype": kind.dtype}
    channels, rank = kind.shape[1], len(kind.shape) - 2
    activation, settings = (node.op, node.attrs) if node.op in _IDEMPOTENT else (None, {})
    with graph.edits():
        base = _free_base(graph, name)
        if rank:
            size = {"out_channels": channels, "kernel_size": kernel_size}
            last = graph.insert_after(
                node,
                _CONVS[rank - 1],
                name=f"{base}.conv",
                **size,
                padding=kernel_size // 2,
                **dtype,
            )
        else:
            last = graph.insert_after(
                node, nn.Linear, name=f"{base}.linear", out_features=channels, **dtype
            )
        weights = {
            "weight": _identity(channels, (kernel_size,) * rank, kind.dtype),
            "bias": torch.zeros(channels, dtype=kind.dtype, device="cpu"),
        }
        _keep(graph, last, weights)
        if norm:
            last = graph.insert_after(last, _NORMS[max(rank - 1, 0)], name=f"{base}.norm", **dtype)
            _keep(graph, last, _undone(channels, kind.dtype, statistics, last.attrs["eps"]))
        if activation is not None:
            what: Any = getattr(nn, activation, activation)
            last = graph.insert_after(last, what, name=f"{base}.act", **settings)
    return last


def _free_base(graph: Graph, name: str) -> str:
    base, number = name, 0
    parts = ("", ".conv", ".linear", ".norm", ".act")
    while any(base + part in graph for part in parts):
        number += 1
        base = f"{name}_{number}"
    return base


def _identity(channels: int, size: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    weight = torch.zeros((channels, channels, *size), dtype=dtype, device="cpu")
    middle = tuple(s // 2 for s in size)
    for channel in range(channels):
        weight[(channel, channel, *middle)] = 1.0
    return weight


def _undone(
    channels: int, dtype: torch.dtype, statistics: Statistics | None, eps: float
) -> dict[str, torch.Tensor]:
    """A BatchNorm whose weight and bias undo what its statistics do."""
    if statistics is None:
        mean = torch.zeros(channels, dtype=dtype, device="cpu")
        variance = torch.ones(channels, dtype=dtype, device="cpu")
    else:
        mean, variance = (s.detach().to("cpu", dtype) for s in statistics)
        if mean.shape != (channels,) or variance.shape != (channels,) or bool((variance < 0).any()):
            raise GraphError(
                f"statistics of shapes {tuple(mean.shape)} and {tuple(variance.shape)} are given "
                f"for {channels} channels",
                fix="give the mean and the variance (not negative) of each channel",
            )
    return {
        "weight": (variance + eps).sqrt(),
        "bias": mean.clone(),
        "running_mean": mean,
        "running_var": variance,
        "num_batches_tracked": torch.zeros((), dtype=torch.long, device="cpu"),
    }


def _keep(graph: Graph, node: Node, weights: Mapping[str, torch.Tensor]) -> None:
    """Lets a node that was inserted start from these weights."""
    record = graph.record(node._name)
    graph.put(record.with_(fresh=False))
    given = {f"{record.path}.{key}": tensor for key, tensor in weights.items()}
    put_transfer(graph, Transfer(given=given))


class Net2Wider(Mutator):
    """Widens its target by one of several factors, and keeps the function. See `widen`.

    Args:
        factors: to choose from; 1 leaves it as it is.
        noise: as for `widen`.
    """

    def __init__(self, factors: Sequence[float] = (1.0, 1.5, 2.0), noise: float = 0.0) -> None:
        self.factors = tuple(factors)
        self.noise = noise

    def mutate(self, graph: Graph, target: Node) -> None:
        factor = self.choice(self.factors, label="factor")
        if factor == 1:
            return
        units = couple(graph, own_name(graph, target)).units
        number = max(units) + 1  # of parts that stay whole: channels, heads
        width = round(number * factor) * (len(units) // number)
        if width > len(units):
            widen(graph, target, width, noise=self.noise)


class Net2Deeper(Mutator):
    """Puts up to ``most`` layers behind its target that change nothing yet. See `deepen`.

    Args:
        most: the largest number of layers.
        kernel_sizes: of convolutions, to choose from.
        norm: with a BatchNorm each.
    """

    def __init__(
        self, most: int = 1, kernel_sizes: Sequence[int] = (3,), norm: bool = False
    ) -> None:
        self.most = most
        self.kernel_sizes = tuple(kernel_sizes)
        self.norm = norm

    def mutate(self, graph: Graph, target: Node) -> None:
        last = target
        for i in range(self.choice(range(self.most + 1), label="layers")):
            size = 1
            if len(last.shape) > 2:
                size = self.choice(self.kernel_sizes, label=f"kernel{i}")
            last = deepen(graph, last, kernel_size=size, norm=self.norm)
