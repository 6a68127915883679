"""Programs of ``torch.export`` as modules: their ATen calls become the calls that torch spells."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.nn import functional

from retiarii.errors import ParseError
from retiarii.ir.context import FixedSize
from retiarii.ir.tracing.exported_norms import restore_norms
from retiarii.ir.tracing.inputs import ExampleInputs


def opened(program: ExportedProgram) -> nn.Module:
    """A module that computes the program, with its ``state_dict`` keys.

    It shares the program's tensors. The checks of the example's shapes are left out: `parse` finds
    what depends on the batch size by itself.

    Args:
        program: an exported program; left as it is.
    """
    exported: Any = program.module()
    restore_norms(exported)
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
    return made.train(_trains(program))  # type: ignore[no-any-return]


def fixed_by(program: ExportedProgram, batch: int) -> frozenset[str]:
    """What a program holds for one value of only: see ``GraphContext.fixed``.

    Args:
        program: an exported program.
        batch: of the example inputs.

    Raises:
        ParseError: it was exported for another batch size, and for no other.
    """
    size = next((value.shape[0] for value in _input_values(program) if value.dim()), None)
    mode = {"training"} if _trains(program) else set()
    if type(size) is not int:
        return frozenset(mode)
    if size != batch:
        raise ParseError(
            f"the program was exported for a batch of {size}, and for no other",
            where=f"example inputs with a batch of {batch}",
            fix="export it with dynamic_shapes, or leave the example inputs out",
        )
    return frozenset({"batch", *mode})


def sizes_of(program: ExportedProgram, inputs: ExampleInputs) -> tuple[FixedSize, ...]:
    """The sizes of inputs that a program was exported for, and no others; without the batch.

    Args:
        program: an exported program.
        inputs: the example inputs.

    Raises:
        ParseError: one of these has another size.
    """
    found = []
    given = zip(_input_values(program), inputs.tensors(), inputs.names, strict=False)
    for number, (value, tensor, name) in enumerate(given):
        follows = inputs.batch_dim(tensor)
        for dim, size in enumerate(value.shape):
            if type(size) is int and dim != follows:
                found.append(FixedSize(number, dim))
                if tensor.shape[dim] != size:
                    raise ParseError(
                        f"the program was exported for {name}.shape[{dim}] == {size}",
                        where=f"the example input {name!r}, of shape {tuple(tensor.shape)}",
                        fix="export it with dynamic_shapes, or give inputs of that size",
                    )
    return tuple(found)


def _input_values(program: ExportedProgram) -> list[torch.Tensor]:
    """The tensors among the inputs, as the program has them: dynamic sizes are symbols."""
    inputs = set(program.graph_signature.user_inputs)
    values = (node.meta.get("val") for node in program.graph.nodes if node.name in inputs)
    return [value for value in values if isinstance(value, torch.Tensor)]


# Operators that do something else in training -> which argument says so.
_MODES: Mapping[str, int] = MappingProxyType(
    {"batch_norm": 5, "dropout": 2, "dropout_": 2, "alpha_dropout": 2, "feature_dropout": 2}
)


def _trains(program: ExportedProgram) -> bool:
    """Whether it was exported in training mode, as far as that makes a difference."""
    return any(
        len(node.args) > place and node.args[place] is True
        for node in program.graph.nodes
        if (place := _MODES.get(_name(node.target))) is not None
    )


def _name(target: Any) -> str:
    """An ATen operator's name; empty for all else."""
    if not isinstance(target, torch._ops.OpOverload) or target.namespace != "aten":
        return ""
    return str(target._schema.name.partition("::")[2])


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
    name = _name(target)
    if not name:
        return target
    if name in _REORDERED:
        return _REORDERED[name]
    for library in (torch, torch._C._nn, torch.Tensor, torch.linalg, torch.special, torch.fft):
        found = getattr(library, name, None)
        if found is not None and not isinstance(found, type):
            return found
    return target
