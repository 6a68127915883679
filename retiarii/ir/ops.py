"""The op table: what each operation is called, how it is called, and what is known of it.

The table is assembled from the rows of :mod:`retiarii.ir.op_rows`. Here are the lookups, and the
two directions between a Python call and a node: :func:`bind_call` and :func:`split_call`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

import torch
from torch import nn

from retiarii.errors import GraphError, nearest
from retiarii.ir.calls import arrange_call, bind_call, thaw
from retiarii.ir.op_rows.families import FAMILIES
from retiarii.ir.op_rows.spec import OpSpec, lookup
from retiarii.ir.types import Attrs, Ref

__all__ = [
    "OPS",
    "FunctionMatch",
    "OpSpec",
    "arrange_call",
    "bind_call",
    "constructor_attrs",
    "function_op",
    "module_attrs",
    "module_op",
    "op_spec",
    "split_call",
    "thaw",
]


class Record(Protocol):
    """What is read of a node's record here."""

    @property
    def op(self) -> str: ...
    @property
    def inputs(self) -> tuple[Ref, ...]: ...
    @property
    def attrs(self) -> Attrs: ...


@dataclass(frozen=True, slots=True)
class FunctionMatch:
    """What a torch callable means.

    Attributes:
        op: the row's name.
        spec: the row as this callable's arguments bind to it; give it to :func:`bind_call`.
        inplace: it writes its first argument and returns it.
    """

    op: str
    spec: OpSpec
    inplace: bool


def _assemble() -> tuple[Mapping[str, OpSpec], Mapping[Any, FunctionMatch], Mapping[type, str]]:
    ops: dict[str, OpSpec] = {}
    functions: dict[Any, FunctionMatch] = {}
    modules: dict[type, str] = {}
    for row in (row for family in FAMILIES for row in family):
        spec = row.spec
        if spec.name in ops:
            raise AssertionError(f"two rows are called {spec.name!r}")
        ops[spec.name] = spec
        if spec.kind == "module":
            modules[spec.target] = spec.name
        for called, as_called, inplace in row.callables:
            functions.setdefault(called, FunctionMatch(spec.name, as_called, inplace))
    return MappingProxyType(ops), MappingProxyType(functions), MappingProxyType(modules)


_TABLES: Final = _assemble()
OPS: Final[Mapping[str, OpSpec]] = _TABLES[0]
_FUNCTIONS: Final[Mapping[Any, FunctionMatch]] = _TABLES[1]
_MODULES: Final[Mapping[type, str]] = _TABLES[2]


def op_spec(op: str) -> OpSpec:
    """The row of ``op``.

    A torch function without a row has its qualified name ("torch.fft.fft2", "method.NAME") as op
    and gets a row that assumes nothing of it.

    Raises:
        GraphError: there is no such operation.
    """
    spec = OPS.get(op)
    if spec is not None:
        return spec
    spec = _generic(op)
    if spec is None:
        raise GraphError(f"no op is called {op!r}", where="op table", fix=nearest(op, list(OPS)))
    return spec


def _generic(op: str) -> OpSpec | None:
    """A row for a qualified name; only for functions of tensors, never for all of torch."""
    head, _, name = op.partition(".")
    if head == "method" and not name.endswith("_"):
        found = getattr(torch.Tensor, name, None)
        spec = OpSpec(op, "function", method=name, call=f".{name}", generic=True, pure=False)
    elif head == "torch" and name:
        found = lookup(op)
        spec = OpSpec(op, "function", target=found, call=op, generic=True, pure=False)
    else:
        return None
    # Overridable functions are those of tensors; torch.load and its like are none of them.
    overridable = torch.overrides.get_overridable_functions().values()
    if not callable(found) or not any(found in functions for functions in overridable):
        return None
    return spec


def module_op(cls: type) -> str | None:
    """The op of a layer's class; ``None`` for subclasses and for what has no row."""
    return _MODULES.get(cls)


def function_op(called: Any) -> FunctionMatch | None:
    """What a function, method or operator of torch means; ``None`` where it has no row."""
    try:
        return _FUNCTIONS.get(called)
    except TypeError:
        return None


def module_attrs(module: nn.Module, op: str | None = None) -> Attrs:
    """The constructor arguments that make a layer like ``module``.

    Args:
        module: the layer.
        op: the row to read them for, where the class itself has none (a subclass).

    ``dtype`` is among them only where its parameters are not of torch's default dtype.

    Raises:
        GraphError: its class has no row.
    """
    op = op or module_op(type(module))
    if op is None:
        raise GraphError(
            f"{type(module).__name__} has no row in the op table",
            where="op table",
            fix="use a layer of torch.nn, or a module made of them",
        )
    spec = OPS[op]
    attrs: dict[str, Any] = {}
    for name in spec.signature:
        value = _read_argument(module, name)
        if name not in spec.optional or value != spec.defaults[name]:
            attrs[name] = value
    if spec.placed:
        kinds = {p.dtype for p in (*module.parameters(), *module.buffers())}
        kinds = {d for d in kinds if d.is_floating_point} - {torch.get_default_dtype()}
        if kinds:
            attrs["dtype"] = kinds.pop()
    return Attrs(attrs)


# Constructor arguments that the module keeps under another name.
_KEPT_AS: Final[Mapping[tuple[type, str], str]] = MappingProxyType(
    {(nn.PairwiseDistance, "p"): "norm", (nn.MultiheadAttention, "bias"): "in_proj_bias"}
)


def _read_argument(module: nn.Module, name: str) -> Any:
    kept = _KEPT_AS.get((type(module), name), name)
    if name == "bias":
        value = getattr(module, kept)
        if isinstance(value, bool):
            return value
        # A norm without affine parameters has no bias whatever it was told.
        return value is not None or getattr(module, "affine", True) is False
    if name == "add_bias_kv":
        return module.bias_k is not None
    return getattr(module, kept)


def constructor_attrs(spec: OpSpec, attrs: Attrs) -> dict[str, Any]:
    """Those of a module node's attributes that its constructor takes (and not its call)."""
    return {name: thaw(value) for name, value in attrs.items() if name not in spec.forward}


def split_call(record: Record) -> tuple[list[Any], dict[str, Any]]:
    """The positional and named arguments of a node's call, with :class:`Ref` for its inputs.

    For a module's node these are the arguments of its ``forward``. Symbols (``BatchSize``,
    ``Training``, ``InputDevice``) stay as they are.
    """
    return arrange_call(op_spec(record.op), record.attrs, record.inputs)
