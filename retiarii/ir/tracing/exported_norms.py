"""Batch norms of exported programs in training: their two calls become the layer again.

The exporter writes ``num_batches_tracked.add_(1)`` and a call of ``batch_norm`` that writes the
running statistics. Both together are one call of the layer whose tensors they use.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import fx, nn

_LAYERS: Mapping[int, Any] = MappingProxyType(
    {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
)
_TENSORS = ("weight", "bias", "running_mean", "running_var")
_COUNTER = "num_batches_tracked"


def restore_norms(program: fx.GraphModule) -> None:
    """Lets layers do what is written out, wherever a module's calls are just those of such a layer.

    Args:
        program: its graph and modules are changed; its tensors are kept.
    """
    calls: dict[str, list[fx.Node]] = {}
    counts: dict[str, list[fx.Node]] = {}
    for node in program.graph.nodes:
        if node.target is torch.ops.aten.batch_norm.default and node.args[5] is True:
            calls.setdefault(_owner(node.args[3], "running_mean"), []).append(node)
        elif node.target is torch.ops.aten.add_.Tensor and node.args[1:] == (1,):
            # A second call counts on from the result of the first.
            base = node.args[0]
            before = next((p for p, known in counts.items() if base in known), None)
            counts.setdefault(before or _owner(base, _COUNTER), []).append(node)
    for path, nodes in calls.items():
        counted = counts.get(path, [])
        layer = _layer(program, path, nodes[0]) if path else None
        if layer is None or len(counted) != len(nodes):
            continue
        if any(_settings(node) != _settings(nodes[0]) for node in nodes):
            continue
        if any(user not in counted for node in counted for user in node.users):
            continue
        program.set_submodule(path, layer)
        for node in nodes:
            with program.graph.inserting_before(node):
                called = program.graph.call_module(path, (node.args[0],))
            called.meta = dict(node.meta)
            node.replace_all_uses_with(called)
            program.graph.erase_node(node)
        for node in reversed(counted):
            program.graph.erase_node(node)


def _owner(argument: Any, name: str) -> str:
    """The path of the module whose tensor ``name`` an argument is; empty if it is no such."""
    if not isinstance(argument, fx.Node) or argument.op != "get_attr":
        return ""
    path, _, last = str(argument.target).rpartition(".")
    return path if last == name else ""


def _settings(node: fx.Node) -> tuple[Any, ...]:
    """All that a call says beside its input: tensors by their keys."""
    return tuple(str(a.target) if isinstance(a, fx.Node) else a for a in node.args[1:])


def _layer(program: fx.GraphModule, path: str, node: fx.Node) -> nn.Module | None:
    """The layer that a call stands for, with the module's tensors; ``None`` if it is none."""
    holder = program.get_submodule(path)
    given: Any = node.args
    held = {**holder._parameters, **holder._buffers}
    named = {name: given[i] for i, name in enumerate(_TENSORS, start=1) if given[i] is not None}
    kind = _LAYERS.get(given[0].meta["val"].dim())
    if kind is None or set(held) != {*named, _COUNTER} or any(holder.children()):
        return None
    if any(_owner(argument, name) != path for name, argument in named.items()):
        return None
    mean: Any = held["running_mean"]
    made: nn.Module = kind(
        mean.shape[0], eps=given[7], momentum=given[6], affine="weight" in named, device="meta"
    )
    made._parameters.update(holder._parameters)
    made._buffers.update(holder._buffers)
    return made
