"""The sizes of inputs that a generated forward checks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph

_INDENT = "    "


def size_checks(graph: Graph, variables: Mapping[str, str]) -> Iterator[str]:
    """Lines that refuse other sizes: the model's Python acted on these, and may do something else.

    Args:
        graph: the graph.
        variables: the name of an input -> how the code calls it.
    """
    inputs = list(variables)
    for number, fixed in groupby(graph.sizes, lambda size: size.input):
        held = list(fixed)
        dims = [size.dim for size in held]
        name = variables[inputs[number]]
        shape = graph.record(inputs[number]).types[0].shape
        wanted: Any = tuple(shape[dim] for dim in dims)
        if len(dims) == 1:
            read, wanted = f"{name}.shape[{dims[0]}]", wanted[0]
        elif dims == list(range(dims[0], dims[-1] + 1)):
            read = f"{name}.shape[{dims[0]}:{dims[-1] + 1}]"
        else:
            read = f"({', '.join(f'{name}.shape[{dim}]' for dim in dims)})"
        got = read if len(dims) == 1 else f"tuple({read})"
        places = ", ".join(dict.fromkeys(size.where for size in held if size.where))
        end = ": " if places else ""
        yield f"if {read} != {wanted}:"
        yield f"{_INDENT}raise ValueError("
        yield f'{2 * _INDENT}f"this model was lowered for {read} == {wanted}, not {{{got}}}{end}"'
        if places:
            plain = places.replace("\\", "\\\\").replace('"', "'")
            yield f'{2 * _INDENT}"its Python reads it at {plain}"'
        yield f"{_INDENT})"
