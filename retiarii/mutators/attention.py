"""Heads of attention: whole ones are added (exactly) or taken away; attention in plain layers.

A head is a block of rows in the projections to queries, keys and values, and a block of columns in
the projection behind the attention, which adds up what the heads make.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from retiarii.errors import GraphError
from retiarii.ir.edit.coupling import Coupling, Place, spread_from
from retiarii.ir.edit.editing import own_name
from retiarii.ir.graph import Graph
from retiarii.ir.node import Node, NodeRecord, Value
from retiarii.ir.transfer import Take, Transfer
from retiarii.ir.types import ByMode, Ref
from retiarii.mutators.growth import grow
from retiarii.mutators.resample import put_transfer


def add_heads(graph: Graph, node: Node, heads: int, *, seed: int = 0, noise: float = 0.0) -> None:
    """Gives an attention more heads, and the model the same function.

    Heads are repeated, and the columns of the projection behind the attention divided among the
    copies, as Net2Wider does with channels. Heads that share keys and values are repeated together.

    Args:
        graph: the graph.
        node: a MultiheadAttention, which becomes plain layers (see `open_attention`); or, where
            attention is written by hand, its product, softmax, or what has the shape
            (..., heads, queries, keys or width).
        heads: their number afterwards, more than now.
        seed: which heads are repeated.
        noise: as for `widen`.

    Raises:
        GraphError: the node has no axis of heads; it cannot be exact (see `widen`).
    """
    with graph.edits():
        name, coupling = couple_heads(graph, node)
        grow(graph, name, coupling, heads, seed=seed, noise=noise)


def couple_heads(graph: Graph, node: Node) -> tuple[str, Coupling]:
    """The name of an attention and what is coupled to its heads.

    Raises:
        GraphError: it has no axis of heads.
    """
    name = own_name(graph, node)
    record = graph.settled(name)
    if record.op == "MultiheadAttention":
        name = own_name(graph, open_attention(graph, node))
        record = graph.settled(name)
    if len(record.types) != 1 or len(record.types[0].shape) < 4:
        raise GraphError(
            f"{name!r} ({record.op}) has no axis of heads",
            where=f"node {name!r}",
            fix="name a MultiheadAttention, or a result of shape (batch, heads, queries, ...)",
        )
    shape = record.types[0].shape
    axis = len(shape) - 3
    return name, spread_from(graph, Place(name, 0, axis), range(shape[axis]))


def open_attention(graph: Graph, node: Node) -> Node:
    """Puts plain layers in the place of a MultiheadAttention, with its weights.

    Its width, its heads and their width are one size there; of the Linear layers ``q``, ``k``,
    ``v`` and ``out`` each has its own, so that they can be widened and pruned.

    Args:
        graph: the graph.
        node: a MultiheadAttention of batched inputs.

    Returns:
        The attention between the projections, of shape (batch, heads, queries, width of a head).

    Raises:
        GraphError: it is no MultiheadAttention; its attention weights or masks are used; it has
            keys of its own (``add_bias_kv``, ``add_zero_attn``), or is called in several places.
    """
    name = own_name(graph, node)
    record = graph.settled(name)
    why = _closed(graph, record)
    if why:
        raise GraphError(
            f"{name!r} ({record.op}) cannot be opened: {why}",
            where=f"node {name!r}",
            fix="name a MultiheadAttention that is called once, on batched inputs, and of which "
            "only the first result is used",
        )
    attrs = record.attrs
    heads, first = attrs["num_heads"], attrs["batch_first"]
    width = attrs["embed_dim"] // heads
    # (batch, length, heads, width), or with the length first, to (batch, heads, length, width).
    there, back = ((0, 2, 1, 3),) * 2 if first else ((1, 2, 0, 3), (2, 0, 1, 3))
    with graph.edits():
        parts = []
        for key, ref in zip("qkv", record.inputs[:3], strict=True):
            layer = _linear(graph, record, key, Value(graph, *ref))
            split = graph.insert(
                torch.Tensor.unflatten, layer, dim=-1, sizes=(heads, width), name=f"{name}.heads"
            )
            parts.append(_permuted(graph, split, there))
        dropout = {"dropout_p": ByMode(attrs["dropout"], 0.0)} if attrs["dropout"] else {}
        result = graph.insert(
            F.scaled_dot_product_attention, *parts, name=f"{name}.attention", **dropout
        )
        joined = graph.insert(
            torch.flatten, _permuted(graph, result, back), start_dim=2, name=f"{name}.joined"
        )
        out = _linear(graph, record, "out", joined)
        for user in graph.users_of(name):
            read = graph.record(user).inputs
            for i, ref in enumerate(read):
                if ref == Ref(name, 0):
                    graph.rewire(Node(graph, user), i, out)
        put_transfer(graph, _opened(record, graph))
    return result


def _closed(graph: Graph, record: NodeRecord) -> str | None:
    """Why a node cannot be opened, if so."""
    if record.op != "MultiheadAttention":
        return "it is none"
    if graph.twins_of(record):
        return "it is called in several places"
    if record.attrs["add_bias_kv"] or record.attrs["add_zero_attn"]:
        return "it has keys of its own"
    if len(record.inputs) != 3:
        return "it has masks"
    if len(record.types[0].shape) != 3:
        return "its inputs have no batch"
    used = [r for u in graph.users_of(record.name) for r in graph.record(u).inputs]
    if any(r.node == record.name and r.index for r in used):
        return "its attention weights are used"
    if any(ref.node == record.name for ref in graph.output_refs()):
        return "the model returns what it makes"
    return None


def _linear(graph: Graph, record: NodeRecord, key: str, value: Node | Value) -> Node:
    attrs = record.attrs
    dtype = record.types[0].dtype
    more: dict[str, Any] = {} if dtype == torch.get_default_dtype() else {"dtype": dtype}
    made = graph.insert(
        nn.Linear,
        value,
        out_features=attrs["embed_dim"],
        bias=attrs["bias"],
        name=f"{record.path}.{key}",
        **more,
    )
    if not record.fresh:
        graph.put(graph.record(made._name).with_(fresh=False))
    return made


def _permuted(graph: Graph, value: Node, dims: tuple[int, ...]) -> Node:
    return graph.insert(torch.permute, value, dims=dims, name=f"{value._name}.permuted")


def _opened(record: NodeRecord, graph: Graph) -> Transfer:
    """The weights of the plain layers, of those of the attention."""
    path, attrs = record.path, record.attrs
    size = attrs["embed_dim"]
    weights = graph.context.weights
    made: dict[str, tuple[str, tuple[Take, ...]]] = {}
    for i, key in enumerate("qkv"):
        rows = (Take(0, tuple(range(i * size, (i + 1) * size))),)
        if f"{path}.in_proj_weight" in weights:
            made[f"{path}.{key}.weight"] = (f"{path}.in_proj_weight", rows)
        else:
            made[f"{path}.{key}.weight"] = (f"{path}.{key}_proj_weight", ())
        if attrs["bias"]:
            made[f"{path}.{key}.bias"] = (f"{path}.in_proj_bias", rows)
    made[f"{path}.out.weight"] = (f"{path}.out_proj.weight", ())
    if attrs["bias"]:
        made[f"{path}.out.bias"] = (f"{path}.out_proj.bias", ())
    made = {k: v for k, v in made.items() if v[0] in weights}
    return Transfer({key: tuple(weights[key].shape) for key, _ in made.values()}, made)
