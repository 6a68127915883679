"""Patterns of subgraphs, written as small PyTorch functions or modules.

A pattern is run once on terms instead of tensors; each call of torch on a term is a node to look
for, and each parameter of the function is any tensor.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from retiarii.errors import GraphError, nearest
from retiarii.ir.node import Node
from retiarii.ir.ops import OPS, bind_call, function_op, module_attrs, module_op, op_spec
from retiarii.ir.types import Attrs

Where = Callable[[Node], bool]


@dataclass(frozen=True, eq=False)
class Wildcard:
    """One operation of several, or, as an argument that is no tensor, any value.

    Attributes:
        ops: rows of the op table that it may be; empty for any.
        name: the pattern variable under which a match has the node.
        attrs: what its attributes must be.
        where: a further condition on the node.
    """

    ops: frozenset[str] = frozenset()
    name: str | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    where: Where | None = None

    def __call__(self, *inputs: Any) -> Term:
        """The result of such an operation; ``...`` last stands for any further inputs."""
        trace = next((t.trace for t in _flat(inputs) if isinstance(t, Term)), None)
        if trace is None:
            raise GraphError(
                "a wildcard was called without a tensor of the pattern",
                fix="call it with what the operation reads: rt.wildcard('Conv2d')(x)",
            )
        reads = _flat(inputs)
        rest = bool(reads) and reads[-1] is ...
        reads = reads[:-1] if rest else reads
        if not all(isinstance(t, Term) for t in reads):
            raise GraphError(
                "a wildcard takes only tensors of the pattern",
                fix="say its other arguments by name: rt.wildcard('Conv2d', stride=(1, 1))",
            )
        return trace.add(Term(trace, self.name, tuple(reads), wildcard=self, rest=rest))


def wildcard(
    *ops: str | type[nn.Module] | Callable[..., Any] | Iterable[Any],
    name: str | None = None,
    where: Where | None = None,
    **attrs: Any,
) -> Wildcard:
    """Any one of some operations in a pattern; any at all, where none are named.

    Args:
        ops: op names (``"Conv2d"``), layer classes, torch functions, or collections of these.
        name: the pattern variable: ``match["conv"]`` is the node.
        where: a further condition on the node.
        attrs: what its attributes must be (``kernel_size=(1, 1)``).

    Raises:
        GraphError: an operation that does not exist.
    """
    found: set[str] = set()
    for op in ops:
        several = isinstance(op, list | tuple | set | frozenset)
        found.update(map(_op_name, op if several else (op,)))  # type: ignore[arg-type]
    return Wildcard(frozenset(found), name, dict(Attrs(attrs)), where)


def _op_name(op: Any) -> str:
    if isinstance(op, str):
        if op in OPS:
            return op
        raise GraphError(f"no op is called {op!r}", fix=nearest(op, sorted(OPS)))
    name = module_op(op) if isinstance(op, type) else None
    match = function_op(op)
    if name is None and match is None:
        raise GraphError(
            f"{getattr(op, '__name__', op)!r} is no operation of torch",
            fix="name ops of the table, layer classes or torch functions",
        )
    return name or match.spec.name  # type: ignore[union-attr]


class Term:
    """What stands for a tensor while a pattern is run.

    Attributes:
        variable: the name of its node in a match; a parameter's name.
        inputs: the terms that it reads.
        op: the operation; ``None`` for a wildcard's or a parameter.
        attrs: the operation's other arguments.
        rest: further inputs may follow.
    """

    def __init__(
        self,
        trace: Trace,
        variable: str | None,
        inputs: tuple[Term, ...] = (),
        *,
        op: str | None = None,
        attrs: Mapping[str, Any] | None = None,
        wildcard: Wildcard | None = None,
        rest: bool = False,
        inferred: frozenset[str] = frozenset(),
    ) -> None:
        self.trace = trace
        self.variable = variable
        self.inputs = inputs
        self.op = op
        self.attrs = attrs or {}
        self.wildcard = wildcard
        self.rest = rest
        self.inferred = inferred

    @property
    def is_parameter(self) -> bool:
        return self.op is None and self.wildcard is None

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        return _called(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        method = getattr(torch.Tensor, name, None)
        if name.startswith("__") or method is None or function_op(method) is None:
            raise GraphError(
                f"a pattern uses .{name} of a tensor",
                fix="use operations of torch: a pattern has no shapes and no values",
            )
        return lambda *args, **kwargs: _called(method, (self, *args), kwargs)

    def __bool__(self) -> bool:
        raise GraphError("a pattern branches on a tensor", fix="write one pattern for each branch")

    def __iter__(self) -> Any:
        raise GraphError("a pattern takes a tensor apart", fix="use chunk or split, and one result")


def _operator(name: str) -> Callable[..., Any]:
    method = getattr(torch.Tensor, name)

    def call(*args: Any) -> Any:
        return _called(method, args, {})

    return call


_OPERATORS = (
    *("add", "radd", "sub", "rsub", "mul", "rmul", "truediv", "rtruediv", "matmul", "pow"),
    *("neg", "getitem", "floordiv", "mod"),
)
for _name in _OPERATORS:
    setattr(Term, f"__{_name}__", _operator(f"__{_name}__"))


def _called(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Term:
    match = function_op(func)
    name = getattr(func, "__name__", str(func))
    if match is None:
        raise GraphError(
            f"a pattern calls {name!r}, which has no row in the op table",
            fix="use rt.wildcard(...) there",
        )
    operands, attrs = bind_call(match.spec, args, kwargs, lambda v: isinstance(v, Term))
    trace: Trace = operands[0].trace
    attrs.pop("inplace", None)
    return trace.add(Term(trace, None, tuple(operands), op=match.spec.name, attrs=Attrs(attrs)))


@dataclass(eq=False)
class Trace:
    """The terms of one pattern, in the order made."""

    terms: list[Term] = field(default_factory=list)

    def add(self, term: Term) -> Term:
        self.terms.append(term)
        return term


@dataclass(frozen=True, eq=False)
class Pattern:
    """A pattern, run: what to look for.

    Attributes:
        parameters: the function's parameters, which any tensors match.
        terms: what must be nodes, in the order made, each with a variable of its own.
        output: the last of them.
    """

    parameters: tuple[Term, ...]
    terms: tuple[Term, ...]
    output: Term


def read_pattern(pattern: Any) -> Pattern:
    """Runs a pattern on terms.

    Args:
        pattern: a function of tensors, a module, or a Pattern already.

    Raises:
        GraphError: it does what a pattern cannot: branches on values, returns several tensors,
            calls what has no row.
    """
    if isinstance(pattern, Pattern):
        return pattern
    trace = Trace()
    function = pattern
    if isinstance(pattern, nn.Module):
        pattern = copy.deepcopy(pattern)
        for path, child in pattern.named_modules():
            _stand_in(child, path, trace)
        function = pattern.forward
    elif not callable(pattern):
        raise GraphError(
            f"a {type(pattern).__name__} is no pattern",
            fix="give a function of tensors, or a module",
        )
    declared = inspect.signature(function).parameters.values()
    names = [p.name for p in declared if p.default is p.empty]
    parameters = tuple(Term(trace, name) for name in names)
    output = function(*parameters)
    if not isinstance(output, Term) or output.is_parameter:
        raise GraphError(
            f"a pattern returns {type(output).__name__}, not the result of an operation",
            fix="return one tensor that the pattern computes",
        )
    needed = _needed(output)
    terms = tuple(t for t in trace.terms if t in needed)
    _name_all(terms, set(names))
    return Pattern(tuple(p for p in parameters if p in needed), terms, output)


def _stand_in(layer: nn.Module, path: str, trace: Trace) -> None:
    """Lets a layer of a pattern's module make a term, instead of computing."""
    op = module_op(type(layer))
    if op is None:
        return
    spec = op_spec(op)
    attrs = module_attrs(layer)
    # A width that follows from the input is not a part of what the pattern says.
    free = frozenset(spec.inferred)

    def forward(*inputs: Any) -> Term:
        reads = tuple(_flat(inputs))
        return trace.add(Term(trace, path or None, reads, op=op, attrs=attrs, inferred=free))

    layer.forward = forward


def _needed(output: Term) -> set[Term]:
    found: set[Term] = set()
    stack = [output]
    while stack:
        term = stack.pop()
        if term not in found:
            found.add(term)
            stack.extend(term.inputs)
    return found


def _name_all(terms: Iterable[Term], taken: set[str]) -> None:
    """Variables for what has none: the op's name, numbered."""
    terms = list(terms)
    for term in terms:
        if term.variable is not None:
            if term.variable in taken:
                raise GraphError(
                    f"two parts of a pattern are called {term.variable!r}",
                    fix="give each wildcard a name of its own",
                )
            taken.add(term.variable)
    for term in terms:
        if term.variable is None:
            wanted = term.op or "any"
            name, number = wanted, 0
            while name in taken:
                number += 1
                name = f"{wanted}_{number}"
            term.variable = name
            taken.add(name)


def _flat(values: Any) -> list[Any]:
    found: list[Any] = []
    for value in values:
        found += _flat(value) if isinstance(value, list | tuple) else [value]
    return found
