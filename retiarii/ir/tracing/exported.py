"""Programs of ``torch.export`` as modules: their ATen calls become the calls that torch spells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn import functional


def opened(program: ExportedProgram) -> nn.Module:
    """A module that computes the program, with its ``state_dict`` keys.

    It shares the program's tensors. The checks of the example's shapes are left out: `parse` finds
    what depends on the batch size by itself.

    Args:
        program: an exported program; left as it is.
    """
    exported: Any = program.module()
    for node in list(exported.graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn":
            exported.graph.erase_node(node)
        elif node.op == "call_function":
            node.target = _spelled(node.target)
    exported.recompile()
    # Not the graph module itself: it has a say in how it is copied and called. The structure of
    # arguments and results stays on the class.
    kept = ("_in_spec", "_out_spec")
    members = {name: getattr(exported, name) for name in kept if hasattr(exported, name)}
    made = type("Exported", (nn.Module,), {"forward": type(exported).forward, **members})()
    for name, child in exported.named_children():
        if name != "_guards_fn":
            made.add_module(name, child)
    for name, parameter in exported._parameters.items():
        made.register_parameter(name, parameter)
    for name, buffer in exported._buffers.items():
        kept_in_state = name not in exported._non_persistent_buffers_set
        made.register_buffer(name, buffer, persistent=kept_in_state)
    return made.eval()  # type: ignore[no-any-return]


def example_of(program: ExportedProgram) -> Any:
    """The inputs that the program was exported with, as `parse` takes them."""
    if program.example_inputs is None:
        return None
    args, kwargs = program.example_inputs
    if not kwargs:
        return args
    names = [str(node.name) for node in program.graph.nodes if node.op == "placeholder"]
    inputs = program.graph_signature.user_inputs
    leading = [name for name in names if name in inputs][: len(args)]
    return {**dict(zip(leading, args, strict=False)), **kwargs}


def _batch_norm(
    x: torch.Tensor, weight: Any, bias: Any, mean: Any, var: Any, *rest: Any
) -> torch.Tensor:
    training, momentum, eps = rest[:3]
    return functional.batch_norm(x, mean, var, weight, bias, training, momentum, eps)


def _layer_norm(x: torch.Tensor, shape: Any, *rest: Any) -> torch.Tensor:
    return functional.layer_norm(x, shape, *rest[:3])


def _group_norm(x: torch.Tensor, groups: int, *rest: Any) -> torch.Tensor:
    return functional.group_norm(x, groups, *rest[:3])


def _slice(
    x: torch.Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> torch.Tensor:
    # The exporter writes the largest integer for "to the end".
    stop = None if end is None or end >= torch.iinfo(torch.int64).max else end
    return x[(*(slice(None),) * (dim % x.dim()), slice(start, stop, step))]


# ATen operators whose arguments come in another order than those of the function for users.
_REORDERED: Mapping[str, Callable[..., Any]] = MappingProxyType(
    {
        "batch_norm": _batch_norm,
        "layer_norm": _layer_norm,
        "group_norm": _group_norm,
        "sym_size": torch.Tensor.size,
        "detach_": torch.Tensor.detach,
        "alias": lambda x: x.view_as(x),
        "slice": _slice,
    }
)


def _spelled(target: Any) -> Any:
    """The torch function of the same name and arguments; the target itself where there is none."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return target
    name = target._schema.name.partition("::")[2]
    if name in _REORDERED:
        return _REORDERED[name]
    for library in (torch, torch._C._nn, torch.Tensor, torch.linalg, torch.special, torch.fft):
        found = getattr(library, name, None)
        if found is not None and not isinstance(found, type):
            return found
    return target
