"""Printing a graph as text: one line a node, in SSA form. `text_read` reads it back."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from retiarii.ir.types import (
    BatchSize,
    ByMode,
    FrozenDict,
    FrozenList,
    InputDevice,
    Operand,
    Ref,
    Result,
    TensorType,
    Training,
    TypeOf,
    leaves,
    map_leaves,
)

if TYPE_CHECKING:
    from retiarii.ir.graph import Graph
    from retiarii.ir.node import NodeRecord

# Constants up to this many elements are in the text; larger ones are not (nor are weights).
INLINE_LIMIT = 64

_BARE = re.compile(r"[\w.@\-]+\Z")
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")


def print_graph(graph: Graph) -> str:
    """The graph as text, without weights.

    Args:
        graph: any graph that verifies.

    Returns:
        Text from which `parse_text` makes a graph with equal records (but for ``where``).
    """
    return "\n".join(_lines(graph)) + "\n"


def _lines(graph: Graph) -> Iterator[str]:
    context = graph.context
    at = f", batch_input={context.batch_input}" if context.batch_input else ""
    yield f"graph (batch={context.batch}{at}, training={context.training}) {{"
    yield f"  forward ({', '.join(_parameters(graph))})"
    for what in sorted(context.fixed):
        yield f"  fixed {what}"
    for size in graph.sizes:
        yield f"  fixed size {size.input} {size.dim}"
    for key in sorted(context.frozen):
        yield f"  frozen {_quoted(key)}"
    for alias, key in context.ties.items():
        yield f"  tie {_quoted(alias)} = {_quoted(key)}"
    for path, flag in context.modes.items():
        yield f"  mode {_quoted(path)} = {flag}"
    records = list(graph.records())
    constants = {r.attrs["key"]: None for r in records if r.op == "constant"}
    for key in constants:
        value = context.constants.get(key)
        if value is not None and _inlines(value):
            kind = TensorType.of(value)
            yield f"  value {_quoted(key)} = {print_value(_plain(value))} : {kind}"
    for record in records:
        yield "  " + _record(record)
    yield "  return " + _returned(graph)
    yield "}"


def _parameters(graph: Graph) -> Iterator[str]:
    spec = graph.context.forward
    starred = False
    for name, structure in spec.params:
        if name in spec.keyword_only and not starred:
            starred = True
            yield "*"
        yield f"{name}={print_value(structure)}"


def _record(record: NodeRecord) -> str:
    arguments = [print_ref(ref) for ref in record.inputs]
    arguments += [f"{_key(k)}={print_value(v)}" for k, v in record.attrs.items()]
    parts = [f"{print_ref(Ref(record.name))} = {record.op}({', '.join(arguments)})"]
    if record.result is not None:
        parts.append(f"-> {print_value(record.result)}")
    if record.path is not None:
        parts.append(f"@ {_quoted(record.path)}")
    if record.fresh:
        parts.append("fresh")
    if record.no_grad:
        parts.append("no_grad")
    if record.types:
        parts.append(f": {', '.join(map(str, record.types))}")
    return " ".join(parts)


def _returned(graph: Graph) -> str:
    """The returned structure with the values in it, where that says it all."""
    refs = graph.output_refs()
    structure = Result(0) if graph.output_structure is None else graph.output_structure
    order = [leaf.index for leaf in leaves(structure) if isinstance(leaf, Result)]
    if order == list(range(len(refs))):
        placed = map_leaves(
            lambda leaf: refs[leaf.index] if isinstance(leaf, Result) else leaf, structure
        )
        return print_value(placed)
    return f"{print_value(tuple(refs))} as {print_value(structure)}"


def print_ref(ref: Ref) -> str:
    """``%name``, with ``#1`` behind it for a result other than the first."""
    name = ref.node if _BARE.match(ref.node) else _quoted(ref.node)
    return f"%{name}#{ref.index}" if ref.index else f"%{name}"


def print_value(value: Any) -> str:
    """An attribute's value, or a structure, as text."""
    if isinstance(value, Ref):
        return print_ref(value)
    if isinstance(value, Operand | Result):
        return f"${value.index}"
    if isinstance(value, FrozenDict):
        return "{" + ", ".join(f"{print_value(k)}: {print_value(v)}" for k, v in value) + "}"
    if isinstance(value, FrozenList):
        return "[" + ", ".join(map(print_value, value)) + "]"
    if type(value) is tuple:
        return f"({', '.join(map(print_value, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, slice):
        return f"slice({', '.join(map(print_value, (value.start, value.stop, value.step)))})"
    printer = _LEAVES.get(type(value))
    if printer is None:
        # What the reader refuses by name, rather than a text that means something else.
        return "<" + re.sub(r"[<>\n]", " ", repr(value)) + ">"
    return str(printer(value))


def print_batch(
    value: BatchSize, name: str = "batch", multiply: str = "*", divide: str = "//"
) -> str:
    """A size that follows the batch, as an expression over ``name``."""
    text = name
    if value.scale != 1:
        text += f"{multiply}{value.scale}"
    if value.divisor != 1:
        text += f"{divide}{value.divisor}"
    return f"{text}{value.offset:+d}" if value.offset else text


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _key(key: str) -> str:
    return key if _IDENTIFIER.match(key) else _quoted(key)


def _type_of(value: TypeOf) -> str:
    return f"type({_quoted(f'{value.target.__module__}:{value.target.__qualname__}')})"


def _float(value: float) -> str:
    return repr(value)


def _inlines(tensor: torch.Tensor) -> bool:
    return tensor.numel() <= INLINE_LIMIT and not tensor.is_complex() and not tensor.is_meta


def _plain(tensor: torch.Tensor) -> Any:
    """The tensor's numbers as nested lists."""

    def frozen(value: Any) -> Any:
        return FrozenList(map(frozen, value)) if isinstance(value, list) else value

    return frozen(tensor.detach().cpu().tolist())


_LEAVES: Mapping[type, Any] = {
    type(None): repr,
    bool: repr,
    int: repr,
    float: _float,
    complex: lambda c: f"complex({c.real!r}, {c.imag!r})",
    str: _quoted,
    bytes: lambda b: f'bytes("{b.hex()}")',
    type(...): lambda _: "...",
    BatchSize: print_batch,
    ByMode: lambda m: f"by_mode({print_value(m.training)}, {print_value(m.evaluating)})",
    Training: lambda t: "not training" if t.inverted else "training",
    InputDevice: lambda _: "input_device",
    TypeOf: _type_of,
    torch.dtype: str,
    torch.layout: str,
    torch.memory_format: str,
    torch.device: lambda d: f"device({_quoted(str(d))})",
}
